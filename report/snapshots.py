"""The executed notebooks, for readers who run nothing: cleaned copies, and pages with an index.

    python -m report.snapshots build/notebooks

cleans what ``make run`` executed on the simulated cohort and writes it into report/notebooks, from
which ``report.build`` makes the pages.
"""

from __future__ import annotations

import argparse
import copy
import html
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mistune
import nbformat
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from lggseg.utils.errors import DataError
from lggseg.utils.files import replace_file
from report.formulas import draw_formulas

HERE = Path(__file__).resolve().parent
SNAPSHOTS = HERE / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
# A line of tqdm's, a bar between two strokes with a count and times, and its steps to another line.
BAR = re.compile(r"[^\r\n]*\|[^\r\n]*\| *\d+/[\d?]+ \[[^\r\n]*[\r\n]*|\x1b\[[AB]")


def clean(notebook: NotebookNode, root: Path) -> NotebookNode:
    """An executed notebook with the source cells as they are in the project, but for links, which
    start one folder deeper, and only the outputs that are worth keeping: no injected parameters, no
    progress bars, no warnings, no times of execution, and paths from ``root`` on."""
    kept = copy.deepcopy(notebook)
    kept.metadata = {key: kept.metadata[key] for key in ("kernelspec", "language_info")}
    kept.cells = [c for c in kept.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for cell in kept.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "markdown":
            cell.source = one_deeper(cell.source)
        if cell.cell_type == "code":
            for output in cell.outputs:
                if output.output_type == "stream":
                    output.text = BAR.sub("", output.text)
            cell.outputs = [_relative(o, root) for o in cell.outputs if _is_content(o)]
    return kept


def one_deeper(text: str) -> str:
    """A text of a notebook with its links out of ``notebooks`` as they are from
    ``report/notebooks``.

    >>> one_deeper("[glossary](../docs/glossary.md), [next](02_a.ipynb)")
    '[glossary](../../docs/glossary.md), [next](02_a.ipynb)'
    """
    return text.replace("](../", "](../../")


def _is_content(output: NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name == "stdout" and bool(output.text.strip())
    return WIDGET not in output.get("data", {})


def _relative(value: Any, root: Path) -> Any:
    """The same with this machine's folders left out of every text."""
    if isinstance(value, str):
        return value.replace(f"{root}/", "").replace(str(root), ".").replace(str(Path.home()), "~")
    if isinstance(value, list):
        return [_relative(item, root) for item in value]
    if isinstance(value, dict):
        return NotebookNode({key: _relative(item, root) for key, item in value.items()})
    return value


def require_simulated(path: Path, notebook: NotebookNode) -> None:
    """Raise ``DataError`` unless a notebook was executed on a simulated cohort: pictures of real
    patients are not to be committed."""
    data = notebook.metadata.get("papermill", {}).get("parameters", {}).get("DATA")
    if data is None or not Path(data, "simulated.json").exists():
        raise DataError(
            path,
            f"DATA = {data!r}",
            "a notebook that was executed on the simulated cohort",
            "Run `make notebooks` without DATA.",
        )


def take(folder: Path, target: Path = SNAPSHOTS) -> list[Path]:
    """Clean every executed notebook of a folder into ``target``; returns the files. Nothing is
    written when one of them was executed on other data than simulated ones."""
    executed = {path: nbformat.read(path, 4) for path in sorted(folder.glob("[0-9]*.ipynb"))}
    if not executed:
        raise RuntimeError(f"{folder}: found no executed notebook; run `make run` first")
    for path, notebook in executed.items():
        if any("DATA" in cell.source for cell in notebook.cells if cell.cell_type == "code"):
            require_simulated(path, notebook)
    for path, notebook in executed.items():
        kept = clean(notebook, HERE.parent)
        replace_file(target / path.name, partial(nbformat.write, kept))
    return [target / path.name for path in executed]


def titles(notebook: NotebookNode) -> tuple[str, str]:
    """A notebook's title and the question that it answers."""
    text = notebook.cells[0].source
    title, question = re.search(r"^# (.+)$", text, re.M), re.search(r"\*\*(.+?)\*\*", text)
    return title[1] if title else "", question[1] if question else ""


def body(notebook: NotebookNode) -> str:
    """A notebook as HTML without the page around it; pictures are named by their section."""
    section = ""
    for cell in notebook.cells:
        headings = re.findall(r"^#+ (.+)$", cell.source, re.M) if cell.cell_type != "code" else []
        section = headings[-1] if headings else section
        if cell.cell_type == "markdown":
            cell.source = draw_formulas(cell.source)
        cell.metadata["alt"] = f"Figure made by the cell above, in the section {section}"
    text, _ = HTMLExporter(template_name="basic", exclude_anchor_links=True).from_notebook_node(
        notebook
    )
    # So that the keyboard can scroll what is wide.
    text = re.sub(r'<(pre(?=>)|div(?= class="output_html))', r'<\1 tabindex="0"', text)
    # So that a sentence in a wide table is not squeezed into a column of single words.
    text = re.sub(r'<td class="data (?=[^>]*>[^<]{25})', '<td class="data long ', text)
    return linked(text)


def linked(text: str) -> str:
    """The links of a page between notebooks and to the glossary lead to pages; others that lead
    into the project, whose files are not beside the page, are left out."""
    text = re.sub(r'href="(?:\.\./notebooks/)?(\d\db?_\w+)\.ipynb', r'href="\1.html', text)
    text = re.sub(r'href="(?:\.\./)+docs/glossary\.md', 'href="glossary.html', text)
    return re.sub(r'<a href="(?!\w+:|#|\w+\.html)[^"]*">(.*?)</a>', r"\1", text)


def glossary() -> str:
    """The glossary as HTML."""
    markdown = mistune.create_markdown(escape=False, plugins=["table"])
    return linked(str(markdown((HERE.parent / "docs" / "glossary.md").read_text())))


def highlighting() -> str:
    """The style sheet of highlighted code, for light and dark pages."""
    light, dark = (HtmlFormatter(style=name) for name in ("vs", "github-dark"))
    rules = light.get_style_defs(".highlight"), dark.get_style_defs(".highlight")
    return f"{rules[0]}\n@media (prefers-color-scheme: dark) {{\n{rules[1]}\n}}"


def pages(folder: Path = SNAPSHOTS) -> Iterator[tuple[str, str, str]]:
    """File name, title and body of each notebook's page, of the glossary, and last of their
    index."""
    rows = []
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, 4)
        title, question = titles(notebook)
        name = f"{path.stem}.html"
        rows.append(
            f'<li><a href="{name}">{html.escape(title)}</a><br>{html.escape(question)}</li>'
        )
        back = '<p class="byline"><a href="index.html">All notebooks</a></p>'
        yield name, title, f'{back}<div class="notebook">{body(notebook)}</div>'
    back = '<p class="byline"><a href="index.html">All notebooks</a></p>'
    yield "glossary.html", "Glossary", f'{back}<div class="notebook">{glossary()}</div>'
    about = (
        '<h1>The notebooks, executed</h1><p class="lead">On the simulated cohort that comes with '
        "the project: it shows that the software works, and nothing about glioma. The numbers on "
        'real patients are in <a href="../report.html">the report</a>.</p>'
    )
    yield "index.html", "The notebooks", f'{about}<ul class="index">{"".join(rows)}</ul>'


def main() -> None:
    """Take snapshots of what was executed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for path in take(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
