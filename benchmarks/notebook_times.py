"""How long each notebook takes with a profile on the simulated cohort, the simulation included.

    python benchmarks/notebook_times.py [--avx2] [--beside 0 2] [--profile demo] [--tops]

``--avx2`` hides AVX-512 from torch (``ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2``), and
``--beside 0 2`` measures alone and then again while two other processes compute without a pause.
Runs, cache and simulated cohort are new each time. Writes a row of
report/results/notebook_times.json for each, in the place of an earlier one of the same kind;
``--tops`` alone writes what the file says into the tops of the notebooks, which a test compares
with the file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from contention import AVX2, busy, has_bf16, machine

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
KIND = ("instructions", "beside", "profile")
# The first cell of the second row of a notebook's table of times.
TOP = re.compile(r'(\| demo, 2 CPU cores \|.*\n\s+"\|---.*\n\s+"\| )(.*?)( \|)')


def measure(profile: str, beside: int) -> dict[str, Any]:
    """Execute all notebooks beside so many busy processes; returns a row of the results file."""
    from lggseg.data.simulation import make_cohort
    from lggseg.notebooks import run_notebooks
    from lggseg.utils.machine_speed import seconds_per_step
    from lggseg.utils.threads import idle_cpus

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"LGGSEG_RUNS": f"{folder}/runs", "LGGSEG_CACHE": f"{folder}/cache"}
        facts = {"idle_cpus": round(idle_cpus(1.0), 2)}
        with busy(beside):
            facts["seconds_per_step"] = round(seconds_per_step(), 5)
            start = time.perf_counter()
            data = make_cohort(f"{folder}/phantom")
            seconds = {"simulate": time.perf_counter() - start}
            parameters = {"DATA": str(data), "PROFILE": profile}
            seconds |= run_notebooks(NOTEBOOKS, Path(folder) / "out", parameters)
    kind = ("AVX512-BF16" if has_bf16() else "AVX2", beside, profile)
    seconds = {name: round(value, 1) for name, value in seconds.items()}
    return {**dict(zip(KIND, kind, strict=True)), **facts, "seconds": seconds}


def write_tops(rows: list[dict[str, Any]]) -> None:
    """Write the measured times into the notebooks."""
    from lggseg.utils.files import replace_file
    from lggseg.utils.machine_speed import notebook_time

    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        said = notebook_time(rows, path.stem)
        text = TOP.sub(lambda found, said=said: f"{found[1]}{said}{found[3]}", path.read_text())
        replace_file(path, lambda part, text=text: part.write_text(text))


def main() -> None:
    """Measure and add the row to the file, or write the tops."""
    from lggseg.utils.files import write_json
    from lggseg.utils.machine_speed import TIMES

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--avx2", action="store_true", help="hide AVX-512 from torch")
    parser.add_argument(
        "--beside", type=int, nargs="+", default=[0], help="busy processes meanwhile"
    )
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--tops", action="store_true", help="only write the notebooks' tops")
    options = parser.parse_args()
    # A kernel that may not keep its bytecode compiles torch and MONAI anew: 12 CPU seconds.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(NOTEBOOKS.parent / "build" / "bytecode"))
    path = NOTEBOOKS.parent / TIMES
    rows = json.loads(path.read_text())["measured"] if path.exists() else []
    if options.tops:
        return write_tops(rows)
    if options.avx2:
        os.environ |= AVX2  # before torch is imported, here and in the kernels
    for beside in options.beside:
        row = measure(options.profile, beside)
        row |= {"date": date.today().isoformat(), "machine": machine()}
        rows = [old for old in rows if [old[name] for name in KIND] != [row[name] for name in KIND]]
        rows = sorted([*rows, row], key=lambda r: [r[name] for name in KIND])
        write_json({"measured": rows}, path)


if __name__ == "__main__":
    main()
