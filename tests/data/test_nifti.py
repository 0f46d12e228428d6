"""NIfTI in, NIfTI out: orientation, grid, grey levels, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import SpatialImage
from scan_files import head, saved

from lggseg import cli
from lggseg.config import profile
from lggseg.data.nifti import is_nifti, read_nifti
from lggseg.data.simulation import make_patient, plan_cohort
from lggseg.evaluation.segmentation import patient_metrics
from lggseg.inference.scans import predict_nifti
from lggseg.inference.segmenter import Segmenter
from lggseg.utils.errors import DataError, LeftOut

MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"
ORIENTATIONS = [
    "".join(codes) for axes in permutations(["RL", "AP", "SI"]) for codes in product(*axes)
]


def turned(image: SpatialImage, codes: str) -> SpatialImage:
    """The same scan with its voxels stored in another order."""
    start, end = io_orientation(image.affine), axcodes2ornt(tuple(codes))
    return image.as_reoriented(ornt_transform(start, end))


def bright(volume: np.ndarray) -> np.ndarray:
    """The blob of :func:`head` in a volume."""
    return volume[..., 1] > 120


@pytest.fixture
def flair(tmp_path: Path) -> Path:
    return saved(head(), tmp_path / "flair.nii.gz")


def test_slices_go_up_with_front_at_the_top_and_left_on_the_right(flair: Path) -> None:
    volume, _ = read_nifti(flair)
    assert volume.shape == (13, 256, 256, 3) and volume.dtype == np.uint8
    z, y, x = np.argwhere(bright(volume)).mean(axis=0)
    assert z > 7 and y < 110 and x > 145


def test_the_mask_lies_where_the_tumour_is(flair: Path) -> None:
    volume, scan = read_nifti(flair)
    mask = np.asarray(scan.mask_image(bright(volume)).dataobj)
    truth = head().get_fdata() == 200
    assert np.count_nonzero(mask != truth) < 0.1 * truth.sum()


def through(codes: str, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scan stored like this: its volume, and its written mask's voxels and affine as RAS."""
    path = saved(turned(head(), codes), folder / f"{codes}.nii")
    image, (volume, scan) = nib.load(path), read_nifti(path)
    mask = nib.load(saved(scan.mask_image(bright(volume)), folder / "mask.nii.gz"))
    assert mask.shape == image.shape and np.array_equal(mask.affine, image.affine)
    back = turned(mask, "RAS")
    return volume, np.asarray(back.dataobj), back.affine


