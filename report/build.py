"""Build what people read: the report as one HTML file and a PDF, pages of the executed notebooks,
MODEL_CARD.md and docs/scaling.md.

    python -m report.build [--out build/report]

The text lies in Markdown templates, report.md, model_card.md and scaling.md. Every number in them
is an expression over the files in results/, so that it cannot differ from what was measured; an
unknown name is an error. Pictures of slices are of the simulated cohort.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import mimetypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import mistune
import pandas as pd
from mistune.toc import add_toc_hook

from lggseg.evaluation.statistics import compare_all, compare_paired
from lggseg.utils.files import replace_file
from report import figures, snapshots

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Pages of the repository that are made here, and their templates.
PAGES = {ROOT / "MODEL_CARD.md": "model_card.md", ROOT / "docs" / "scaling.md": "scaling.md"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def load_results(folder: Path = HERE / "results") -> dict[str, Any]:
    """What templates can name.

    ``results``: each JSON file, ``tables``: each CSV file as a data frame, both by the file's
    name without a notebook's number and ``-full``; ``failures``: what the worst patients' images
    look like; ``test_pairs``: the networks compared on the test patients; ``longer``: the Attention
    UNet less the UNet, both after all epochs; ``model``: the committed model's card;
    ``prices``: those of AWS that the package brings, if any.
    """
    names = {path: re.sub(r"^\d+_|-full$", "", path.stem) for path in sorted(folder.iterdir())}
    prices = ROOT / "src/lggseg/cloud/prices.json"
    tables = {n: pd.read_csv(p) for p, n in names.items() if p.suffix == ".csv"}
    test = tables["comparison_test"].pivot(index="patient", columns="model", values="dice")
    return {
        "results": {n: json.loads(p.read_text()) for p, n in names.items() if p.suffix == ".json"},
        "tables": tables,
        "failures": json.loads((HERE / "failures.json").read_text()),
        "test_pairs": compare_all(test).to_dict("records"),
        "longer": compare_paired(*_after_all_epochs(tables)),
        "model": json.loads((ROOT / "models/lgg-unet/model_card.json").read_text()),
        "prices": json.loads(prices.read_text()) if prices.exists() else None,
    }


def _after_all_epochs(tables: dict[str, pd.DataFrame]) -> list[pd.Series]:
    """Dice of the Attention UNet and of the UNet, over the patients of the former."""
    names = ("attention_40_epochs", "cross_validation")
    attention, unet = (tables[name].set_index("patient")["dice"] for name in names)
    return [attention, unet[attention.index]]


def fixed(value: float, digits: int = 3) -> str:
    """``0.8534`` → ``0.853``, ``3107.2`` with 0 digits → ``3,107``; with a real minus sign."""
    return f"{value:z,.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """``0.1446`` → ``+0.145``, with a real minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def interval(summary: Mapping[str, float], digits: int = 3) -> str:
    """A mean with its interval: ``0.853 (0.828 to 0.872)``."""
    mean, low, high = (fixed(summary[key], digits) for key in ("mean", "low", "high"))
    return f"{mean} ({low}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{high})"


def published(value: float | None) -> str:
    """A number of others as they print it, with at least two digits; nothing for ``None``."""
    return "" if value is None else max(f"{value:.2f}", str(value), key=len)


def percent(share: float, digits: int = 0) -> str:
    """``0.0103`` → ``1 %``, with a space that does not break."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def p_number(p: float) -> str:
    """``0.0003``, ``0.047``, ``0.24``, ``< 0.0001``."""
    if p < 0.0001:
        return "<\N{NO-BREAK SPACE}0.0001"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.{1 if p < 0.01 else 2}g}"


def p_value(p: float) -> str:
    """``p = 0.0003``, ``p < 0.0001``."""
    number = p_number(p)
    sign = "" if number.startswith("<") else "= "
    return f"p {sign}{number}".replace(" ", "\N{NO-BREAK SPACE}")


def duration(seconds: float) -> str:
    """``48 seconds``, ``4.2 minutes``, ``27 minutes``."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    minutes = seconds / 60
    return f"{minutes:.1f} minutes" if minutes < 10 else f"{minutes:.0f} minutes"


