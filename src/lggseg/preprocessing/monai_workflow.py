"""What a MONAI bundle runs besides MONAI's own: transforms, an inferer and the loop over patients.

``lggseg.inference.monai_bundle`` copies this folder into a bundle as ``scripts``, where it runs
without the rest of the package. So it imports nothing but NumPy, torch, MONAI and its neighbours.
"""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer, SliceInferer
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, convert_to_dst_type, convert_to_numpy
from torch import Tensor

from .postprocessing import drop_small_components
from .resampling import Grid, finite, slice_stride
from .transforms import normalise, shrink, with_neighbours
from .volume import CHANNELS, FLAIR, channel_statistics, stack_channels

SEQUENCES = ("pre", "flair", "post")  # the file names of CHANNELS


def find_scans(dataset_dir: str) -> list[dict[str, list[str]]]:
    """The patients in a folder: one folder each with ``flair.nii.gz``, and ``pre.nii.gz`` and
    ``post.nii.gz`` or what there is of them (FLAIR stands in, as in the training data).

    Returns MONAI's list of data: pre-contrast, FLAIR and post-contrast as the channels of
    ``image``. Raises ``ValueError`` when no patient is found.
    """
    scans = []
    folders = sorted(path for path in Path(dataset_dir).iterdir() if path.name[0] != ".")
    for folder in filter(os.path.isdir, folders):
        files = [_scan(folder, name) for name in SEQUENCES]
        if flair := files[FLAIR]:
            scans.append({"image": [file or flair for file in files]})
    if not scans:
        raise ValueError(
            f"{dataset_dir}: found no folder with flair.nii.gz or flair.nii; expected one folder a "
            f"patient, with {', '.join(f'{name}.nii.gz' for name in SEQUENCES)}."
        )
    return scans


def _scan(folder: Path, name: str) -> str | None:
    try:
        files = {file.name.lower(): str(file) for file in folder.iterdir() if file.is_file()}
    except PermissionError:  # such as lost+found, which is no patient
        return None
    return files.get(f"{name}.nii.gz") or files.get(f"{name}.nii")


