"""Scans in NIfTI files: what a model takes of them, and its mask back on their voxels.

The training slices go upwards, with anterior at the top and the patient's left on the right, as
radiologists look at them: data.csv's laterality 1 (if its levels are alphabetical: left) has the
tumour in the right half of the image in 39 of 39 patients, 3 in the left half in 28 of 29. A scan
is turned to that and resampled (:mod:`lggseg.preprocessing.resampling`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    axcodes2ornt,
    io_orientation,
    ornt_transform,
)

from lggseg.data.grids import registered, resampled, same_grid
from lggseg.data.scans import CONVERT, EXPECTED, open_scan
from lggseg.preprocessing.resampling import PIXEL, Grid, finite, slice_stride
from lggseg.preprocessing.volume import CHANNELS, FLAIR
from lggseg.utils.errors import DataError, LeftOut, printable
from lggseg.utils.files import not_a_file

SUFFIX = re.compile(r"\.((nii|mgh|hdr|img)(\.gz)?|mgz)$", re.IGNORECASE)
_HALF = re.compile(r"\.(hdr|img)(\.gz)?$", re.IGNORECASE)
MAX_VOXELS = 2**28  # of a scan: 640 × 640 × 655, or 1 GiB as 32-bit floats
MAX_SLICES = 1024
# Slices upwards, rows front to back, columns from the patient's right to the left.
AXES = axcodes2ornt(("S", "P", "L"))
VOXEL = (0.1, 20.0)  # the shortest and the longest edge of a voxel that is taken for millimetres


@dataclass(frozen=True)
class Scan:
    """A patient's FLAIR file, and where the model's volume lies in it.

    missing: the sequences for which FLAIR stands in. notes: sentences on the sequences that were
    not on FLAIR's voxels.
    """

    flair: nib.Nifti1Image
    missing: tuple[str, ...]
    grid: Grid
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the FLAIR file without its suffix."""
        return scan_name(str(self.flair.get_filename()))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between the slices, rows and columns of the model's volume."""
        return float(_spacing(self.flair)[0]), PIXEL, PIXEL

    @property
    def slice_stride(self) -> int:
        """How many slices further a neighbour is as far as in the training data."""
        return slice_stride(self.spacing[0])

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel of the scan in millilitres."""
        return float(abs(np.linalg.det(self.flair.affine[:3, :3]))) / 1000

    def mask_image(self, mask: np.ndarray) -> nib.Nifti1Image:
        """A mask of the model's volume, bool ``(slices, 256, 256)``, on the scan's voxels: uint8,
        0 and 1, nearest neighbour, with the scan's shape, affine and header."""
        shape = tuple(np.array(self.flair.shape)[_axes(self.flair)])
        turned = self.grid.voxels(mask, shape)
        voxels = apply_orientation(turned, ornt_transform(AXES, io_orientation(self.flair.affine)))
        header = self.flair.header.copy()
        header.set_data_dtype(np.uint8)
        header["cal_min"], header["cal_max"] = 0, 1  # how bright viewers show it
        header.extensions.clear()  # what a scanner or a program noted about the scan
        return type(self.flair)(voxels, self.flair.affine, header)

    def without_voxels(self) -> Scan:
        """The same without the scan's grey levels, which take memory that a mask does not need."""
        voxels = np.broadcast_to(np.uint8(0), self.flair.shape)
        empty = type(self.flair)(voxels, self.flair.affine, self.flair.header)
        return replace(self, flair=empty)


def slices_image(array: np.ndarray, spacing: Sequence[float] | None = None) -> nib.Nifti1Image:
    """Slices of the model's volume as a NIfTI image of the patient's directions.

    array: ``(slices, rows, columns)`` or ``(slices, rows, columns, channels)``; spacing:
    millimetres along the first three. Without it voxels are cubes of 1 in an unknown unit.
    """
    slices, rows, columns = spacing or (1.0, 1.0, 1.0)
    # AXES: rows and columns run against the axes of NIfTI, which go right, front and up.
    image = nib.Nifti1Image(np.swapaxes(array, 0, 2), np.diag([-columns, -rows, slices, 1]))
    image.header.set_xyzt_units("mm" if spacing else "unknown")
    return image