FILTERS: dict[str, Callable[..., str]] = {
    call.__name__: call
    for call in (fixed, signed, interval, published, percent, p_number, p_value, duration)
}


class Document:
    """What a template may call while it is rendered: figures, tables and references, numbered in
    the order in which the text names them."""

    def __init__(self) -> None:
        self.references = json.loads((HERE / "references.json").read_text())
        self.cited: list[str] = []
        self.numbers: dict[str, dict[str, int]] = {"Figure": {}, "Table": {}}

    def label(self, kind: str, name: str) -> str:
        numbers = self.numbers[kind]
        return f"{kind}\N{NO-BREAK SPACE}{numbers.setdefault(name, len(numbers) + 1)}"

    def figure(self, name: str, alt: str, caller: Callable[[], str], kind: str = "svg") -> str:
        """A figure drawn by ``report.figures``, with the caption between ``call`` and
        ``endcall``."""
        caption = self._caption("Figure", name, caller())
        picture = f'<img src="{name}.{kind}" alt="{html.escape(alt)}">'
        region = f'role="region" tabindex="0" aria-label="{self.label("Figure", name)}"'
        scroll = f'<div class="scroll" {region}>{picture}</div>'
        return f'\n<figure id="{name}">{scroll}<figcaption>{caption}</figcaption></figure>\n'

    def table(self, name: str, caller: Callable[[], str]) -> str:
        """The caption of the Markdown table that follows."""
        return f'\n<p class="caption" id="{name}">{self._caption("Table", name, caller())}</p>\n'

    def _caption(self, kind: str, name: str, text: str) -> str:
        rendered = str(mistune.html(" ".join(text.split()))).strip()
        inner = rendered.removeprefix("<p>").removesuffix("</p>")
        return f"<b>{self.label(kind, name)}.</b> {inner}"

    def see(self, kind: str, name: str) -> str:
        """A link to a figure or table."""
        return f'<a href="#{name}">{self.label(kind, name)}</a>'

    def cite(self, *keys: str) -> str:
        """Links to references."""
        self.cited += keys
        links = (f'<a href="#{key}">{self.references[key]["short"]}</a>' for key in keys)
        return f'<span class="cite">{"; ".join(links)}</span>'

    def bibliography(self) -> str:
        """All references cited so far, as a list."""
        items = []
        for key in sorted(set(self.cited)):
            entry = self.references[key]
            link = f' <a href="{entry["url"]}">{entry["url"]}</a>' if "url" in entry else ""
            items.append(f'<li id="{key}">{html.escape(entry["text"])}{link}</li>')
        return f'\n<ul class="references">{"".join(items)}</ul>\n'

    def names(self) -> dict[str, Callable[..., str]]:
        """What the template sees of this."""
        calls = (self.figure, self.table, self.see, self.cite, self.bibliography)
        return {call.__name__: call for call in calls}


