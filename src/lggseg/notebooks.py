"""Execute the notebook series with papermill; the small results files that notebooks write."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lggseg import __version__
from lggseg.data.cohort import Cohort
from lggseg.utils.files import new_folder, write_json, writing
from lggseg.utils.machine_speed import as_text, expected_seconds, seconds_per_step
from lggseg.utils.paths import runs_root
from lggseg.utils.progress import progress_bar

NOTEBOOKS = "[0-9]*.ipynb"


def say_what_follows(folder: Path, out: Path, profile: str, simulated: bool) -> None:
    """Print what :func:`run_notebooks` will do, and how long it takes on this machine, where that
    was measured for the profile. Measures this machine's speed for a second."""
    cohort = "a simulated cohort" if simulated else "your cohort"
    count = len(list(folder.glob(NOTEBOOKS)))
    print(f"Executes {count} notebooks on {cohort}, profile {profile}, into {out}", flush=True)
    step = seconds_per_step()
    expected = expected_seconds(folder, profile, step) if simulated else None
    if expected:
        print(f"Expected time on this machine as busy as it is now: {as_text(expected)}")
    else:
        print("Expected time: not measured for this profile and cohort")


def run_notebooks(folder: Path, out: Path, parameters: dict[str, str]) -> dict[str, float]:
    """Execute every notebook of ``folder`` in the order of their names into ``out``.

    A notebook gets those of ``parameters`` that its parameters cell declares. Shows what the
    running one prints, and at the end what was made.

    Returns:
        The seconds that each notebook took, by the stem of its file.

    Raises:
        RuntimeError: With the notebook, the cell and the error's last line.
    """
    notebooks = sorted(folder.glob(NOTEBOOKS))
    if not notebooks:
        raise RuntimeError(f"{folder}: found no notebook; run this in the project's folder")
    if out.resolve() == folder.resolve():
        raise RuntimeError(
            f"{out}: found the notebooks themselves; choose another folder for --out"
        )
    new_folder(out)
    seconds = {}
    with _quiet_kernels(), progress_bar(notebooks, "execute", "notebook") as bar:
        for notebook in bar:
            bar.set_description(notebook.stem)
            start = time.perf_counter()
            execute(notebook, out / notebook.name, parameters, LastLine(bar))
            seconds[notebook.stem] = time.perf_counter() - start
            bar.set_postfix_str("")
    _print_outputs(out, seconds)
    return seconds


class LastLine(io.TextIOBase):
    """A file whose last line stands at the end of a progress bar: what a notebook prints."""

    def __init__(self, bar: tqdm[Any]) -> None:
        self.bar, self.shown = bar, 0.0
        # A terminal's line is drawn anew; a log gets a line more.
        self.pause = 0.2 if sys.stderr.isatty() else 10.0

    def write(self, text: str) -> int:
        lines = re.sub("[\r\n]+", "\n", text).strip().splitlines()
        if lines and time.perf_counter() - self.shown > self.pause:
            self.bar.set_postfix_str(lines[-1])
            self.shown = time.perf_counter()
        return len(text)


def execute(
    notebook: Path, target: Path, parameters: dict[str, str], printed: io.TextIOBase | None = None
) -> None:
    """Execute one notebook from the project's folder; see :func:`run_notebooks`. ``printed`` gets
    what it prints, as it prints it."""
    import papermill

    declared = papermill.inspect_notebook(str(notebook))
    chosen = {name: value for name, value in parameters.items() if name in declared}
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        with writing(target):
            papermill.execute_notebook(
                str(notebook),
                str(target),
                chosen,
                kernel_name="python3",
                cwd=str(notebook.resolve().parent),
                progress_bar=False,
                stdout_file=printed,
            )
    except papermill.PapermillExecutionError as error:
        raise RuntimeError(
            f"{notebook.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"The notebook up to there is {target}."
        ) from error


@contextmanager
def _quiet_kernels() -> Iterator[None]:
    """Keep harmless warnings of the kernels out of the terminal and the notebooks."""
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    # As in lggseg/__init__.py, for notebooks that import MONAI or Optuna before lggseg.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")
    warnings.filterwarnings("ignore", module="zmq|papermill")
    if "IPYTHONDIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="lggseg-ipython-") as folder:
        profile = Path(folder) / "profile_default"
        profile.mkdir()
        text = "c.IPKernelApp.log_level = 'ERROR'\n"
        (profile / "ipython_kernel_config.py").write_text(text)
        os.environ["IPYTHONDIR"] = folder
        try:
            yield
        finally:
            del os.environ["IPYTHONDIR"]


def _print_outputs(out: Path, seconds: dict[str, float]) -> None:
    print("\nExecuted notebooks (open them in JupyterLab, `make lab`, or any viewer):")
    for name, duration in seconds.items():
        path = out / f"{name}.ipynb"
        print(f"  {path}  {duration:6.1f} s  {path.stat().st_size / 2**20:.1f} MiB")
    print(f"Runs, with models, metrics per epoch and per patient: {runs_root()}")


def runs_of(cohort: Cohort) -> Path:
    """The folder of all runs on a cohort, which no other cohort of real patients shares.

    It is ``runs/simulated``, or for real patients ``runs/<name>-<digits>``: the name of the data's
    folder and the first eight digits of the data's fingerprint.
    """
    if cohort.simulated:
        return runs_root() / cohort.label
    name = re.sub(r"[^\w.-]+", "-", cohort.root.resolve().name)
    return runs_root() / f"{name}-{cohort.fingerprint[:8]}"


def save_results(cohort: Cohort, name: str, values: dict[str, Any]) -> Path:
    """Write ``results/<name>.json`` into :func:`runs_of`; returns the file."""
    facts = {
        "cohort": cohort.label,
        "patients": len(cohort.patients),
        "data_fingerprint": cohort.fingerprint,
        "lggseg": __version__,
        "date": date.today().isoformat(),
    }
    path = runs_of(cohort) / "results" / f"{name}.json"
    write_json({**facts, **values}, path)
    return path