def whole_weights(path: str) -> str:
    """``path``, if each record of that file of weights matches its CRC-32, which torch does not
    compare. Raises ``ValueError`` otherwise."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error
    if damaged:
        raise _damaged(path, f"{damaged} does not match its checksum")
    return path


def _damaged(path: str, why: object) -> ValueError:
    return ValueError(f"{path}: found a damaged file ({why}); expected a whole one. Copy it again.")


class WholeScansd(MapTransform):
    """Passes on the paths of scans that match the checksums of gzip, which readers that stop at the
    last voxel do not compare. Raises ``ValueError`` otherwise."""

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Iterable[str]]) -> Mapping[Hashable, Iterable[str]]:
        for key in self.key_iterator(data):
            for path in set(data[key]):
                _read_to_the_end(path)
        return data


def _read_to_the_end(path: str) -> None:
    if not path.endswith(".gz"):
        return
    try:
        with gzip.open(path) as file:
            while file.read(2**20):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error


class ToGridd(MapTransform, InvertibleTransform):
    """Put scans that are turned to slices, rows and columns onto the model's pixels and grey levels
    (:class:`.resampling.Grid`), FLAIR's head in the middle; the inverse takes a mask back.

    The image: ``(3, slices, rows, columns)``, pre-contrast, FLAIR, post-contrast, with an affine in
    millimetres → float32 of whole numbers ``(3, slices, 256, 256)``. Raises ``ValueError`` for
    another number of sequences and for one that shows nothing.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        return {**data, **{key: self._onto_grid(data[key]) for key in self.key_iterator(data)}}

    def inverse(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        return {**data, **{key: self._back(data[key]) for key in self.key_iterator(data)}}

    def _onto_grid(self, image: MetaTensor) -> MetaTensor:
        if image.ndim != 4 or len(image) != len(CHANNELS):
            raise ValueError(
                f"image: found the shape {tuple(image.shape)}, expected (3, slices, rows, "
                f"columns): {', '.join(CHANNELS)}, each a scan of three dimensions"
            )
        sequences = [finite(sequence) for sequence in convert_to_numpy(image)]
        grid = Grid.of(sequences[FLAIR], np.array(image.pixdim))
        pixels = np.stack([grid.pixels(sequence) for sequence in sequences])
        affine = np.diag([*grid.zoom, 1.0])
        affine[:3, 3] = grid.offset
        moved, *_ = convert_to_dst_type(pixels, image)
        facts = {"zoom": grid.zoom.tolist(), "offset": grid.offset.tolist()}
        size = tuple(image.shape[1:])
        return self.push_transform(moved, affine=affine, orig_size=size, extra_info=facts)

    def _back(self, mask: MetaTensor) -> MetaTensor:
        applied = self.pop_transform(mask)
        facts = applied[TraceKeys.EXTRA_INFO]
        grid = Grid(np.array(facts["zoom"]), np.array(facts["offset"]))
        voxels = [
            grid.voxels(channel, applied[TraceKeys.ORIG_SIZE]) for channel in convert_to_numpy(mask)
        ]
        moved, *_ = convert_to_dst_type(np.stack(voxels), mask)
        affine = np.diag([*1 / grid.zoom, 1.0])
        affine[:3, 3] = -grid.offset / grid.zoom
        moved.affine = mask.affine @ torch.from_numpy(affine)
        return moved


class ToNetworkInputd(MapTransform):
    """What the network sees of a volume: neighbouring FLAIR slices as further channels, shrunk, air
    0 and tissue 1.

    The image: what :class:`ToGridd` gives → float32 ``(3 or 5, slices, size, size)``. Its affine
    stays that of 256 × 256 pixels, on which the mask will lie.
    """

    def __init__(self, keys: KeysCollection, neighbours: bool, downsample: int) -> None:
        super().__init__(keys)
        self.neighbours, self.downsample = neighbours, downsample

    def __call__(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        return {**data, **{key: self._see(data[key]) for key in self.key_iterator(data)}}

    def _see(self, image: MetaTensor) -> MetaTensor:
        volume = np.moveaxis(convert_to_numpy(image), 0, -1).astype(np.uint8)
        stride = slice_stride(float(image.pixdim[0]))
        channels = torch.from_numpy(stack_channels(volume, self.neighbours, stride))
        statistics = torch.from_numpy(channel_statistics(volume))
        background, scale = with_neighbours(statistics, self.neighbours)[:, None]
        seen = normalise(shrink(channels, self.downsample), background, scale)
        return convert_to_dst_type(seen.movedim(1, 0), image)[0]


class DropSmallComponentsd(MapTransform):
    """:func:`.postprocessing.drop_small_components` of masks ``(1, slices, height, width)``."""

    def __init__(self, keys: KeysCollection, share: float) -> None:
        super().__init__(keys)
        self.share = share

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        return {**data, **{key: self._drop(data[key]) for key in self.key_iterator(data)}}

    def _drop(self, mask: Tensor) -> Tensor:
        masks = [
            drop_small_components(channel > 0, self.share) for channel in convert_to_numpy(mask)
        ]
        return convert_to_dst_type(np.stack(masks), mask)[0]


class MirrorSliceInferer(SliceInferer):
    """MONAI's inferer slice by slice, with the mean of the logits of each slice and its mirror."""

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        def both(slices: Tensor) -> Tensor:
            return (network(slices) + network(slices.flip(-1)).flip(-1)) / 2

        return super().__call__(inputs, both, *args, **kwargs)


@torch.no_grad()
def segment(
    dataset: Iterable[dict[str, Any]],
    network: torch.nn.Module,
    inferer: Inferer,
    postprocessing: Callable[[dict[str, Any]], object],
    device: torch.device,
) -> None:
    """Segment all patients of a dataset: what MONAI's evaluator does, without pytorch-ignite."""
    for patient in dataset:
        logits: Any = inferer(patient["image"][None].to(device), network)
        postprocessing({**patient, "pred": logits[0]})