def scan_name(path: Path | str) -> str:
    """The patient's name: that of the FLAIR file without its suffix.

    >>> scan_name("sub.1.nii.gz")
    'sub.1'
    """
    return SUFFIX.sub("", Path(path).name)


def is_nifti(path: Path | str) -> bool:
    """Whether a file is named like a scan: NIfTI's ``.nii``, ``.nii.gz``, ``.hdr`` and ``.img``, or
    FreeSurfer's ``.mgz`` and ``.mgh``."""
    return SUFFIX.search(str(path)) is not None


def read_nifti(
    flair: Path | str,
    pre: Path | str | None = None,
    post: Path | str | None = None,
    *,
    register: bool = False,
) -> tuple[np.ndarray, Scan]:
    """The sequences of one patient as a volume for a model, and the way back.

    Returns uint8 ``(slices, 256, 256, 3)``, pre-contrast, FLAIR, post-contrast, where FLAIR stands
    in for a sequence that is not given, as in the training data; pixels of 240 / 256 mm, centred
    on the head. Voxels outside the scan, NaN and infinity become its darkest value. Sequences on
    other voxels than FLAIR's are brought onto them by the positions in their headers; ``register``:
    by a rigid registration from there on (:mod:`lggseg.data.grids`). Raises ``DataError`` for what
    is not a 3-D scan of known place, and for sequences that do not show the same head.
    """
    paths = dict(zip(CHANNELS, (pre, flair, post), strict=True))
    images = {name: _open(Path(path)) for name, path in paths.items() if path is not None}
    return volume_of(images, register=register)


def volume_of(
    images: Mapping[str, nib.Nifti1Image], *, register: bool = False
) -> tuple[np.ndarray, Scan]:
    """What :func:`read_nifti` returns, of opened images by the names in ``CHANNELS``, which have
    passed :func:`check_header`; FLAIR must be among them. Raises ``DataError``."""
    reference = images[CHANNELS[FLAIR]]
    grid = Grid.of(_values(reference), _spacing(reference))
    grey, notes = {}, []
    for name, image in images.items():
        on_grid, note = _on_grid(name, image, reference, register)
        grey[name] = _grey(on_grid, grid)
        notes += [note] if note else []
    volume = np.stack([grey.get(name, grey[CHANNELS[FLAIR]]) for name in CHANNELS], axis=-1)
    missing = tuple(name for name in CHANNELS if name not in grey)
    return volume, Scan(reference, missing, grid, tuple(notes))


def _open(path: Path) -> nib.Nifti1Image:
    """A file with its header checked; its voxels are in memory as they are stored."""
    if found := not_a_file(path):
        raise DataError(path, found, EXPECTED, "Name the file itself.")
    header, voxels = _pair(path)
    with header.open("rb") as file, ExitStack() as stack:
        image = open_scan(
            file, str(path), MAX_VOXELS, lambda: stack.enter_context(voxels.open("rb"))
        )
    check_header(path, image)
    _say_which_form(path, image)
    if (slices := slices_of(image)) > MAX_SLICES:
        raise DataError(path, f"{slices} slices", f"at most {MAX_SLICES}", "Crop or resample it.")
    return image


def _pair(path: Path) -> tuple[Path, Path]:
    """The files of the header and of the voxels, which for most kinds are one."""
    match = _HALF.search(path.name)
    if match is None:
        return path, path
    halves = ("HDR", "IMG") if match[1].isupper() else ("hdr", "img")
    first, last = path.name[: match.start(1)], path.name[match.end(1) :]
    header, voxels = (path.with_name(f"{first}{half}{last}") for half in halves)
    for file in (header, voxels):
        if found := not_a_file(file):
            expected = "header (.hdr) and voxels (.img) side by side"
            raise DataError(file, found, expected, "Copy it there, too.")
    return header, voxels


