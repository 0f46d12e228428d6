"""What SageMaker's training container runs: hyperparameters and data in, a model folder out.

The places are SageMaker's: ``/opt/ml/input/config/hyperparameters.json``, the Kaggle tree (as it
is, or packed) in ``/opt/ml/input/data/train``, split.csv in ``/opt/ml/input/data/split`` (else the
split of seed 0), the run folder in ``/opt/ml/checkpoints`` (kept in S3, and given back to a job
that follows an interrupted one), the model in ``/opt/ml/model``, the run's tables in
``/opt/ml/output/data``, and what went wrong in ``/opt/ml/output/failure``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

from lggseg.config import Config, from_hyperparameters
from lggseg.utils.errors import DataError
from lggseg.utils.stopping import SIGNALS, Stopped
from lggseg.utils.threads import threads_each

# SageMaker shows so many characters of a failure.
FAILURE_LENGTH = 1024
# Files of the run folder, beside the model, that are worth keeping.
TABLES = ("config.json", "data.json", "split.csv", "metrics.csv", "patients.csv")
MASTER_PORT = 7777  # Where the processes of a job find each other.


def main(root: Path = Path("/opt/ml")) -> int:
    """Train as the files below ``root`` say; returns the exit status, and tells SageMaker of a
    failure. A job that is told to stop saves its state and goes on when it is started again; its
    exit status is that of the signal."""
    try:
        with SIGNALS:
            run_job(root)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return stop.status
    except Exception as error:
        mistake = isinstance(error, ValueError | RuntimeError | OSError)
        text = str(error) if mistake else traceback.format_exc()
        print(text, file=sys.stderr)
        (root / "output").mkdir(parents=True, exist_ok=True)
        (root / "output" / "failure").write_text(text[-FAILURE_LENGTH:])
        return 1
    return 0


def run_job(root: Path) -> None:
    """Train, or go on with what ``root/checkpoints`` holds; leave the model and the tables where
    SageMaker takes them from. Raises what :func:`lggseg.training.train.train` raises,
    ``ValueError`` for a wrong hyperparameter and ``DataError`` where there are no data."""
    # A wrong hyperparameter is found before torch is imported and the data are read.
    settings = root / "input" / "config"
    config = read_hyperparameters(settings / "hyperparameters.json")
    start_processes(root, settings / "resourceconfig.json")
    from lggseg.data.archive import unpack
    from lggseg.data.cohort import load_cohort
    from lggseg.data.splits import make_split, read_split
    from lggseg.training import distributed
    from lggseg.training.train import train

    channels = root / "input" / "data"
    with TemporaryDirectory() as unpacked:
        cohort = load_cohort(unpack(channels / "train", Path(unpacked)), progress=False)
        given = channels / "split" / "split.csv"
        split = read_split(given, cohort) if given.exists() else make_split(cohort)
        run = train(config, cohort, split, root / "checkpoints", resume=True, progress=False)
    if distributed.rank():
        return
    shutil.copytree(run / "model", root / "model", dirs_exist_ok=True)
    tables = root / "output" / "data"
    tables.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        shutil.copy2(run / name, tables / name)


def start_processes(root: Path, resources: Path) -> None:
    """Become torchrun where the job has several GPUs or several hosts, as SageMaker's file
    ``resources`` says; torchrun runs this module once for each GPU (without one, for each host)."""
    import torch

    facts = json.loads(resources.read_text()) if resources.exists() else {}
    hosts, each = sorted(facts.get("hosts", [""])), max(1, torch.cuda.device_count())
    if len(hosts) * each == 1 or torch.distributed.is_torchelastic_launched():
        return
    network = facts.get("network_interface_name", "eth0")
    os.environ.update(NCCL_SOCKET_IFNAME=network, GLOO_SOCKET_IFNAME=network)
    # torchrun would give each process a single thread.
    os.environ["OMP_NUM_THREADS"] = str(threads_each(each))
    options = {
        "nnodes": len(hosts),
        "nproc-per-node": each,
        "node-rank": hosts.index(facts.get("current_host", "")),
        "master-addr": hosts[0] or "localhost",
        "master-port": MASTER_PORT,
    }
    torchrun = [f"--{name}={value}" for name, value in options.items()]
    program = [sys.executable, "-m", "torch.distributed.run", *torchrun]
    os.execv(sys.executable, [*program, "-m", "lggseg.cloud.container", str(root)])


def read_hyperparameters(path: Path) -> Config:
    """The config in SageMaker's file of hyperparameters, whose values are strings; without the
    file, the defaults. Raises ``DataError`` that names the file."""
    try:
        values = json.loads(path.read_text()) if path.exists() else {}
        return from_hyperparameters({name: str(value) for name, value in values.items()})
    except (ValueError, AttributeError) as error:
        expected = "an object of hyperparameters of lggseg.config.Config"
        action = "Give the job the names and values that `lggseg train --help` lists."
        raise DataError(path, f"a wrong hyperparameter ({error})", expected, action) from error


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
