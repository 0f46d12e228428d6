"""The report and the model card: no number typed by hand, a sound page, snapshots up to date."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from bs4 import BeautifulSoup
from jinja2 import nodes
from tools import need

from lggseg.utils.errors import DataError
from report import build, checks, document, figures, formulas, pages, site, snapshots, svg, values

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = ("report.md", "model_card.md", "scaling.md", "leaderboard.md", "readme.md")
SECTIONS = [f"text/{path.name}" for path in (ROOT / "report" / "text").glob("*.md")]
SNAPSHOTS = sorted((ROOT / "report" / "notebooks").glob("*.ipynb"))


def typed_numbers(template: str) -> list[str]:
    """What a template says in digits of its own instead of by an expression over the results.

    In prose, captions and texts handed to expressions every number counts that does not follow a
    letter or stand in code, in a tag or in a link's target; ``95 %``, of an interval, is a name.
    In expressions every decimal number counts that is not compared with, and every printed
    expression that names nothing.
    """
    prose = re.sub(r"{{.*?}}|{%.*?%}|{#.*?#}", " ", template, flags=re.S)
    prose = re.sub(r"```.*?```|`[^`]*`|<[^>]*>|\]\([^)]*\)", " ", prose, flags=re.S)
    tree = document.environment().parse(template)
    keys = {id(node.arg) for node in tree.find_all(nodes.Getitem)}
    keys |= {id(operand.expr) for operand in tree.find_all(nodes.Operand)}
    constants = [node.value for node in tree.find_all(nodes.Const) if id(node) not in keys]
    texts = [prose, *(value for value in constants if isinstance(value, str))]
    number = re.compile(r"(?<![\w.])\d[\d.,]*(?:\s*%)?")
    found = [m[0] for text in texts for m in number.finditer(re.sub(r"95\s%", "", text))]
    found += [str(value) for value in constants if isinstance(value, float)]
    printed = [node for output in tree.find_all(nodes.Output) for node in output.nodes]
    return found + [
        str(node)
        for node in printed
        if not isinstance(node, nodes.TemplateData) and not list(node.find_all(nodes.Name))
        if not isinstance(node, nodes.Name)
    ]


@pytest.mark.parametrize("name", [*TEMPLATES, *SECTIONS])
def test_no_number_is_typed_by_hand(name: str) -> None:
    assert typed_numbers((ROOT / "report" / name).read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "The mean is 0.853.",
        "It fills 1 % of all pixels",
        "(p < 0.05)",
        "Over 70 patients",
        "{% call figure('leak') %}Mean Dice of 70 patients.{% endcall %}",
        "{{ figure('leak', alt='a mean of 0.8') }}",
        "{{ 0.853 | fixed }}",
        "{{ 87 }}",
        "{% set mean = 0.853 %}{{ mean | fixed }}",
    ],
)
def test_a_number_typed_by_hand_is_found(text: str) -> None:
    assert typed_numbers(text)


@pytest.mark.parametrize(
    "text",
    [
        "`batch 16`",
        "<li id='n7'>",
        "[here](results/05_x.json)",
        "HD95 and a 95 % interval",
        "{{ results.time['0.80'].wall | fixed(0) }}",
        "{% if x > 0.05 %}{{ results.scores[11] | fixed(2) }}{% endif %}",
    ],
)
def test_what_is_no_typed_number_passes(text: str) -> None:
    assert typed_numbers(text) == []


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    """What the templates can name."""
    return values.load_results()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_result_that_is_missing_is_an_error(name: str, loaded: dict[str, Any]) -> None:
    names = [name, *(SECTIONS if name == "report.md" else [])]
    text = "".join((ROOT / "report" / each).read_text() for each in names)
    for key in loaded["results"]:
        part = {**loaded, "results": {k: v for k, v in loaded["results"].items() if k != key}}
        used = re.search(rf"results\.{key}\b", text)
        optional = f"results.{key} is defined" in text
        if used and not optional:
            with pytest.raises(RuntimeError, match=rf"{name}: .*'{key}'.*report/results"):
                document.render(name, part)


def test_a_number_follows_its_results_file(loaded: dict[str, Any]) -> None:
    scores = {**loaded["results"]["cross_validation"]}
    scores["dice"] = {**scores["dice"], "mean": 0.1234}
    changed = {**loaded, "results": {**loaded["results"], "cross_validation": scores}}
    assert "0.123 (" in document.render("model_card.md", changed)


@pytest.mark.parametrize("path", build.PAGES, ids=lambda path: path.name)
def test_a_page_of_the_repository_is_up_to_date(path: Path, loaded: dict[str, Any]) -> None:
    text = document.render(build.PAGES[path], loaded)
    assert path.read_text() == text, f"run `make report` and commit {path.name}"


def test_the_readme_is_up_to_date(loaded: dict[str, Any]) -> None:
    assert build.README.read_text() == build.readme(loaded), "run `make report`, commit README.md"


@pytest.mark.parametrize("path", build.PAGES, ids=lambda path: path.name)
def test_links_of_a_page_of_the_repository_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", path.read_text()):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (document.fixed(3107.2, 0), "3,107"),
        (document.signed(-0.0184), "−0.018"),
        (
            document.interval({"mean": 0.8534, "low": 0.8282, "high": 0.8718}),
            "0.853 (0.828 to 0.872)",
        ),
        (document.published(0.9), "0.90"),
        (document.published(0.839), "0.839"),
        (document.published(None), ""),
        (document.percent(0.01027, 1), "1.0 %"),
        (document.p_value(0.000295), "p = 0.0003"),
        (document.p_value(0.04675), "p = 0.047"),
        (document.p_value(0.243), "p = 0.24"),
        (document.p_value(1e-7), "p < 0.0001"),
        (document.duration(48.2), "48 seconds"),
        (document.duration(250.8), "4.2 minutes"),
        (document.duration(1620), "27 minutes"),
    ],
)
def test_filters(value: str, text: str) -> None:
    assert value.replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, loaded: dict[str, Any]) -> Path:
    """The report, built from a clean start."""
    return build.build_report(loaded, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def soup(page: Path) -> BeautifulSoup:
    """The same, parsed."""
    return BeautifulSoup(page.read_text(), "html.parser")


def test_the_html_file_is_described_by_its_measurement(loaded: dict[str, Any]) -> None:
    without = {key: value for key, value in loaded["results"].items() if key != "html_file"}
    text = document.render("report.md", {**loaded, "results": without})
    assert "Its size and times were not measured." in text
    patient = {"slices": 40, "seconds": 12.3, "python_seconds": 6.5, "different_share": 2e-5}
    measured = {
        "megabytes": 19.3,
        "start_seconds": 0.42,
        "engine": "wasm",
        "machine": {"cores": 2},
        "requests_beyond_the_file": [],
        "patients": [patient, {**patient, "different_share": 0.0}],
    }
    results = {**without, "html_file": measured}
    text = document.render("report.md", {**loaded, "results": results})
    text = " ".join(text.split())
    assert "19.3 MB and opened in 0.4 seconds" in text and "By WebAssembly" in text
    assert "asked for nothing beyond itself" in text and "at most 0.002" in text


def test_the_page_is_one_file(soup: BeautifulSoup) -> None:
    assert not soup.find_all(["script", "iframe", "link", "object", "embed"])
    assert all(image["src"].startswith("data:image/") for image in soup.find_all("img"))
    fonts = re.findall(r"url\(([^)]{0,20})", soup.style.string)
    assert fonts and all(font.startswith("data:font/woff2") for font in fonts)


def test_links_within_the_page_lead_somewhere(soup: BeautifulSoup) -> None:
    ids = [tag["id"] for tag in soup.find_all(id=True)]
    assert [name for name in set(ids) if ids.count(name) > 1] == []
    links = [link["href"] for link in soup.find_all("a")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert all(link.startswith(("#", "https://")) for link in links)


def test_pictures_are_described_and_slices_marked_as_simulated(soup: BeautifulSoup) -> None:
    for figure in soup.find_all("figure"):
        drawings = figure.find_all("svg", role="img")
        assert len(figure.figcaption.get_text()) > 60
        assert [drawing.parent["class"] for drawing in drawings] == [["wide"], ["narrow"]]
        assert all(len(drawing["aria-label"]) >= 40 for drawing in drawings)
        if figure["id"] in {picture.__name__ for picture in figures.PICTURES}:
            assert "simulated" in figure.figcaption.get_text()


def test_letters_of_figures_are_large_enough(soup: BeautifulSoup) -> None:
    """At least 8 pixels where they are read: a drawing is never wider than its column."""
    for drawing in soup.select("figure svg[role=img]"):
        width = float(re.search(r"width:(\d+)px", drawing["style"])[1])
        assert width <= (649 if drawing.parent["class"] == ["wide"] else 343)
        box = float(drawing["viewbox"].split()[2])
        letters = [text for text in drawing.find_all(["text", "tspan"]) if text.has_attr("style")]
        assert len(letters) >= len(drawing.find_all("text"))
        for text in letters:
            size = float(re.search(r"font-size: ([\d.]+)px", text["style"])[1])
            assert size * width / box >= 8, text
            assert "var(--sans)" in text["style"]


def test_headings_skip_no_level(soup: BeautifulSoup) -> None:
    levels = [int(tag.name[1]) for tag in soup.find_all(re.compile(r"^h\d$"))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_tables_have_captions_and_full_rows(soup: BeautifulSoup) -> None:
    for table in soup.find_all("table"):
        assert table.find_previous("p", class_="caption").b.get_text().startswith("Table")
        columns = {len(row.find_all(["td", "th"])) for row in table.find_all("tr")}
        assert len(columns) == 1, table
    assert "|" not in soup.main.get_text()


def test_no_markup_is_left_over(soup: BeautifulSoup) -> None:
    assert not re.findall(r"\*\*|{{|}}|nan\b|None\b|##", soup.main.get_text())


def test_every_section_of_the_texts_is_in_the_contents(soup: BeautifulSoup) -> None:
    """Also one whose text follows on a figure, which ends without an empty line."""
    texts = "\n".join((ROOT / "report" / name).read_text() for name in SECTIONS)
    titles = re.findall(r"^## (.*)", texts, re.M)
    assert sorted(link.get_text() for link in soup.nav.find_all("a")) == sorted(titles)


def test_names_and_numbers_are_not_broken() -> None:
    body = '<p title="U-Net">nnU-Nets of DU 7299 at 95 % and 0.84 ± 0.02, --pictures</p>'
    assert build.whole_names(body) == (
        '<p title="U-Net"><span class="n">nnU-Nets</span> of <span class="n">DU 7299</span> '
        'at 95&nbsp;% and 0.84&nbsp;±&nbsp;0.02, <span class="n">--pictures</span></p>'
    )


def test_formulas_are_drawn_and_put_into_words(soup: BeautifulSoup) -> None:
    drawn = soup.select(".formula svg[role=img]")
    assert len(drawn) == len(formulas.FORMULAS)
    assert all(len(each["aria-label"]) >= 40 and "\\" not in each["aria-label"] for each in drawn)


def test_the_same_results_give_the_same_bytes() -> None:
    once, again = (figures.draw(["leak.svg"], Path()) for _ in range(2))
    assert once == again


def test_a_drawing_takes_the_colours_of_the_page() -> None:
    files = figures.draw(["leak.svg"], Path())
    element = svg.as_element(files["leak-wide.svg"].decode(), "leak-wide", "A text &amp; more")
    assert "var(--blue)" in element and "var(--text)" in element
    assert "#0072b2" not in element.lower() and 'aria-label="A text &amp; more"' in element
    ids = re.findall(r'id="([^"]+)"', element)
    assert ids and all(each.startswith("leak-wide-") for each in ids)


def test_an_unknown_figure_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        figures.draw(["nothing.svg"], Path())


def planted(loaded: dict[str, Any], name: str, change: dict[str, Any]) -> dict[str, Any]:
    """The results with one file changed."""
    results = {**loaded["results"], name: {**loaded["results"][name], **change}}
    return {**loaded, "results": results}


def test_the_results_are_those_of_the_shipped_model(loaded: dict[str, Any]) -> None:
    checks.require_fresh(loaded)


def test_a_planted_stale_result_fails_the_build(loaded: dict[str, Any], tmp_path: Path) -> None:
    recipe = loaded["results"]["patient_split"]["recipe"]
    older = {"config": {**recipe["config"], "width": 7}, "differs": recipe["differs"]}
    stale = planted(loaded, "patient_split", {"recipe": older})
    with pytest.raises(checks.Stale, match=r"patient_split.json: .*width was 7, is \d+"):
        build.build_report(stale, tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["patient_split", "cohort", "cross_validation", "gpu"])
def test_results_of_other_data_are_stale(name: str, loaded: dict[str, Any]) -> None:
    if "data_fingerprint" not in loaded["results"][name]:
        pytest.skip("carries no fingerprint")
    with pytest.raises(checks.Stale, match=rf"{name}.json: measured on the data 0123"):
        checks.require_fresh(planted(loaded, name, {"data_fingerprint": "0123"}))


@pytest.mark.parametrize("name", ["cross_validation", "test", "best_cross_validation", "best_test"])
def test_a_summary_of_another_model_is_stale(name: str, loaded: dict[str, Any]) -> None:
    dice = {**loaded["results"][name]["dice"], "mean": 0.9}
    with pytest.raises(checks.Stale, match=rf"{name}.json: dice is not that of the model's card"):
        checks.require_fresh(planted(loaded, name, {"dice": dice}))


def test_groups_of_an_older_table_are_stale(loaded: dict[str, Any]) -> None:
    rows = [{**row, "mean": 0.5} for row in loaded["results"]["groups"]["groups"]]
    with pytest.raises(checks.Stale, match=r"groups.json: .* not those of test.csv"):
        checks.require_fresh(planted(loaded, "groups", {"groups": rows}))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<a href='#nowhere'>a</a>", "the link #nowhere leads nowhere"),
        ("<a href='none.html'>a</a>", "the link none.html leads nowhere"),
        ("<img src='data:,' alt=''>", "a picture whose text does not say"),
        ("<img src='data:,'>", "a picture whose text does not say"),
        ("<svg role='img' aria-label='Figure'></svg>", "a picture whose text does not say"),
        ("<p>## Results</p>", "a heading that was not read as one: '## Results'"),
    ],
)
def test_a_planted_fault_fails_the_build(body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=message):
        checks.require_sound({tmp_path / "page.html": body})


def test_a_figure_without_a_text_fails_the_build() -> None:
    with pytest.raises(RuntimeError, match="figure leak: found the text 'x'"):
        document.Document().figure("leak", "x", lambda: "caption")


def test_an_unknown_formula_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="found no formula 'no'"):
        document.Document().formula("no")


@pytest.fixture(scope="module")
def built_site(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site around the report."""
    build.build_notebooks(page.parent / "notebooks")
    out = tmp_path_factory.mktemp("site") / "site"
    tool = out.with_name("tool")
    tool.write_text("<html>the model")
    site.build(out, page.parent, tool)
    return out


