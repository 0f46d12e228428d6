"""What was made to deploy and to train, and still is there: after a crash, or a kill."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from lggseg.cloud.account import open_account
from lggseg.cloud.cleanup import delete_everything, find_everything
from lggseg.cloud.local_mode import PREFIX, own_files, remove_containers
from lggseg.cloud.training import TRAIN_IMAGE


def left_behind(where: str) -> list[str]:
    """What is left in one of the places of :func:`lggseg.cloud.deploy`; :func:`clean_up` deletes
    it. What other programs use at this moment is among it.

    ``here`` nothing can be left, since servers end with the process that started them.
    ``sagemaker-local``: temporary folders, each with the containers that Docker Compose started
    from it. ``sagemaker``: the ARNs of what the account's run has there.
    """
    if where == "sagemaker":
        return find_everything(open_account())
    return [str(folder) for folder in _folders()] if where == "sagemaker-local" else []


def clean_up(where: str) -> None:
    """Delete what :func:`left_behind` lists, and on AWS the files and logs that belong to it."""
    if where == "sagemaker":
        delete_everything(open_account())
    for folder in _folders() if where == "sagemaker-local" else []:
        remove_containers(folder)
        own_files(folder, TRAIN_IMAGE)
        shutil.rmtree(folder)


def _folders() -> list[Path]:
    return sorted(Path(tempfile.gettempdir()).resolve().glob(f"{PREFIX}*"))
