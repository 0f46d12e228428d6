"""Installs the package's wheel into an empty environment and segments a patient there.

    python benchmarks/install.py --out report/results/install.json

Nothing but the wheel and what it requires is installed: no torch, no extra. The patient is
simulated here, where the extra `data` is installed. Packages come from pip's index.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "lgg-unet"
# Of this environment and of the checkout, which the empty one must not see.
HIDDEN = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")


def run(command: list[str | Path], folder: Path) -> str:
    """The output of a command in ``folder``, outside the checkout; raises where it fails."""
    environment = {name: text for name, text in os.environ.items() if name not in HIDDEN}
    answer = subprocess.run(
        command, cwd=folder, env=environment, text=True, capture_output=True, check=False
    )
    if answer.returncode:
        raise RuntimeError(f"{command[0]}: {answer.stdout[-1000:]}{answer.stderr[-3000:]}")
    return answer.stdout


def build_wheel(folder: Path) -> Path:
    """The package as a wheel in ``folder``, of a copy of what its build reads."""
    source = folder / "source"
    source.mkdir()
    run(["cp", "-r", ROOT / "src", ROOT / "pyproject.toml", ROOT / "README.md", source], folder)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    run([sys.executable, "-m", "pip", "wheel", *options, source], folder)
    return next(folder.glob("lggseg-*.whl"))


def install(wheel: Path, folder: Path) -> Path:
    """An environment that holds the wheel and what it requires, of the locked versions."""
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    options = ["--quiet", "--no-compile", "--constraint", ROOT / "requirements.txt"]
    run([environment / "bin" / "pip", "install", *options, wheel], folder)
    return environment


def megabytes(folder: Path) -> float:
    """What the files of a folder take, in MB (10^6 bytes)."""
    return sum(path.stat().st_size for path in folder.rglob("*") if not path.is_symlink()) / 1e6


def measure(folder: Path) -> dict[str, Any]:
    """Install, predict, and say how large and how fast that was."""
    simulate = "from lggseg.data.simulation import make_cohort as m; m({!r}, patients=1)"
    subprocess.run([sys.executable, "-c", simulate.format(str(folder / "data"))], check=True)
    wheel = build_wheel(folder)
    start = time.monotonic()
    environment = install(wheel, folder)
    installed = time.monotonic()
    # Before the first run, whose bytecode is not part of what was installed.
    size, binaries = megabytes(environment), environment / "bin"
    command = [binaries / "lggseg", "predict", MODEL, folder / "data" / "kaggle_3m", "masks"]
    run(command, folder)
    predicted = time.monotonic()
    run([*command[:-1], "again"], folder)
    again = time.monotonic()
    names, values = (folder / "masks" / "predictions.csv").read_text().splitlines()[:2]
    row = dict(zip(names.split(","), values.split(","), strict=True))
    return {
        "megabytes": round(size),
        "packages": len(json.loads(run([binaries / "pip", "list", "--format=json"], folder))),
        "wheel_megabytes": round(wheel.stat().st_size / 1e6, 1),
        "install_seconds": round(installed - start, 1),
        "first_prediction_seconds": round(predicted - installed, 1),
        "prediction_seconds": round(again - predicted, 1),
        "prediction": {k: v for k, v in row.items() if k not in ("patient", "mask", "model")},
        "python": ".".join(map(str, sys.version_info[:3])),
        "platform": sys.platform,
        "command": "python benchmarks/install.py",
    }


def main() -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="results file to write")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        results = measure(Path(folder))
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(options.out.read_text())


if __name__ == "__main__":
    main()
