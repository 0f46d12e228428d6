"""What people give to the program, each as a folder of files: what the command line, the viewer and
the HTML file make of it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
from dicom_files import write_series
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image
from scan_files import head

MASK = "a mask"  # otherwise what the sentence must hold
DICOM_PAGE = "found a DICOM file; expected TIFF or NIfTI"


@dataclass(frozen=True)
class Input:
    """make: writes the files into a folder; command, viewer, page: ``MASK`` or a part of the
    sentence; folder: whether the command line gets the folder instead of its FLAIR file."""

    make: Callable[[Path], object]
    command: str = MASK
    viewer: str = ""
    page: str = ""
    folder: bool = False

    @property
    def expected(self) -> dict[str, str]:
        viewer = self.viewer or self.command
        return {"command": self.command, "viewer": viewer, "page": self.page or viewer}


def small(spacing: tuple[float, float, float] = (4, 3.5, 6)) -> nib.Nifti1Image:
    """The head, textured, so that no sequence is a copy of another by rounding alone."""
    image = head(spacing)
    values = image.get_fdata()
    noise = np.random.default_rng(0).normal(0, 3, values.shape)
    return nib.Nifti1Image((values + noise * (values > 0)).astype(np.float32), image.affine)


def turned(codes: str) -> nib.Nifti1Image:
    image = small()
    start, end = io_orientation(image.affine), axcodes2ornt(tuple(codes))
    return image.as_reoriented(ornt_transform(start, end))


def save(*images: nib.Nifti1Image, names: str = "flair.nii.gz") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for image, name in zip(images, names.split(), strict=True):
            nib.save(image, folder / name)

    return make


def raw(name: str, content: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content())


def stored(dtype: str, slope: float = 1, intercept: float = 0) -> nib.Nifti1Image:
    image = small()
    values = np.round((image.get_fdata() - intercept) / slope).astype(dtype)
    made = nib.Nifti1Image(values, image.affine)
    made.header.set_slope_inter(slope, intercept)
    return made


def big_endian() -> bytes:
    image = small()
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">f4")
    made = nib.Nifti1Image(image.get_fdata().astype(">f4"), None, header)
    made.set_sform(image.affine, code=1)
    return bytes(made.to_bytes())


def with_nan() -> nib.Nifti1Image:
    values = small().get_fdata()
    values[:2] = np.nan
    return nib.Nifti1Image(values.astype(np.float64), small().affine)


def moved(millimetres: float) -> nib.Nifti1Image:
    image = small()
    image.affine[2, 3] += millimetres
    return nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine)


def no_orientation() -> nib.Nifti1Image:
    image = small()
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    return image


def header_bytes(**fields: object) -> bytes:
    """A NIfTI file with some fields of its header changed."""
    image = small()
    content = bytearray(image.to_bytes())
    header = image.header.copy()
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    return bytes(content)


def analyze() -> bytes:
    content = bytearray(small().to_bytes())
    content[344:348] = bytes(4)
    return bytes(content)


def slices(folder: Path, skip: int = 0, size: int = 256, cut: int = 0) -> None:
    """A patient of six slices in Kaggle's layout, without masks."""
    inner = folder / "P1"
    inner.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.ogrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    for number in range(1, 7):
        if number == skip:
            continue
        image = np.where(x**2 + y**2 < 0.5, 90, 2) + rng.integers(0, 8, (3, size, size))
        pixels = np.moveaxis(image, 0, -1).astype(np.uint8)
        path = inner / f"P1_{number}.tif"
        tifffile.imwrite(path, pixels, photometric="rgb")
        if number == cut:
            path.write_bytes(path.read_bytes()[:-5000])


def pages(folder: Path) -> None:
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 200, (4, 256, 256, 3)).astype(np.uint8)
    tifffile.imwrite(folder / "volume.tif", volume, photometric="rgb", compression="zlib")


