"""A run and a checkpoint to compare with their checksums."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lggseg.config import profile

CONFIG = replace(profile("smoke"), width=2)
FACTS = {"data_fingerprint": "", "split_fingerprint": "", "simulated": True}


def a_checkpoint() -> dict[str, Any]:
    torch.manual_seed(0)
    weights = {f"networks.{name}.weight": torch.randn(8, 8, 3, 3) for name in "abc"}
    optimizer = [{"state": {0: {"step": torch.tensor(3.0)}}}]
    return {"epoch": 2, "state_dict": weights, "optimizer_states": optimizer, "loops": {}}