def check_header(path: Path | str, image: nib.Nifti1Image) -> None:
    """Refuse a scan of no known place. Raises ``DataError``."""
    if not (image.header["sform_code"] or image.header["qform_code"]):
        expected = "an sform or a qform, which say what is up and what is left"
        raise DataError(path, "no orientation in the header", expected, CONVERT)
    spacing = voxel_sizes(image.affine)
    if not np.all((spacing >= VOXEL[0]) & (spacing <= VOXEL[1])):
        found = f"voxels of {' × '.join(f'{edge:.4g}' for edge in spacing)} mm"
        expected = f"edges of {VOXEL[0]} to {VOXEL[1]} mm"
        raise DataError(path, found, expected, "Correct the affine; its unit must be millimetres.")
    # The volume of a voxel, as a share of what it would be with edges at right angles.
    if abs(np.linalg.det(image.affine[:3, :3])) < 0.5 * np.prod(spacing):
        expected = "edges at nearly right angles"
        raise DataError(path, "axes that hardly differ", expected, "Correct the affine.")


def _say_which_form(path: Path, image: nib.Nifti1Image) -> None:
    """Warn where the header's two affines disagree about what is up or left: the sform is taken."""
    header = image.header
    if header["sform_code"] and header["qform_code"]:
        forms = ["".join(aff2axcodes(form)) for form in (header.get_sform(), header.get_qform())]
        if forms[0] != forms[1]:
            text = (
                f"{path}: found an sform of {forms[0]} and a qform of {forms[1]}, which differ in "
            )
            text += "what is up or left; going on by the sform. If that is wrong, correct it."
            warnings.warn(printable(text), LeftOut, stacklevel=4)


def _on_grid(
    name: str, image: nib.Nifti1Image, reference: nib.Nifti1Image, register: bool
) -> tuple[nib.Nifti1Image, str]:
    """A sequence on the voxels of FLAIR, and a sentence on what was done to it, if anything."""
    if image is reference or (same_grid(image, reference) and not register):
        return image, ""
    if register:
        moved, move = registered(image, reference)
        return moved, f"{name}: {move} onto FLAIR by rigid registration."
    edges = " × ".join(f"{edge:.3g}" for edge in voxel_sizes(image.affine))
    note = f"{name}: resampled from voxels of {edges} mm onto FLAIR's, by the scans' positions."
    return resampled(image, reference), note


def _axes(image: nib.Nifti1Image) -> np.ndarray:
    """Which axis of the file becomes slices, rows and columns: integers ``(3,)``."""
    return np.argsort(_turn(image)[:, 0])


def slices_of(image: nib.Nifti1Image) -> int:
    """How many axial slices a scan has."""
    return int(image.shape[_axes(image)[0]])


def _turn(image: nib.Nifti1Image) -> np.ndarray:
    return ornt_transform(io_orientation(image.affine), AXES)


def _spacing(image: nib.Nifti1Image) -> np.ndarray:
    """Millimetres between slices, rows and columns: float64 ``(3,)``."""
    return voxel_sizes(image.affine)[_axes(image)]


def _values(image: nib.Nifti1Image) -> np.ndarray:
    """The scan turned to slices, rows and columns: float32, finite."""
    # Not kept in the image, which would hold them twice.
    values = image.get_fdata(caching="unchanged", dtype=np.float32)
    return finite(apply_orientation(values, _turn(image)))


def _grey(image: nib.Nifti1Image, grid: Grid) -> np.ndarray:
    """A sequence in the model's pixels and grey levels: uint8 ``(slices, 256, 256)``."""
    values, path = _values(image), str(image.get_filename())
    try:
        grey = grid.pixels(values)
    except ValueError as error:
        raise DataError(path, str(error), "a head", CONVERT) from error
    if np.all((values == values.min()) | (values == values.max())):
        action = "Name the scan instead of its mask."
        raise DataError(path, "two grey levels, as a mask has", "a scan", action)
    return grey
