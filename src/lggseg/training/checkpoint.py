"""Atomic writes of checkpoints: complete or absent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from lggseg.utils.files import replace_file


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place. Lightning does so in the system's temporary folder and
    moves it; where that is another disk, moving is copying, and half a copy looks like a whole
    checkpoint to a run that goes on."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        replace_file(Path(path), lambda temporary: temporary.write_bytes(content.getbuffer()))