@pytest.fixture(scope="module")
def ras(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return through("RAS", tmp_path_factory.mktemp("ras"))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_orientation_is_the_same_scan(
    codes: str, ras: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    for of_codes, of_ras in zip(through(codes, tmp_path), ras, strict=True):
        np.testing.assert_allclose(of_codes, of_ras, atol=1e-4)


def test_the_right_pixels_are_only_shifted(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0, 100, (256, 256, 3)).astype(np.float32)
    image = nib.Nifti1Image(values, np.diag([-0.9375, -0.9375, 5, 1]))
    volume, scan = read_nifti(saved(image, tmp_path / "flair.nii"))
    mask = volume[..., 1] > 80
    expected = np.moveaxis(values, -1, 0).swapaxes(1, 2)
    y, x = (int(step) for step in scan.grid.offset[1:])
    inner = (slice(None), slice(20, 236), slice(20, 236))
    shifted = np.roll(volume[..., 1], (y, x), (1, 2))[inner].astype(float)
    np.testing.assert_allclose(shifted, expected[inner] * 1.65, atol=1)
    back = np.asarray(scan.mask_image(mask).dataobj).transpose(2, 1, 0)
    assert np.array_equal(back[inner], np.roll(mask, (y, x), (1, 2))[inner])


def test_fine_voxels_come_back(tmp_path: Path) -> None:
    image = head((0.5, 0.45, 3))
    volume, scan = read_nifti(saved(image, tmp_path / "flair.nii"))
    mask = np.asarray(scan.mask_image(bright(volume)).dataobj) > 0
    assert patient_metrics(image.get_fdata() == 200, mask)["dice"] > 0.97


def test_forms_that_disagree_about_left_are_told(tmp_path: Path) -> None:
    image = head()
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume, _ = read_nifti(saved(image, tmp_path / "same.nii"))
    image.set_qform(np.diag([-1, 1, 1, 1]) @ image.affine, code="scanner")
    with pytest.warns(LeftOut, match="an sform of RAS and a qform of LAS, which differ"):
        again, _ = read_nifti(saved(image, tmp_path / "other.nii"))
    assert np.array_equal(volume, again)


def test_the_header_is_kept(tmp_path: Path) -> None:
    image = head()
    image.set_qform(image.affine, code="scanner")
    image.header.set_xyzt_units("mm", "sec")
    _, scan = read_nifti(saved(image, tmp_path / "flair.nii"))
    mask = scan.mask_image(np.zeros((13, 256, 256), bool))
    assert mask.get_data_dtype() == np.uint8
    for field in ("pixdim", "xyzt_units", "qform_code", "sform_code", "srow_x", "quatern_b"):
        assert np.array_equal(mask.header[field], image.header[field]), field


def as_scaled_int16(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Stored as integers with a slope and an intercept, as scanners' converters do."""
    header = image.header.copy()
    header.set_data_dtype(np.int16)
    return nib.Nifti1Image(image.get_fdata() * 0.037 + 5, image.affine, header)


def as_type(dtype: type) -> Callable[[nib.Nifti1Image], nib.Nifti1Image]:
    return lambda image: nib.Nifti1Image(image.get_fdata().astype(dtype), image.affine)


def with_holes(image: nib.Nifti1Image) -> nib.Nifti1Image:
    values = image.get_fdata()
    values[0, 0, 0], values[0, 0, 1], values[0, 1, 0] = np.nan, np.inf, -np.inf
    return nib.Nifti1Image(values, image.affine)


@pytest.mark.parametrize(
    "change",
    [
        as_scaled_int16,
        as_type(np.uint8),
        as_type(np.int16),
        as_type(np.float64),
        with_holes,
        lambda image: nib.Nifti1Image(image.get_fdata() * 1e4 - 300, image.affine),
        lambda image: nib.Nifti1Image(image.get_fdata()[..., None], image.affine),
        lambda image: nib.Nifti2Image(image.get_fdata(), image.affine),
    ],
    ids=["scaled", "uint8", "int16", "float64", "NaN", "scale", "one volume of four", "NIfTI-2"],
)
def test_neither_type_nor_scale_matters(
    change: Callable[[nib.Nifti1Image], nib.Nifti1Image], flair: Path, tmp_path: Path
) -> None:
    expected, _ = read_nifti(flair)
    volume, scan = read_nifti(saved(change(head()), tmp_path / "other.nii"))
    np.testing.assert_allclose(volume.astype(int), expected.astype(int), atol=1)
    assert scan.mask_image(bright(volume)).shape == head().shape


def test_flair_stands_in_for_what_is_missing(flair: Path, tmp_path: Path) -> None:
    pre = saved(as_type(np.int16)(head().slicer[:]), tmp_path / "pre.nii")
    volume, scan = read_nifti(flair, pre)
    assert scan.missing == ("post-contrast",)
    assert np.array_equal(volume[..., 2], volume[..., 1])
    assert read_nifti(flair)[1].missing == ("pre-contrast", "post-contrast")


def test_each_sequence_has_its_channel(flair: Path, tmp_path: Path) -> None:
    dark = saved(nib.Nifti1Image(-head().get_fdata(), head().affine), tmp_path / "dark.nii")
    for channel, paths in ((0, {"pre": dark}), (2, {"post": dark})):
        volume, _ = read_nifti(flair, **paths)
        levels = volume[bright(volume)].mean(axis=0)
        assert [bool(level < 20) for level in levels] == [c == channel for c in range(3)]


def test_thin_slices_have_neighbours_as_far_as_in_training(tmp_path: Path) -> None:
    for thickness, slice_stride in ((6, 1), (3, 2), (1.5, 3)):
        _, scan = read_nifti(saved(head((4, 3.5, thickness)), tmp_path / "flair.nii"))
        assert scan.slice_stride == slice_stride


def test_prediction_looks_for_neighbours_there(tmp_path: Path) -> None:
    seen = []

    def run(image: np.ndarray, background: np.ndarray, scale: np.ndarray) -> np.ndarray:
        seen.append(image)
        return np.zeros((len(image), 256, 256), np.float32)

    path = saved(head((4, 3.5, 1.5)), tmp_path / "flair.nii")
    table = predict_nifti(Segmenter(profile("full"), {}, run), path, tmp_path)
    image = np.concatenate(seen)
    assert np.array_equal(image[3:, 3], image[:-3, 1])
    assert np.array_equal(image[:-3, 4], image[3:, 1])
    assert table["tumour_ml"].tolist() == [0.0]


def test_millilitres(tmp_path: Path) -> None:
    """Voxels of 1 × 2 × 3 mm are 6 mm³: 500 of them are 3 ml."""
    _, scan = read_nifti(saved(head((1, 2, 3)), tmp_path / "flair.nii"))
    assert 500 * scan.voxel_ml == pytest.approx(3.0, rel=0.005)


def flat(value: float) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.full((9, 9, 9), value, np.float32), np.eye(4))


def mask() -> nib.Nifti1Image:
    return nib.Nifti1Image((head().get_fdata() == 200).astype(np.uint8), head().affine)


def without_orientation() -> nib.Nifti1Image:
    image = head()
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    return image


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (nib.Nifti1Image(np.zeros((9, 9, 9, 4), np.float32), np.eye(4)), "(9, 9, 9, 4)"),
        (nib.Nifti1Image(np.zeros(9, np.float32), np.eye(4)), "(9,)"),
        (flat(0), "hardly any voxel that is not 0"),
        (flat(np.nan), "hardly any voxel"),
        (mask(), "as a mask has"),
        (nib.Nifti1Image(np.zeros((9, 9, 9), np.complex64), np.eye(4)), "complex64 voxels"),
        (nib.Nifti1Image(np.eye(9)[None], np.diag([0.001, 0.002, 5, 1])), "0.001 × 0.002 × 5 mm"),
        (without_orientation(), "no orientation in the header"),
    ],
    ids=["4-D", "1-D", "empty", "all NaN", "mask", "complex", "metres", "no orientation"],
)
def test_what_is_no_scan_is_refused(image: nib.Nifti1Image, found: str, tmp_path: Path) -> None:
    path = saved(image, tmp_path / "flair.nii.gz")
    with pytest.raises(DataError) as caught:
        read_nifti(path)
    assert str(caught.value).startswith(f"{path}: found ") and found in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("name", ["cut.nii", "cut.nii.gz", "cut4.nii.gz"])