def test_the_site_has_one_navigation_and_needs_no_network(built_site: Path) -> None:
    found = sorted(set(built_site.rglob("*.html")) - {built_site / site.TOOL})
    assert {"index.html", "report.html", "README.html", "leaderboard.html"} <= {
        p.name for p in found
    }
    for path in found:
        text = path.read_text()
        soup = BeautifulSoup(text, "html.parser")
        links = [link["href"] for link in soup.find("header", class_="site").find_all("a")]
        assert len(links) == len(site.NAVIGATION) + 1
        assert not soup.find_all(["script", "iframe", "link"])
        assert not re.search(r'src="http|url\(http', text)


def test_the_report_links_to_the_page_to_try(built_site: Path, page: Path, tmp_path: Path) -> None:
    report = BeautifulSoup((built_site / "report.html").read_text(), "html.parser")
    links = [link["href"] for link in report.find_all("a", string=re.compile("(?i)try it here"))]
    assert links == [site.TOOL] * 2
    assert (built_site / site.TOOL).read_text() == "<html>the model"
    site.build(tmp_path / "site", page.parent)
    without = (tmp_path / "site" / "report.html").read_text()
    assert "try it here" not in without.lower() and not (tmp_path / "site" / site.TOOL).exists()


def test_without_npm_the_site_is_built_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> Path:
        raise DataError("onnxruntime-web", "no npm to fetch it with", "npm", "Install Node.js.")

    monkeypatch.setattr(site, "export_html", refuse)
    assert site.make_tool(tmp_path) is None
    assert "no page to try the model on. onnxruntime-web: found no npm" in capsys.readouterr().out


