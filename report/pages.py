"""Pages as people read them: Markdown as HTML, figures inside, one style sheet, and a PDF."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mistune
from mistune.toc import add_toc_hook

from lggseg.utils.files import replace_file
from report.document import environment
from report.svg import as_element

HERE = Path(__file__).resolve().parent
# A cell that holds a number, perhaps with its interval, share or range: it is never broken.
NUMBER = re.compile(
    r"<td([^>]*)>((?:&lt;|&gt;|<|>)?\s?[−+]?\d[\d.,]*(?:\s?%)?(?:\s(?:of|to)\s\d[\d.,]*)?"
    r"(?:\s\([^)<]*\))?|–)</td>"
)
AUTHOR = "The lggseg authors"  # as CITATION.cff names them
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def to_html(markdown: str) -> tuple[str, list[tuple[str, str]]]:
    """Markdown as HTML, and the id and title of each section."""
    convert = mistune.create_markdown(escape=False, plugins=["table"])
    taken = set(re.findall(r'\bid="([\w-]+)"', markdown))  # of figures and tables

    def name(token: dict[str, Any], _: int) -> str:
        slug = re.sub(r"\W+", "-", token["text"].lower()).strip("-")
        return f"section-{slug}" if slug in taken else slug

    add_toc_hook(convert, 2, 3, heading_id=name)
    body, state = convert.parse(markdown)
    sections = [(slug, title) for level, slug, title in state.env["toc_items"] if level == 2]
    return _scrolling_tables(str(body)), sections


def _scrolling_tables(body: str) -> str:
    """Each table in a region of its own, which scrolls where the screen is narrow."""
    region = '<div class="scroll" role="region" tabindex="0" aria-labelledby="{}">{}</div>'

    def wrap(match: re.Match[str]) -> str:
        caption, name, table = match.groups()
        table = NUMBER.sub(r'<td class="n"\1>\2</td>', table)
        return f'<div class="table">{caption}{region.format(name, table)}</div>'

    pattern = r'(<p class="caption" id="([\w-]+)">.*?</p>)\s*(<table>.*?</table>)'
    return re.sub(pattern, wrap, body, flags=re.S)


def embed(page: str, files: Mapping[str, bytes]) -> str:
    """The page with each picture in it, so that it is one file.

    Each was drawn for a wide and for a narrow screen; a drawing (SVG) becomes part of the page.
    Raises ``KeyError`` for a picture that was not drawn.
    """

    def inline(match: re.Match[str]) -> str:
        (stem, _, kind), alt = match[1].partition("."), match[2]
        drawn = {size: files[f"{stem}-{size}.{kind}"] for size in ("wide", "narrow")}
        if kind == "svg":
            return "".join(
                f'<div class="{size}">{as_element(file.decode(), f"{stem}-{size}", alt)}</div>'
                for size, file in drawn.items()
            )
        data = {n: f"data:image/{kind};base64,{b64encode(f).decode()}" for n, f in drawn.items()}
        source = f'<source media="(max-width: 43rem)" srcset="{data["narrow"]}">'
        return f'<picture>{source}<img src="{data["wide"]}" alt="{alt}"></picture>'

    return re.sub(r'<img src="(?!data:)([^"]+)" alt="([^"]*)">', inline, page)


def contents(sections: list[tuple[str, str]]) -> str:
    """Links to the sections."""
    links = (f'<li><a href="#{slug}">{title}</a></li>' for slug, title in sections)
    return f'<nav aria-label="Contents"><p>Contents</p><ol>{"".join(links)}</ol></nav>'


def page(title: str, body: str, *, numbered: bool = False, style: str = "") -> str:
    """A whole page: ``page.html`` with the style sheet, its fonts and ``style`` inside."""

    def font(match: re.Match[str]) -> str:
        data = b64encode((HERE / match[1]).read_bytes()).decode()
        return f"url(data:font/woff2;base64,{data})"

    sheet = re.sub(r"url\(([^)]+)\)", font, (HERE / "style.css").read_text())
    values = {"title": title, "style": sheet + style, "body": body, "numbered": numbered}
    values["author"] = AUTHOR
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
