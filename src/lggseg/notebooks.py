"""Execute the notebook series with papermill."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from pathlib import Path

import papermill

from lggseg.paths import new_folder, runs_root, writing
from lggseg.progress import progress_bar


def run_notebooks(folder: Path, out: Path, parameters: dict[str, str]) -> list[Path]:
    """Execute every notebook of ``folder`` in the order of their names into ``out``.

    A notebook gets those of ``parameters`` that its parameters cell declares. Prints at the end
    what was made. Raises ``RuntimeError`` with the notebook, the cell and the error's last line.
    """
    notebooks = sorted(folder.glob("[0-9]*.ipynb"))
    if not notebooks:
        raise RuntimeError(f"{folder}: found no notebook; run this in the project's folder")
    if out.resolve() == folder.resolve():
        raise RuntimeError(
            f"{out}: found the notebooks themselves; choose another folder for --out"
        )
    new_folder(out)
    _quiet_kernels()
    seconds = {}
    with progress_bar(notebooks, "execute", "notebook") as bar:
        for notebook in bar:
            bar.set_description(notebook.stem)
            start = time.perf_counter()
            execute(notebook, out / notebook.name, parameters)
            seconds[out / notebook.name] = time.perf_counter() - start
    _say_what_was_made(seconds)
    return list(seconds)


def execute(notebook: Path, target: Path, parameters: dict[str, str]) -> None:
    """Execute one notebook from the project's folder; see :func:`run_notebooks`."""
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
            )
    except papermill.PapermillExecutionError as error:
        raise RuntimeError(
            f"{notebook.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"The notebook up to there is {target}."
        ) from error


def _quiet_kernels() -> None:
    """Keep harmless warnings of the kernels out of the terminal and the notebooks."""
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    # As in lggseg/__init__.py, for notebooks that import MONAI or Optuna before lggseg.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")
    warnings.filterwarnings("ignore", module="zmq|papermill")
    if "IPYTHONDIR" not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="lggseg-ipython-"))
        profile = folder / "profile_default"
        profile.mkdir()
        text = "c.IPKernelApp.log_level = 'ERROR'\n"
        (profile / "ipython_kernel_config.py").write_text(text)
        os.environ["IPYTHONDIR"] = str(folder)


def _say_what_was_made(seconds: dict[Path, float]) -> None:
    print("\nExecuted notebooks (open them in JupyterLab, `make lab`, or any viewer):")
    for path, duration in seconds.items():
        print(f"  {path}  {duration:6.1f} s  {path.stat().st_size / 2**20:.1f} MiB")
    print(f"Runs, with models, metrics per epoch and per patient: {runs_root()}")
