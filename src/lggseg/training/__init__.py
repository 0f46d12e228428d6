"""Training a network: data on the device, steps, optimiser, run folder, logging."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "datamodule": "CohortDataModule DeviceCohort",
        "module": "SegmentationModule",
        "muon": "MuonAdamW",
        "precision": "choose_precision",
        "train": "validation_dice",
    },
)
