"""Drawings as part of a page: its fonts, its colours in light and dark, and a text for who does not
see them."""

from __future__ import annotations

import re

# What figures are drawn with, and the colour of the page (style.css) that stands in for it.
PALETTE = {
    "#1d2126": "--text",
    "#5a626b": "--quiet",
    "#d9dcdf": "--line",
    "#fdfdfc": "--ground",
    "#0072b2": "--blue",
    "#e69f00": "--orange",
    "#009e73": "--green",
    "#d55e00": "--vermilion",
    "#56b4e9": "--sky",
    "#767676": "--grey",
}


def as_element(drawn: str, name: str, alt: str) -> str:
    """An SVG file as an element of a page; ``alt`` is escaped already.

    Its size follows the page, its ids cannot meet those of another figure, its letters are those of
    the page, and each colour of :data:`PALETTE` becomes the page's own.
    """
    text = drawn[drawn.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\1{name}-", text)
    text = re.sub(r'font-family: [^;"]*', "font-family: var(--sans)", text)
    for colour, variable in PALETTE.items():
        text = re.sub(colour, f"var({variable})", text, flags=re.I)
    box = re.search(r'viewBox="([^"]+)"', text)
    if box is None:
        raise RuntimeError(f"{name}: found an SVG without a viewBox; expected one")
    width = float(box[1].split()[2]) / 0.75  # points as pixels
    rest = text[text.index(">") + 1 :]
    label = f'role="img" aria-label="{alt}"'
    return f'<svg viewBox="{box[1]}" style="width:{width:.0f}px" {label}>{rest}'.strip()
