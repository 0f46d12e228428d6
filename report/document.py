"""The report's templates: what they may call, and how numbers are printed.

Every number in them is an expression over the files in results/, so that it cannot differ from what
was measured; an unknown name is an error.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import mistune

from report.checks import SHORTEST
from report.formulas import FORMULAS, formula

HERE = Path(__file__).resolve().parent


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
    the order in which they stand in the text."""

    def __init__(self) -> None:
        self.references = json.loads((HERE / "references.json").read_text())
        self.cited: list[str] = []
        self.numbers: dict[str, dict[str, int]] = {"Figure": {}, "Table": {}}

    def label(self, kind: str, name: str) -> str:
        numbers = self.numbers[kind]
        return f"{kind}\N{NO-BREAK SPACE}{numbers.setdefault(name, len(numbers) + 1)}"

    def figure(self, name: str, alt: str, caller: Callable[[], str], kind: str = "svg") -> str:
        """A figure drawn by ``report.figures``, with the caption between ``call`` and
        ``endcall``. Raises ``RuntimeError`` without a text that says what is seen."""
        if len(alt) < SHORTEST:
            raise RuntimeError(f"figure {name}: found the text {alt!r}; expected what is seen")
        caption = self._caption("Figure", name, caller())
        picture = f'<img src="{name}.{kind}" alt="{html.escape(alt)}">'
        return f'\n<figure id="{name}">{picture}<figcaption>{caption}</figcaption></figure>\n'

    def formula(self, name: str) -> str:
        """A formula of :data:`report.formulas.FORMULAS`, as a block of its own."""
        if name not in FORMULAS:
            raise RuntimeError(f"formulas.py: found no formula {name!r}; expected it there")
        return f'\n<div class="formula">{formula(*FORMULAS[name], "stix")}</div>\n'

    def table(self, name: str, caller: Callable[[], str]) -> str:
        """The caption of the Markdown table that follows."""
        return f'\n<p class="caption" id="{name}">{self._caption("Table", name, caller())}</p>\n'

    def _caption(self, kind: str, name: str, text: str) -> str:
        rendered = str(mistune.html(" ".join(text.split()))).strip()
        inner = rendered.removeprefix("<p>").removesuffix("</p>")
        return f"<b>{self.label(kind, name)}.</b> {inner}"

    def see(self, kind: str, name: str) -> str:
        """A link to a figure or table, which may come later: :meth:`resolve` numbers it."""
        return f'<a href="#{name}">\0{kind}:{name}\0</a>'

    def resolve(self, text: str) -> str:
        """The text with the number in each link, in the order in which figures and tables stand.
        Raises ``RuntimeError`` for a link to none."""

        def number(match: re.Match[str]) -> str:
            kind, name = match[1], match[2]
            if name not in self.numbers[kind]:
                raise RuntimeError(f"see({kind!r}, {name!r}): found no such {kind.lower()}")
            return self.label(kind, name)

        return re.sub("\0(\\w+):(\\w+)\0", number, text)

    def cite(self, *keys: str) -> str:
        """Links to references."""
        self.cited += keys
        links = (f'<a href="#{key}">{self.references[key]["short"]}</a>' for key in keys)
        return f'<span class="cite">{"; ".join(links)}</span>'

    def bibliography(self) -> str:
        """All references cited so far, each with its key, as a list in the order of the keys."""
        items = []
        entries = {key: self.references[key] for key in set(self.cited)}
        for key, entry in sorted(entries.items(), key=lambda each: each[1]["short"].casefold()):
            link = f' <a href="{entry["url"]}">{entry["url"]}</a>' if "url" in entry else ""
            text = f"<b>{html.escape(entry['short'])}.</b> {html.escape(entry['text'])}"
            items.append(f'<li id="{key}">{text}{link}</li>')
        return f'\n<ul class="references">{"".join(items)}</ul>\n'

    def names(self) -> dict[str, Callable[..., str]]:
        """What the template sees of this."""
        calls = (self.figure, self.formula, self.table, self.see, self.cite, self.bibliography)
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
        document = Document()
        text = environment().get_template(template).render({**values, **document.names()})
        return document.resolve(text)
    except jinja2.UndefinedError as error:
        raise RuntimeError(
            f"report/{template}: {error.message}, expected it in report/results. "
            "Run what report/results/README.md names for that file."
        ) from error
