"""The report, the executed notebooks and the documentation as one static site.

    python -m report.site [--out build/site] [--report build/report]

Made of what ``report.build`` wrote and of the repository's Markdown: plain pages with one
navigation, no script and nothing from another host, so the folder can be opened from the disk or
published as it is. The build fails on a link that leads nowhere and on a picture without a text.
Beside them lies the shipped model as one HTML file (``lggseg export --html``), linked from the
navigation and the report; without npm, which brings its ONNX Runtime Web, the site has none.
"""

from __future__ import annotations

import argparse
import html
import posixpath
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lggseg.serving.standalone.export import export_html
from lggseg.utils.errors import DataError
from report import snapshots
from report.build import write
from report.checks import require_sound
from report.pages import page, to_html

ROOT = Path(__file__).resolve().parents[1]
# What the navigation shows, and where it lies in the site.
NAVIGATION = {
    "Start": "index.html",
    "Report": "report.html",
    "Notebooks": "notebooks/index.html",
    "Documentation": "docs/README.html",
    "Leaderboard": "docs/leaderboard.html",
    "Model card": "MODEL_CARD.html",
}
MODEL = ROOT / "models" / "lgg-unet"
# The model as one HTML file, and what the report says in place of a comment where it is there.
TOOL = "lgg.html"
COMMENT = "<!-- try it here -->"
# Markdown of the repository, and where each page lies.
PAGES = {
    "README.md": "index.html",
    "MODEL_CARD.md": "MODEL_CARD.html",
    "CONTRIBUTING.md": "CONTRIBUTING.html",
    "CHANGELOG.md": "CHANGELOG.html",
    "report/results/README.md": "report/results/README.html",
    "models/lgg-unet/README.md": "models/lgg-unet/README.html",
    "models/lgg-best/README.md": "models/lgg-best/README.html",
}


def sources() -> dict[str, str]:
    """Each Markdown file of the site, and where its page lies."""
    docs = sorted((ROOT / "docs").glob("*.md"))
    return PAGES | {f"docs/{path.name}": f"docs/{path.stem}.html" for path in docs}


def navigation(place: str, parts: Mapping[str, str] = NAVIGATION) -> str:
    """Links to the parts of the site, from the page at ``place``."""
    links = []
    for name, target in parts.items():
        here = ' aria-current="page"' if target == place else ""
        links.append(f'<a href="{relative(target, place)}"{here}>{name}</a>')
    return f'<header class="site"><b>lggseg</b>{"".join(links)}</header>'


def relative(target: str, place: str) -> str:
    """The way from the page at ``place`` to another of the site."""
    return posixpath.relpath(target, posixpath.dirname(place) or ".")


def retarget(body: str, source: str, place: str, out: Path) -> str:
    """The links of a Markdown file for its page: to a page of the site where there is one, else to
    a copy of the file; to a folder, as to its README. Raises ``RuntimeError``."""
    pages = sources()

    def turn(match: re.Match[str]) -> str:
        attribute, link = match.groups()
        if re.match(r"[a-z]+:|#", link):
            return match[0]
        path, mark, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        target = f"{target}/README.md" if f"{target}/README.md" in pages else target
        notebook = re.fullmatch(r"notebooks/(\w+)\.ipynb", target)
        if target in pages:
            goal = relative(pages[target], place)
        elif notebook and (snapshots.SNAPSHOTS / f"{notebook[1]}.ipynb").exists():
            goal = relative(f"notebooks/{notebook[1]}.html", place)
        else:
            if not (ROOT / target).is_file():
                raise RuntimeError(f"{source}: the link {link} leads to no file and no page")
            copy(ROOT / target, out / target)
            goal = relative(target, place)
        return f'{attribute}="{goal}{mark}{anchor}"'

    return re.sub(r'(href|src)="([^"]*)"', turn, body)


def copy(source: Path, target: Path) -> None:
    """A file into the site."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def document(source: str, place: str, out: Path, parts: Mapping[str, str]) -> str:
    """A page of one Markdown file of the repository, under links to the parts of the site."""
    text = re.sub(r"<!--.*?-->\n?", "", (ROOT / source).read_text(encoding="utf-8"), flags=re.S)
    body, _ = to_html(text)
    body = retarget(body, source, place, out)
    # A page has no captions of tables, so wide ones scroll by themselves.
    table = r'<div class="scroll" role="region" tabindex="0" aria-label="table">\1</div>'
    body = re.sub(r"(<table>.*?</table>)", table, body, flags=re.S)
    title = re.search(r"<h1[^>]*>(.*?)</h1>", body, re.S)
    name = re.sub(r"<[^>]+>", "", title[1]) if title else source
    head = navigation(place, parts)
    return page(html.unescape(name), head + f'<div class="document">{body}</div>')


def build(out: Path, report: Path, tool: Path | None = None) -> list[Path]:
    """Write the site into a folder; returns its pages.

    Args:
        out: The folder; what lay in it is replaced.
        report: What ``report.build`` wrote.
        tool: The model as one HTML file, to link to.

    Raises:
        RuntimeError: The report is missing, a link leads nowhere, a picture has no text.
    """
    if not (report / "report.html").exists():
        raise RuntimeError(f"{report}: found no report.html; expected the report. `make report`.")
    shutil.rmtree(out, ignore_errors=True)
    parts = NAVIGATION | ({"Try it here": TOOL} if tool else {})
    if tool:
        copy(tool, out / TOOL)
    texts = {out / p: document(source, p, out, parts) for source, p in sources().items()}
    for path in [report / "report.html", *sorted((report / "notebooks").glob("*.html"))]:
        place = path.relative_to(report).as_posix()
        main = '<main id="content"'
        # Within the page's own frame, before its text.
        text = path.read_text().replace(main, navigation(place, parts) + main, 1)
        link = f'(<a href="{TOOL}">try it here</a>)' if tool else ""
        texts[out / place] = text.replace(COMMENT, link)
    for path, text in texts.items():
        write(path, text)
    if (report / "report.pdf").exists():
        copy(report / "report.pdf", out / "report.pdf")
    require_sound(texts)
    return list(texts)


def main() -> None:
    """Build the site."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "report")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pages = build(options.out, options.report, make_tool(Path(folder)))
    print(f"{len(pages)} pages; open {options.out / 'index.html'}")


def make_tool(folder: Path) -> Path | None:
    """The shipped model as one HTML file in a folder; nothing, and a sentence, where that cannot
    be."""
    try:
        return export_html(MODEL, folder / TOOL)
    except DataError as error:
        print(f"The site has no page to try the model on. {error}")
        return None


if __name__ == "__main__":
    main()
