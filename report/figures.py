"""All figures of the report by name: numbers from results/, slices from the simulated cohort.

    python -m report.figures

draws those that the README and docs/scaling.md show into report/figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lggseg.utils.files import replace_file
from report import charts, charts_speed, diagrams, pictures
from report.canvas import NARROW, STYLE, WIDE, drawn

HERE = Path(__file__).resolve().parent
NUMBERS: tuple[Callable[[float], Figure], ...] = (
    *(charts.patients, charts.cross_validation, charts.volume, charts.groups, charts.leak),
    *(charts.search, charts.leaderboard, charts.reliability, charts.expected_dice),
    *(charts.ablation, charts.steps, charts.associations, charts.risk_coverage),
    *(charts_speed.cohort, charts_speed.time_to_dice, charts_speed.latency),
    *(charts_speed.scaling, charts_speed.learning),
    *(diagrams.patient_flow, diagrams.overlap, diagrams.pipeline, diagrams.deployment),
    *(diagrams.unet, diagrams.attention_unet, diagrams.swin_unetr, diagrams.gate),
)
PICTURES: tuple[Callable[[float, Path], Figure], ...] = (
    *(pictures.simulated_channels, pictures.simulated_cases, pictures.augmentation),
    *(pictures.provoked_failures, pictures.hero),
)


def draw(names: Iterable[str], out: Path, data: Path | None = None) -> dict[str, bytes]:
    """Figures as files, of ``leak.svg`` both ``leak-wide.svg`` and ``leak-narrow.svg``.

    The simulated cohort is made in ``out`` where it is not there yet; ``data`` is the real one, if
    it is at hand. Raises ``KeyError`` for an unknown name.
    """
    calls: dict[str, Callable[[float], Figure]] = {call.__name__: call for call in NUMBERS}
    calls |= {call.__name__: partial(call, out=out) for call in PICTURES}
    if data is not None:
        calls["real_cases"] = partial(pictures.real_cases, data=data)
    files = {}
    with plt.rc_context(STYLE):
        for name in names:
            stem, _, kind = name.partition(".")
            for size, width in (("wide", WIDE), ("narrow", NARROW)):
                files[f"{stem}-{size}.{kind}"] = drawn(calls[stem](width), kind)
    return files


def write_pages(out: Path) -> list[Path]:
    """Draw the figures of the README and of docs/scaling.md; returns the files."""
    folder = HERE / "figures"
    folder.mkdir(exist_ok=True)
    paths = []
    with plt.rc_context({**STYLE, "figure.facecolor": "white", "savefig.facecolor": "white"}):
        for name, call in (
            ("scaling", charts_speed.scaling),
            ("hero", partial(pictures.hero, out=out)),
        ):
            picture = drawn(call(WIDE), "png", dpi=150)
            replace_file(folder / f"{name}.png", lambda part, data=picture: part.write_bytes(data))
            paths.append(folder / f"{name}.png")
    return paths


if __name__ == "__main__":
    print(*write_pages(HERE.parent / "build" / "report"), sep="\n")