def series(**fields: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        image = nib.Nifti1Image(small().get_fdata().astype(np.int16), small().affine)
        write_series(image, folder / "A", "AX FLAIR", 1, **fields)

    return make


def picture(folder: Path) -> None:
    Image.new("L", (64, 64)).save(folder / "flair.png")


def gap(place: int) -> list[float]:
    return [0, 0, 6.0 * (place + (place > 4))]


AXIAL = [1, 0, 0, 0, 1, 0]
TWO = small(), small((2, 1.8, 3))
BRATS = "BraTS-GLI-00000-000-t2f.nii.gz BraTS-GLI-00000-000-t1c.nii.gz"
INPUTS: dict[str, Input] = {
    "NIfTI, gzipped": Input(save(small())),
    "NIfTI, plain": Input(save(small(), names="flair.nii")),
    "NIfTI-2": Input(save(nib.Nifti2Image(small().get_fdata(), small().affine))),
    "NIfTI, the other byte order": Input(raw("flair.nii", big_endian)),
    "NIfTI by another ending's compression": Input(
        raw("flair.nii", lambda: gzip.compress(small().to_bytes()))
    ),
    "left on the left": Input(save(turned("LAS"))),
    "stored sagittally": Input(save(turned("PIR"))),
    "stored coronally, upside down": Input(save(turned("RIA"))),
    "integers with a scale": Input(save(stored("i2", 0.25, -20))),
    "64 bits with NaN": Input(save(with_nan())),
    "T1 on FLAIR's voxels": Input(save(small(), small(), names="flair.nii t1ce.nii")),
    "T1 on voxels of its own": Input(save(*TWO, names="flair.nii t1.nii"), folder=True),
    "T1 that is rotated in storage": Input(
        save(small(), turned("PSR"), names="flair.nii t1.nii"), folder=True
    ),
    "BraTS 2023's names": Input(save(small(), small(), names=BRATS), folder=True),
    "T1 of another place": Input(
        save(small(), moved(70), names="flair.nii t1.nii"), "% of the head in FLAIR", folder=True
    ),
    "two FLAIRs": Input(
        save(small(), small(), names="a_flair.nii a_flair2.nii"),
        "each could be FLAIR",
        "found FLAIR, FLAIR; expected one FLAIR",
        folder=True,
    ),
    "a series of volumes": Input(
        save(nib.Nifti1Image(np.ones((9, 9, 9, 4), np.float32), np.eye(4))), "found the shape (9, 9"
    ),
    "no orientation": Input(save(no_orientation()), "found no orientation in the header"),
    "a mask": Input(
        save(nib.Nifti1Image((small().get_fdata() > 50).astype(np.uint8), small().affine)),
        "two grey levels, as a mask has",
    ),
    "nothing but one grey level": Input(
        save(nib.Nifti1Image(np.ones((9, 9, 9), np.float32), np.eye(4))), "hardly any voxel"
    ),
    "a download that was cut off": Input(
        raw("flair.nii.gz", lambda: gzip.compress(small().to_bytes())[:-3000]),
        "found no readable NIfTI",
    ),
    "voxels that were cut off": Input(
        raw("flair.nii", lambda: small().to_bytes()[:-3000]), "found no readable NIfTI"
    ),
    "complex numbers": Input(
        raw("flair.nii", lambda: header_bytes(datatype=32, bitpix=64, vox_offset=352)),
        "expected grey levels",
    ),
    "Analyze 7.5": Input(raw("flair.nii", analyze), "found Analyze 7.5"),
    "DICOM by another name": Input(
        raw("flair.nii", lambda: bytes(128) + b"DICM" + bytes(900)), "found a DICOM file"
    ),
    "an empty file": Input(raw("flair.nii", bytes), "an empty file"),
    "voxels in metres": Input(
        save(nib.Nifti1Image(small().get_fdata(), np.diag([0.004, 0.0035, 0.006, 1]))),
        "expected edges of 0.1 to 20",
    ),
    "a picture": Input(
        picture, ".png; expected", "'flair.png'", "found a PNG picture", folder=True
    ),
    "MetaImage": Input(
        raw("flair.mha", lambda: b"ObjectType = Image\nNDims = 3\n"),
        "ReadImage(",
        folder=True,
    ),
    "Kaggle's slices": Input(slices, folder=True),
    "one TIFF of all slices": Input(pages, folder=False),
    "slices with a gap": Input(
        lambda folder: slices(folder, skip=3), "no slice 3", "each number once", folder=True
    ),
    "a slice that was cut off": Input(
        lambda folder: slices(folder, cut=2), "P1_2.tif: found", folder=True
    ),
    "slices of another size": Input(lambda folder: slices(folder, size=128), "256", folder=True),
    "FreeSurfer's MGH": Input(
        lambda folder: nib.save(
            nib.MGHImage(small().get_fdata(dtype=np.float32), small().affine), folder / "flair.mgz"
        ),
        page="expected TIFF or NIfTI",
    ),
    "a DICOM study": Input(series(), page=DICOM_PAGE, folder=True),
    "CT in DICOM": Input(
        series(Modality="CT"), "modality CT, not MR", page=DICOM_PAGE, folder=True
    ),
    "a DICOM series with a gap": Input(
        series(ImageOrientationPatient=AXIAL, ImagePositionPatient=gap),
        "mm between slices",
        page=DICOM_PAGE,
        folder=True,
    ),
    "DICOM of many frames": Input(
        series(NumberOfFrames=20), "20 frames in one file", page=DICOM_PAGE, folder=True
    ),
}
