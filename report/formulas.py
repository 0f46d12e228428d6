"""Formulas in LaTeX as drawings, so that a page shows them without a script or a font."""

from __future__ import annotations

import html
import re
from functools import cache

from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

SIZE = 16.0
# Of the report: in LaTeX, and in words for who does not see them.
FORMULAS = {
    "dice": (
        r"\mathrm{Dice} = \dfrac{2\,|T \cap P|}{|T| + |P|}"
        r" = \dfrac{2\,\mathrm{TP}}{2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN}}",
        "Dice is twice the size of the overlap of truth and prediction, divided by the sum of both "
        "sizes: two TP over two TP plus FP plus FN.",
    ),
    "iou": (
        r"\mathrm{IoU} = \dfrac{\mathrm{TP}}{\mathrm{TP} + \mathrm{FP} + \mathrm{FN}}",
        "IoU, intersection over union, is TP over TP plus FP plus FN.",
    ),
    "precision": (
        r"\mathrm{precision} = \dfrac{\mathrm{TP}}{\mathrm{TP} + \mathrm{FP}} \qquad"
        r" \mathrm{recall} = \dfrac{\mathrm{TP}}{\mathrm{TP} + \mathrm{FN}}",
        "Precision is TP over TP plus FP, and recall is TP over TP plus FN.",
    ),
    "hd95": (
        r"\mathrm{HD95} = \max\left\{q_{95}(d(\partial T, \partial P)),\;"
        r" q_{95}(d(\partial P, \partial T))\right\}",
        "HD95 is the larger of two 95th percentiles: of the distances from the surface of the "
        "truth to that of the prediction, and of those the other way.",
    ),
    "assd": (
        r"\mathrm{ASSD} = \dfrac{\sum_{x \in \partial T} d(x, \partial P)"
        r" + \sum_{y \in \partial P} d(y, \partial T)}{|\partial T| + |\partial P|}",
        "ASSD is the sum of the distances of all points of either surface to the other surface, "
        "divided by the number of points of both.",
    ),
    "loss": (
        r"L = 1 - \dfrac{2 \sum_i p_i\,t_i}{\sum_i p_i + \sum_i t_i}"
        r" - \dfrac{1}{n} \sum_i \left(t_i \log p_i + (1 - t_i) \log (1 - p_i)\right)",
        "The loss is one minus twice the sum of p times t over the sum of p plus the sum of t, "
        "minus the mean of t times log p plus one minus t times log of one minus p.",
    ),
    "normalise": (
        r"x_c = \dfrac{v_c - b_c}{s_c}",
        "The normalised value of channel c is its value less its background level, divided by its "
        "tissue scale.",
    ),
    "gate": (
        r"\alpha = \sigma\left(\psi\left(\mathrm{ReLU}(W_x x + W_g g)\right)\right)"
        r" \qquad \hat{x} = \alpha x",
        "Alpha is the sigmoid of psi of the rectified sum of W x times x and W g times g; the gate "
        "gives alpha times x.",
    ),
}
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
def formula(latex: str, words: str = "", font: str = "dejavusans") -> str:
    """A formula as SVG that stands on the line of the text; raises ``ValueError`` for what
    matplotlib's mathtext lacks.

    Args:
        latex: What is drawn.
        words: What it says, for who does not see it; without, the LaTeX.
        font: One of mathtext's font sets.
    """
    prop = FontProperties(math_fontfamily=font)
    path = TextPath((0, 0), f"${latex}$", size=SIZE, prop=prop)
    box = path.get_extents()
    steps = [
        _LETTERS.get(code, "Z") + " ".join(f"{x:.1f} {-y:.1f}" for x, y in points.reshape(-1, 2))
        for points, code in path.iter_segments()
        if code in _LETTERS or code == Path.CLOSEPOLY
    ]
    outline = "".join("Z" if step.startswith("Z") else step for step in steps)
    view = f"{box.x0:.1f} {-box.y1:.1f} {box.width:.1f} {box.height:.1f}"
    style = f"height:{box.height / SIZE:.2f}em;vertical-align:{box.y0 / SIZE:.2f}em"
    label = html.escape(words or latex)
    return (
        f'<svg role="img" aria-label="{label}" viewBox="{view}" style="{style}">'
        f'<path fill="currentColor" d="{outline}"/></svg>'
    )
