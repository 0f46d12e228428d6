"""What tests/training/test_distributed.py starts by torchrun, or alone: train, validate, and tell.

torchrun --nproc-per-node 2 torchrun_validate.py TREE CONFIG OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch

from lggseg.config import Config
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.splits import make_split, slice_subsets
from lggseg.training import distributed, trainer
from lggseg.training.datamodule import CohortDataModule
from lggseg.training.module import SegmentationModule


def validate(module: SegmentationModule, cohort: Cohort, config: Config) -> pd.Series:
    """Dice per patient of a module, in however many processes there are."""
    datamodule = CohortDataModule(cohort, slice_subsets(cohort, make_split(cohort), 0), config)
    trainer.make_trainer(config, [], False).validate(module, datamodule, verbose=False)
    return module.validation_dice()


def main(tree: str, config_file: str, out: Path) -> None:
    """Train in all processes; the first writes the weights and what each has seen."""
    distributed.join()
    config, cohort = Config.load(Path(config_file)), load_cohort(tree, progress=False)
    pl.seed_everything(config.seed, verbose=False)
    module = SegmentationModule(config)
    subsets = slice_subsets(cohort, make_split(cohort), 0)
    datamodule = CohortDataModule(cohort, subsets, config)
    trainer.make_trainer(config, [], False, enable_checkpointing=False).fit(module, datamodule)
    state = module.networks.averaged.state_dict()
    weights = torch.cat([value.double().flatten() for value in state.values()])
    facts = {
        "dice": validate(module, cohort, config).to_dict(),
        "patients": distributed.of_all(list(datamodule.cohort.patients.index)),
        "resident": distributed.of_all(len(datamodule.on_device.pixels)),
        "batches": distributed.of_all(len(datamodule.train_dataloader())),
        "weights": distributed.of_all([float(weights.sum()), float(weights.square().sum())]),
    }
    if distributed.rank() == 0:
        out.mkdir()
        torch.save(state, out / "weights.pt")
        (out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
