"""Build what people read: the report as one HTML file and a PDF, pages of the executed notebooks,
MODEL_CARD.md, docs/scaling.md, docs/leaderboard.md and their figures.

    python -m report.build [--out build/report] [--data kaggle_3m]

The texts are Markdown templates over the files in results/. The build fails on a result that does
not belong to the shipped model, on a name that the results lack, on a link that leads nowhere, and
on a picture without a text. Pictures of slices are of the simulated cohort; with ``--data`` the
report also shows real patients, and then belongs to this machine alone.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lggseg.utils.files import replace_file
from report import figures, snapshots
from report.checks import require_fresh, require_sound
from report.document import render
from report.pages import contents, embed, page, print_pdf, to_html
from report.values import load_results

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Pages of the repository that are made here, and their templates.
PAGES = {
    ROOT / "MODEL_CARD.md": "model_card.md",
    ROOT / "docs" / "scaling.md": "scaling.md",
    ROOT / "docs" / "leaderboard.md": "leaderboard.md",
}


README = ROOT / "README.md"
# The part of the README that is made here.
PART = re.compile(r"(?<=from report/readme.md. -->\n).*?(?=<!-- end -->)", re.S)


def readme(values: Mapping[str, Any]) -> str:
    """The README with its numbers: what stands between its two comments is made of readme.md."""
    part = render("readme.md", values)
    return PART.sub(lambda _: part, README.read_text(encoding="utf-8"))


def whole_names(body: str) -> str:
    """HTML in which no line breaks within the name of the network, of a patient or of an option, or
    between a number and its sign."""
    body = re.sub(r"(?<=\d) (?=%)|(?<=\d) (?=± \d)|(?<=\d ±) (?=\d)", "&nbsp;", body)
    names = r"(?:\b(?:nn)?U-Nets?|\b(?:CS|DU|FG|HT) [A-Z0-9]{4}|(?<![\w-])--[a-z-]+)\b(?![^<>]*>)"
    return re.sub(names, r'<span class="n">\g<0></span>', body)


def write(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))
    print(path)


def build_report(values: Mapping[str, Any], out: Path, data: Path | None = None) -> Path:
    """Write ``report.html`` into a folder; returns the file.

    Args:
        values: What :func:`report.values.load_results` gives.
        out: The folder, in which the simulated cohort is made, too.
        data: The real cohort, to show its best and worst test patients.

    Raises:
        Stale: Results that do not belong to the shipped model.
        RuntimeError: A name that the results lack, a broken link, or a picture without a text.
    """
    require_fresh(values)
    body, sections = to_html(render("report.md", {**values, "real": data is not None}))
    body = whole_names(body).replace("<!-- contents -->", contents(sections))
    wanted = re.findall(r'<img src="([^"]+)"', body)
    body = embed(body, figures.draw(wanted, out, data))
    path = out / "report.html"
    text = page("Lower-grade glioma in brain MRI", body, numbered=True)
    require_sound({path: text})
    write(path, text)
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
    parser.add_argument("--data", type=Path, help="the real cohort, for pictures on this machine")
    options = parser.parse_args()
    out = options.out
    values = load_results()
    require_fresh(values)
    for path, template in PAGES.items():
        write(path, render(template, values))
    write(README, readme(values))
    print(*figures.write_pages(out), sep="\n")
    if snapshots.SNAPSHOTS.exists():
        build_notebooks(out / "notebooks")
    report = build_report(values, out, options.data)
    if print_pdf(report, report.with_suffix(".pdf")):
        print(report.with_suffix(".pdf"))
    else:
        print(
            "No Chromium was found, so there is no PDF: install it (apt install chromium), or "
            "print report.html from any browser."
        )


if __name__ == "__main__":
    main()
