"""Formulas in LaTeX as drawings, so that a page shows them without a script or a font."""

from __future__ import annotations

import html
import re
from functools import cache

from matplotlib.path import Path
from matplotlib.textpath import TextPath

SIZE = 16.0
# A fenced block or a piece of code, which stays; a formula on a line of its own; one in a line.
PIECES = re.compile(r"```.*?```|`[^`\n]*`|\$\$(.+?)\$\$|(?<![\w\\$])\$([^$\n]+?)\$(?![\w$])", re.S)
_LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}


def draw_formulas(markdown: str) -> str:
    """Markdown with its formulas as SVG, in the colour of the text around them."""

    def drawn(found: re.Match[str]) -> str:
        if found[1]:
            text = " ".join(found[1].split()).replace(r"\frac", r"\dfrac")
            return f'<p class="formula">{formula(text)}</p>'
        return formula(found[2]) if found[2] else found[0]

    return PIECES.sub(drawn, markdown)


@cache
def formula(latex: str) -> str:
    """A formula as SVG that stands on the line of the text; raises ``ValueError`` for what
    matplotlib's mathtext lacks."""
    path = TextPath((0, 0), f"${latex}$", size=SIZE)
    box = path.get_extents()
    steps = [
        _LETTERS.get(code, "Z") + " ".join(f"{x:.1f} {-y:.1f}" for x, y in points.reshape(-1, 2))
        for points, code in path.iter_segments()
        if code in _LETTERS or code == Path.CLOSEPOLY
    ]
    outline = "".join("Z" if step.startswith("Z") else step for step in steps)
    view = f"{box.x0:.1f} {-box.y1:.1f} {box.width:.1f} {box.height:.1f}"
    style = f"height:{box.height / SIZE:.2f}em;vertical-align:{box.y0 / SIZE:.2f}em"
    return (
        f'<svg role="img" aria-label="{html.escape(latex)}" viewBox="{view}" style="{style}">'
        f'<path fill="currentColor" d="{outline}"/></svg>'
    )