def test_a_broken_link_fails_the_site(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"README.md: the link none.md leads to no file"):
        site.retarget('<a href="none.md">a</a>', "README.md", "index.html", tmp_path)


def test_a_site_without_a_report_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"found no report.html.*make report"):
        site.build(tmp_path / "site", tmp_path)
    assert not (tmp_path / "site").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    path = shutil.which("chromium")
    need("chromium", path is not None)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_in_a_browser(browser: Any, page: Path, width: int, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
    )
    tab, requests, said = context.new_page(), [], []
    tab.on("request", lambda request: requests.append(request.url[:60]))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(page.as_uri())
    assert [url for url in requests if not url.startswith(("data:", "file:"))] == []
    assert said == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    shown = "[...document.querySelectorAll('figure svg[role]')].filter(e => e.clientWidth).length"
    assert tab.evaluate(shown) * 2 == tab.evaluate(
        "document.querySelectorAll('figure svg[role]').length"
    )
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert tab.evaluate(broken) == 0
    assert tab.evaluate("document.fonts.check('16px \"Source Serif 4\"')")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(browser: Any, page: Path, scheme: str) -> None:
    """Contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3) between each text and the page."""
    context = browser.new_context(color_scheme=scheme)
    tab = context.new_page()
    tab.goto(page.as_uri())
    colours = tab.evaluate(
        "[...new Set([...document.querySelectorAll('p,a,li,b,td,th,h1,h2,figcaption,code,svg')]"
        ".map(e => getComputedStyle(e).color)), getComputedStyle(document.body).backgroundColor]"
    )
    *texts, ground = (luminance(colour) for colour in colours)
    for text in texts:
        high, low = max(text, ground), min(text, ground)
        assert (high + 0.05) / (low + 0.05) >= 4.5
    context.close()


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` (WCAG 2.2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.slow
def test_pdf(page: Path, tmp_path: Path) -> None:
    need("chromium", shutil.which("chromium") is not None)
    target = tmp_path / "report.pdf"
    assert pages.print_pdf(page, target)
    data = target.read_bytes()
    assert data.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", data)) >= 5


def test_without_a_browser_there_is_no_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages.shutil, "which", lambda name: None)
    assert not pages.print_pdf(tmp_path / "report.html", tmp_path / "report.pdf")
    assert not (tmp_path / "report.pdf").exists()


def executed_notebook(data: Path) -> nbformat.NotebookNode:
    """What papermill leaves, in small."""
    notebook = nbformat.v4.new_notebook()
    output = nbformat.v4.new_output
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# 01 · Explore\n\n**What is there?**\n\n[next](02_a.ipynb)"),
        nbformat.v4.new_markdown_cell("[words](../docs/glossary.md#images)"),
        nbformat.v4.new_code_cell("DATA = ''", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(f"DATA = {data!s}", metadata={"tags": ["injected-parameters"]}),
        nbformat.v4.new_code_cell(
            "show()",
            metadata={"papermill": {"duration": 1.5}},
            execution_count=3,
            outputs=[
                output("stream", name="stdout", text=f"in {ROOT}/runs and {Path.home()}/x\n"),
                output("stream", name="stderr", text="a warning"),
                output("stream", name="stdout", text="Epoch 0: 9%|█  | 2/22 [00:01<00:09]\r\n"),
                output("display_data", data={snapshots.WIDGET: {}, "text/plain": "bar"}),
                output("display_data", data={"image/png": "aGk="}),
            ],
        ),
    ]
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python", "language": "python"},
        "language_info": {"name": "python"},
        "papermill": {"parameters": {"DATA": str(data)}},
    }
    return notebook


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    """A folder of one executed notebook, on a tree that says that it is simulated."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "simulated.json").write_text("{}")
    (tmp_path / "executed").mkdir()
    nbformat.write(executed_notebook(tmp_path / "tree"), tmp_path / "executed" / "01_a.ipynb")
    return tmp_path / "executed"


def test_a_snapshot_keeps_source_and_content_alone(executed: Path, tmp_path: Path) -> None:
    [path] = snapshots.take(executed, tmp_path / "kept")
    notebook = nbformat.read(path, 4)
    words, *code = [cell.source for cell in notebook.cells][1:]
    assert words == "[words](../../docs/glossary.md#images)" and code == ["DATA = ''", "show()"]
    text, picture = notebook.cells[-1].outputs
    assert text.text == "in runs and ~/x\n" and "image/png" in picture.data
    assert "papermill" not in path.read_text() and notebook.cells[-1].execution_count == 3


def test_no_snapshot_of_real_patients(executed: Path, tmp_path: Path) -> None:
    (tmp_path / "tree" / "simulated.json").unlink()
    with pytest.raises(DataError, match=r"01_a.ipynb.*executed on the simulated cohort"):
        snapshots.take(executed, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_pages_of_snapshots(executed: Path, tmp_path: Path) -> None:
    snapshots.take(executed, tmp_path / "kept")
    (name, title, body), (words, *_), (index, _, listed) = snapshots.pages(tmp_path / "kept")
    assert (name, title) == ("01_a.html", "01 · Explore")
    assert (words, index) == ("glossary.html", "index.html")
    picture = BeautifulSoup(body, "html.parser").img
    assert picture["src"] == "data:image/png;base64,aGk=" and "01 · Explore" in picture["alt"]
    assert (
        'href="02_a.html"' in body and 'href="01_a.html"' in listed and "What is there?" in listed
    )
    assert 'href="glossary.html#images"' in body
    whole = pages.page(title, body, style=snapshots.highlighting())
    assert not re.search(r'<(script|link)|src="http', whole)


@pytest.mark.skipif(not SNAPSHOTS, reason="no snapshots yet: make notebooks")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_notebook_in_a_browser(browser: Any, tmp_path: Path, width: int) -> None:
    """On a dark page pictures are dimmed; on a narrow one they scroll instead of shrinking, so that
    their text stays legible; on a wide one no formula is cut off."""
    shutil.copy(ROOT / "report" / "notebooks" / "01_explore_data.ipynb", tmp_path)
    (_, title, body), *_ = snapshots.pages(tmp_path)
    build.write(tmp_path / "01.html", pages.page(title, body, style=snapshots.highlighting()))
    viewport = {"width": width, "height": 800}
    tab = browser.new_page(viewport=viewport, color_scheme="dark")
    tab.goto((tmp_path / "01.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    looks = tab.evaluate(
        "[...document.images].map(i => [getComputedStyle(i).filter, i.width / i.naturalWidth])"
    )
    assert looks and all(dimmed == "brightness(0.8)" for dimmed, _ in looks)
    assert min(scale for _, scale in looks) > (0.99 if width < 640 else 0.9)
    cut = "[...document.querySelectorAll('.formula')].filter(f => f.scrollWidth > f.clientWidth)"
    assert width < 640 or tab.evaluate(f"{cut}.length") == 0
    tab.close()


@pytest.mark.skipif(not SNAPSHOTS, reason="no snapshots yet: make notebooks")
def test_snapshots_are_those_of_the_notebooks() -> None:
    names = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {path.name for path in SNAPSHOTS} == names
    for path in SNAPSHOTS:
        kept, source = (nbformat.read(p, 4) for p in (path, ROOT / "notebooks" / path.name))
        for cell in source.cells:
            if cell.cell_type == "markdown":
                cell.source = snapshots.one_deeper(cell.source)
        cells = [[(cell.cell_type, cell.source) for cell in book.cells] for book in (kept, source)]
        assert cells[0] == cells[1], f"{path.name} is out of date: make notebooks"
        code = [cell for cell in kept.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code), path.name


@pytest.mark.skipif(not SNAPSHOTS, reason="no snapshots yet: make notebooks")
def test_snapshots_are_small_and_name_no_machine() -> None:
    assert sum(path.stat().st_size for path in SNAPSHOTS) <= 8 * 2**20
    for path in SNAPSHOTS:
        assert not re.search(r"/(tmp|home|root|work|Users)/", path.read_text()), path.name