def environment() -> jinja2.Environment:
    """Templates beside this file; a name that the results lack is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(FILTERS, zip=zip)
    return made


def render(template: str, values: Mapping[str, Any]) -> str:
    """A template with its numbers; raises ``RuntimeError`` that names what the results lack."""
    try:
        return environment().get_template(template).render({**values, **Document().names()})
    except jinja2.UndefinedError as error:
        raise RuntimeError(
            f"report/{template}: {error.message}, expected it in report/results. "
            "Run what report/results/README.md names for that file."
        ) from error


def to_html(markdown: str) -> tuple[str, list[tuple[str, str]]]:
    """Markdown as HTML, and the id and title of each section."""
    convert = mistune.create_markdown(escape=False, plugins=["table"])
    add_toc_hook(convert, 2, 3, heading_id=lambda token, _: _slug(token["text"]))
    body, state = convert.parse(markdown)
    sections = [(slug, title) for level, slug, title in state.env["toc_items"] if level == 2]
    return _scrolling_tables(str(body)), sections


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _scrolling_tables(body: str) -> str:
    """Each table in a region of its own, which scrolls where the screen is narrow."""
    region = '<div class="scroll" role="region" tabindex="0" aria-labelledby="{}">{}</div>'
    return re.sub(
        r'(<p class="caption" id="([\w-]+)">.*?</p>)\s*(<table>.*?</table>)',
        lambda m: f'<div class="table">{m[1]}{region.format(m[2], m[3])}</div>',
        body,
        flags=re.S,
    )


def embed(page: str, files: Mapping[str, bytes]) -> str:
    """The page with each picture in it, so that it is one file; raises ``KeyError`` for a picture
    that was not drawn."""

    def inline(match: re.Match[str]) -> str:
        kind, _ = mimetypes.guess_type(match[1])
        return f'src="data:{kind};base64,{base64.b64encode(files[match[1]]).decode()}"'

    return re.sub(r'src="(?!data:)([^"]+)"', inline, page)


def contents(sections: list[tuple[str, str]]) -> str:
    """Links to the sections."""
    links = (f'<li><a href="#{slug}">{title}</a></li>' for slug, title in sections)
    return f'<nav aria-label="Contents"><p>Contents</p><ol>{"".join(links)}</ol></nav>'


def page(title: str, body: str, *, numbered: bool = False, style: str = "") -> str:
    """A whole page: ``page.html`` with the style sheet, its fonts and ``style`` inside."""

    def font(match: re.Match[str]) -> str:
        data = base64.b64encode((HERE / match[1]).read_bytes()).decode()
        return f"url(data:font/woff2;base64,{data})"

    sheet = re.sub(r"url\(([^)]+)\)", font, (HERE / "style.css").read_text())
    values = {"title": title, "style": sheet + style, "body": body, "numbered": numbered}
    return environment().get_template("page.html").render(values)


def print_pdf(page: Path, target: Path) -> bool:
    """Print a page by headless Chromium; ``False`` where none is found. Raises ``RuntimeError``
    with what the browser said when it fails."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return False
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        made = Path(folder) / "page.pdf"
        command = [browser, "--headless", f"--user-data-dir={folder}/profile", "--disable-gpu"]
        command += ["--no-pdf-header-footer", "--generate-pdf-document-outline"]
        command += ["--font-render-hinting=none"]  # letters stand where the font has them
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium's sandbox does not work as root
        command += [f"--print-to-pdf={made}", page.resolve().as_uri()]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120).stderr
        if not made.exists():
            raise RuntimeError(f"{browser} printed no PDF: {said[-1000:]}")
        replace_file(target, lambda part: shutil.copyfile(made, part))
    return True


def write(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))
    print(path)


def build_report(values: Mapping[str, Any], out: Path) -> Path:
    """Write ``report.html`` into a folder; returns the file."""
    body, sections = to_html(render("report.md", values))
    body = body.replace("<!-- contents -->", contents(sections))
    wanted = re.findall(r'<img src="([^"]+)"', body)
    body = embed(body, figures.draw(wanted, out))
    path = out / "report.html"
    write(path, page("Lower-grade glioma in brain MRI", body, numbered=True))
    return path


def build_notebooks(out: Path) -> None:
    """Write a page for each executed notebook and their index into a folder."""
    style = snapshots.highlighting()
    for name, title, body in snapshots.pages():
        write(out / name, page(title, body, style=style))


def main() -> None:
    """Build everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "report")
    out = parser.parse_args().out
    values = load_results()
    for path, template in PAGES.items():
        write(path, render(template, values))
    if snapshots.SNAPSHOTS.exists():
        build_notebooks(out / "notebooks")
    report = build_report(values, out)
    if print_pdf(report, report.with_suffix(".pdf")):
        print(report.with_suffix(".pdf"))
    else:
        print(
            "No Chromium was found, so there is no PDF: install it (apt install chromium), or "
            "print report.html from any browser."
        )


if __name__ == "__main__":
    main()