def test_a_truncated_file_is_refused(name: str, share: float, tmp_path: Path) -> None:
    values = head().get_fdata()[..., None] if "4" in name else head().get_fdata()
    path = saved(nib.Nifti1Image(values, np.eye(4)), tmp_path / name)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=f"{name}: found no readable NIfTI"):
        read_nifti(path)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.nii").write_text("surely not a scan " * 100)
    with pytest.raises(DataError, match=r"text.nii: found no readable NIfTI"):
        read_nifti(tmp_path / "text.nii")
    (tmp_path / "scan.nii").write_bytes(bytes(128) + b"DICM" + bytes(999))
    with pytest.raises(DataError, match=r"scan.nii: found a DICOM file; .*dcm2niix"):
        read_nifti(tmp_path / "scan.nii")
    assert is_nifti("A.NII.GZ") and not is_nifti("nii") and not is_nifti("a.nii.txt")


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A folder with the three sequences of a simulated patient, and its volume."""
    images, _ = make_patient(plan_cohort(1, 0)[0])
    folder = tmp_path_factory.mktemp("patient")
    for channel, name in enumerate(("t1", "flair", "t1ce")):
        values = images[..., channel].transpose(2, 1, 0)[::-1] * np.float32(7.3)
        image = nib.Nifti1Image(values, np.diag([0.9375, -0.9375, 5, 1]))
        saved(image, folder / f"{name}.nii.gz")
    return folder, images


def test_the_command(
    patient: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, images = patient
    options = ["--pre", str(folder / "t1.nii.gz"), "--post", str(folder / "t1ce.nii.gz")]
    arguments = ["predict", str(MODEL), str(folder / "flair.nii.gz"), str(tmp_path)]
    assert cli.main([*arguments, *options]) == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == [
        "flair_mask.nii.gz",
        "predictions.csv",
    ]
    mask = np.asarray(nib.load(tmp_path / "flair_mask.nii.gz").dataobj)
    assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
    direct = Segmenter.load(MODEL).predict(images).mask
    back = mask[::-1].transpose(2, 1, 0) > 0
    assert patient_metrics(direct, back)["dice"] > 0.9
    row = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False).iloc[0]
    assert row["tumour_voxels"] == mask.sum() and row["slices"] == len(images)
    assert row["tumour_ml"] == pytest.approx(mask.sum() * 0.9375**2 * 5 / 1000, abs=0.001)
    assert row["patient"] == "flair" and row["missing"] == "" and 0 < row["expected_dice"] <= 1
    assert "stands in" not in capsys.readouterr().out


def test_the_command_says_what_is_missing(
    patient: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flair = str(patient[0] / "flair.nii.gz")
    assert cli.main(["predict", str(MODEL), flair, str(tmp_path)]) == 0
    assert "without pre-contrast, post-contrast: FLAIR stands in" in capsys.readouterr().out


def test_sequences_go_with_nifti_alone(
    shared_tree: Path, flair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", str(MODEL), str(shared_tree), str(tmp_path / "out")]
    assert cli.main([*arguments, "--pre", str(flair)]) == 1
    error = capsys.readouterr().err
    assert (
        f"{shared_tree}: found slices in TIFF; expected other data for --pre" in error
        and "Traceback" not in error
    )
    assert not (tmp_path / "out").exists()
