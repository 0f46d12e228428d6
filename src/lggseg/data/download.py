"""The real cohort, from Kaggle."""

from __future__ import annotations

import shutil
from pathlib import Path

from lggseg.data.kaggle import find_tree

DATASET = "mateuszbuda/lgg-mri-segmentation"

BY_HAND = (
    "By hand: open kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation, press Download, unpack "
    "the archive, and give the path of its kaggle_3m: make run DATA=/path/to/kaggle_3m"
)


def download(dest: Path | str) -> Path:
    """Download the data set with kagglehub into ``dest/kaggle_3m``; returns that folder.

    Needs no account for this public data set. Raises ``RuntimeError`` that says how to get it by
    hand when Kaggle cannot be reached. The data's licence is CC BY-NC-SA 4.0.
    """
    target = Path(dest) / "kaggle_3m"
    if target.is_dir():
        return find_tree(target)
    import kagglehub

    try:
        tree = find_tree(kagglehub.dataset_download(DATASET))
    except Exception as error:  # no network, no rights, a changed data set: one answer to all
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"{DATASET} could not be downloaded. {BY_HAND}\nThe cause: {reason}"
        raise RuntimeError(message) from error
    staging = target.with_name(".kaggle_3m.part")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(tree, staging)
    staging.rename(target)
    return target
