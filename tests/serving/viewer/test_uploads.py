"""What is dropped on the viewer: volumes of every kind, and what must be refused."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from scan_files import head, saved

from lggseg.data.codecs import mask_tiff
from lggseg.data.kaggle import patient_folders
from lggseg.data.nifti import read_nifti
from lggseg.data.slices import read_volume
from lggseg.serving.viewer.uploads import MAX_VOXELS, Study, read_study
from lggseg.utils.errors import DataError, Refused

MOST = 30
Files = dict[str, bytes]


def body_of(files: Files, roles: dict[str, str] | None = None) -> bytes:
    """Files as the page sends them."""
    roles = roles or {}
    entries = [{"name": n, "size": len(b), "role": roles.get(n, "")} for n, b in files.items()]
    return json.dumps(entries).encode() + b"\n" + b"".join(files.values())


def read(files: Files, roles: dict[str, str] | None = None) -> Study:
    return read_study(body_of(files, roles), MOST)


def tiff(volume: np.ndarray) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, volume, photometric="rgb")
    return file.getvalue()


def scan(scale: float = 1, shape: tuple[int, ...] = (60, 70, 12)) -> nib.Nifti1Image:
    rng = np.random.default_rng(0)
    voxels = (scale * rng.integers(0, 200, shape)).astype(np.int16)
    return nib.Nifti1Image(voxels, np.diag([-2.0, -2.0, 5.0, 1.0]))


def nifti(image: nib.Nifti1Image | None = None) -> bytes:
    return gzip.compress((image or scan()).to_bytes())


@pytest.fixture(scope="module")
def folder(shared_tree: Path) -> Path:
    return patient_folders(shared_tree)[0]


@pytest.fixture(scope="module")
def slices(folder: Path) -> Files:
    """All files of a patient, the last slice first."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tif"), reverse=True)}


def without_masks(slices: Files) -> Files:
    return {name: content for name, content in slices.items() if "mask" not in name}


def test_a_patients_slices_are_what_read_volume_reads(folder: Path, slices: Files) -> None:
    volume, truth = read_volume(folder)
    study = read(slices)
    assert study.name == folder.name and study.scan is None
    assert np.array_equal(study.volume, volume)
    assert truth is not None and np.array_equal(study.truth, truth)
    assert read(without_masks(slices)).truth is None


def test_hidden_files_are_ignored(folder: Path, slices: Files) -> None:
    twins = {f"._{name}": b"\0\5\26\7" for name in slices} | {".DS_Store": b"\0"}
    study = read({**twins, **slices})
    assert study.name == folder.name and len(study.volume) == len(read(slices).volume)


def test_slices_may_begin_anywhere(folder: Path, slices: Files) -> None:
    some = {name: content for name, content in slices.items() if "_1" not in name[-12:]}
    assert 0 < len(some) < len(slices)
    assert np.array_equal(read(some).volume, read_volume(folder)[0][1:])


def test_one_tiff_of_all_slices_with_a_mask_that_was_saved(folder: Path) -> None:
    volume, truth = read_volume(folder)
    assert truth is not None
    study = read({"anna.TIFF": tiff(volume), "anna_mask.tif": mask_tiff(truth)})
    assert study.name == "anna" and np.array_equal(study.volume, volume)
    assert np.array_equal(study.truth, truth)


@pytest.mark.parametrize("second", [False, True], ids=["version 1", "version 2"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_nifti_files_are_what_read_nifti_reads(tmp_path: Path, packed: bool, second: bool) -> None:
    names = {"flair": "FLAIR", "t1": "pre-contrast", "t1ce": "post-contrast"}
    paths = {name: tmp_path / f"{name}.nii{'.gz' if packed else ''}" for name in names}
    for number, path in enumerate(paths.values(), start=1):
        image = scan(number)
        nib.save(nib.Nifti2Image(image.dataobj, image.affine) if second else image, path)
    expected, there = read_nifti(paths["flair"], paths["t1"], paths["t1ce"])
    roles = {paths[name].name: role for name, role in names.items()}
    study = read({path.name: path.read_bytes() for path in paths.values()}, roles)
    assert np.array_equal(study.volume, expected) and study.name == "flair"
    assert study.scan is not None and study.scan.missing == ()
    mask = expected[..., 1] > 90
    found, wanted = (s.mask_image(mask) for s in (study.scan, there))
    assert np.array_equal(found.dataobj, wanted.dataobj) and mask.any()
    assert np.array_equal(found.affine, wanted.affine)


def test_one_nifti_file_is_flair() -> None:
    study = read({"head.nii.gz": nifti()})
    assert study.scan is not None and study.scan.missing == ("pre-contrast", "post-contrast")


def test_nothing_is_written_to_a_disk(slices: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"opened {arguments}")

    bodies = [body_of(slices), body_of({"a.nii.gz": nifti()})]
    for name in ("builtins.open", "os.open", "io.open"):
        monkeypatch.setattr(name, refuse)
    assert all(len(read_study(body, MOST).volume) for body in bodies)


def header(**fields: Any) -> bytes:
    """A NIfTI file whose header claims what is given."""
    content = bytearray(scan().to_bytes())
    places = {"dim": (40, "8h"), "offset": (108, "f"), "datatype": (70, "h"), "srow": (280, "12f")}
    for name, value in fields.items():
        place, form = places[name]
        struct.pack_into(f"<{form}", content, place, *value)
    return bytes(content)


def bomb() -> bytes:
    """A gibibyte of zeros behind a good header that declares them."""
    start = header(dim=(3, 1024, 1024, 512, 1, 1, 1, 1))
    return gzip.compress(start) + gzip.compress(bytes(2**26), 9) * 16


Bad = tuple[int, Callable[[Files], bytes]]
BAD: dict[str, Bad] = {
    "nothing": (400, lambda s: b""),
    "no file": (415, lambda s: b"[]\n"),
    "no JSON": (400, lambda s: b"hello"),
    "JSON of another kind": (400, lambda s: b"7\n"),
    "deep JSON": (400, lambda s: b"[" * 100_000 + b"\n"),
    "a name that is missing": (400, lambda s: b'[{"size": 0}]\n'),
    "a negative size": (400, lambda s: b'[{"name": "a.tif", "size": -1}]\n'),
    "a size of no number": (400, lambda s: b'[{"name": "a.tif", "size": "x"}]\n'),
    "bytes that are missing": (400, lambda s: body_of(s)[:-5]),
    "bytes too many": (400, lambda s: body_of(s) + b"more"),
    "a picture": (415, lambda s: body_of({"a.png": b"\x89PNG"})),
    "two kinds": (415, lambda s: body_of({**s, "a.nii": scan().to_bytes()})),
    "two patients": (
        422,
        lambda s: body_of({**s, "other_1.tif": tiff(np.zeros((256, 256, 3), "u1"))}),
    ),
    "names without numbers": (422, lambda s: body_of({"a.tif": b"", "b.tif": b""})),
    "a number twice": (422, lambda s: body_of({"a_1.tif": b"", "a_01.tif": b""})),
    "a gap": (422, lambda s: body_of({"a_1.tif": b"", "a_3.tif": b""})),
    "a mask alone": (422, lambda s: body_of({"a_1_mask.tif": b""})),
    "a mask that is missing": (422, lambda s: body_of(dict(list(s.items())[1:]))),
    "too many slices": (413, lambda s: body_of({f"a_{n}.tif": b"" for n in range(MOST + 1)})),
    "too many pages": (
        413,
        lambda s: body_of({"a.tif": tiff(np.zeros((MOST + 1, 256, 256, 3), "u1"))}),
    ),
    "a broken slice": (400, lambda s: body_of({"a_1.tif": b"II*\0hello"})),
    "a mask as an image": (
        422,
        lambda s: body_of({"a.tif": mask_tiff(np.zeros((2, 256, 256), bool))}),
    ),
    "an image as a mask": (
        422,
        lambda s: body_of({"a.tif": (t := tiff(np.zeros((256, 256, 3), "u1"))), "a_mask.tif": t}),
    ),
    "a mask of other values": (
        422,
        lambda s: body_of({**without_masks(s), **{n: mask_of(7) for n in s if "mask" in n}}),
    ),
    "fewer masks than slices": (
        422,
        lambda s: body_of(
            {
                "a.tif": tiff(np.zeros((3, 256, 256, 3), "u1")),
                "a_mask.tif": mask_tiff(np.zeros((2, 256, 256), bool)),
            }
        ),
    ),
    "no NIfTI": (400, lambda s: body_of({"a.nii": b"hello"})),
    "no gzip": (400, lambda s: body_of({"a.nii.gz": b"\x1f\x8bhello"})),
    "NIfTI cut off": (400, lambda s: body_of({"a.nii": scan().to_bytes()[:-100]})),
    "gzip cut off": (400, lambda s: body_of({"a.nii.gz": nifti()[:-1000]})),
    "a gzip bomb": (413, lambda s: body_of({"a.nii.gz": bomb()})),
    "a claim of many volumes": (
        422,
        lambda s: body_of({"a.nii": header(dim=(7, *[30000] * 7))}),
    ),
    "a claim of many voxels": (
        413,
        lambda s: body_of({"a.nii": header(dim=(3, *[30000] * 3, 1, 1, 1, 1))}),
    ),
    "sizes of 4300 digits": (
        400,
        lambda s: (
            b'[{"name": "a.tif", "size": %s}, {"name": "b.tif", "size": %s}]\n'
            % (b"9" * 4300, b"9" * 4300)
        ),
    ),
    "half of a letter in a name": (400, lambda s: b'[{"name": "\\ud800.tif", "size": 0}]\n'),
    "half of a letter in a role": (
        422,
        lambda s: b'[{"name": "a.nii", "size": 0, "role": "\\ud800"}]\n',
    ),
    "half of a pair": (
        415,
        lambda s: body_of({"a.hdr": scan().to_bytes()[:344] + b"ni1\0" + bytes(4)}),
    ),
    "Analyze 7.5": (415, lambda s: body_of({"a.hdr": scan().to_bytes()[:344] + bytes(8)})),
    "cut DICOM": (422, lambda s: body_of({"IM1": bytes(128) + b"DICM" + bytes(900)})),
    "DICOM by another name": (415, lambda s: body_of({"a.nii": bytes(128) + b"DICM" + bytes(900)})),
    "more slices than a head has": (
        413,
        lambda s: body_of({"a.nii": nifti(scan(shape=(4, 4, MOST + 1)))}),
    ),
    "a far offset": (413, lambda s: body_of({"a.nii": header(offset=(1e18,))})),
    "a negative offset": (400, lambda s: body_of({"a.nii": header(offset=(-1e18,))})),
    "an offset of no number": (400, lambda s: body_of({"a.nii": header(offset=(float("nan"),))})),
    "negative edges": (422, lambda s: body_of({"a.nii": header(dim=(3, -60, 70, 12, 1, 1, 1, 1))})),
    "complex voxels": (
        422,
        lambda s: body_of({"a.nii": header(datatype=(32,), dim=(3, 9, 9, 9, 1, 1, 1, 1))}),
    ),
    "an unknown type": (400, lambda s: body_of({"a.nii": header(datatype=(77,))})),
    "axes that fall together": (
        422,
        lambda s: body_of({"a.nii": header(srow=(2, 2, 0, 0, 2, 2, 0, 0, 2, 2, 5, 0))}),
    ),
    "a flat scan": (422, lambda s: body_of({"a.nii": scan(0).to_bytes()})),
    "a series": (422, lambda s: body_of({"a.nii": scan(shape=(9, 9, 9, 4)).to_bytes()})),
    "two without roles": (422, lambda s: body_of({"a.nii": nifti(), "b.nii": nifti()})),
    "no FLAIR": (422, lambda s: body_of({"a.nii": nifti()}, {"a.nii": "pre-contrast"})),
    "an unknown role": (
        422,
        lambda s: body_of({"a.nii": nifti(), "b.nii": nifti()}, {"b.nii": "T2"}),
    ),
    "another head": (
        422,
        lambda s: body_of(
            {"a.nii": nifti(), "b.nii": nifti(scan(shape=(60, 70, 3)))}, {"b.nii": "pre-contrast"}
        ),
    ),
}


def mask_of(value: int) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, np.full((256, 256), value, np.uint8))
    return file.getvalue()


def test_what_to_do_with_a_picture() -> None:
    with pytest.raises(Refused, match=r"found 'a.png'.*must be saved as TIFF"):
        read({"a.png": b"\x89PNG"})


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(slices: Files, name: str) -> None:
    status, make = BAD[name]
    with pytest.raises(DataError, match=r"found .*; expected ") as caught:
        read_study(make(slices), MOST)
    assert getattr(caught.value, "status", 422) == status


def test_the_message_names_the_file(slices: Files) -> None:
    name = min(slices)
    with pytest.raises(Refused, match=f"{name}: found a broken TIFF"):
        read({**slices, name: slices[name][:-10]})


def test_a_scan_of_the_largest_size_is_within_what_may_be_inflated() -> None:
    assert MAX_VOXELS * np.dtype(np.float64).itemsize + 352 <= 2**28 + 2**20


def dicom_body(folder: Path) -> bytes:
    """All files of a folder as they are dropped: by their names alone, which may come twice."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    entries = [{"name": path.name, "size": path.stat().st_size} for path in files]
    return json.dumps(entries).encode() + b"\n" + b"".join(path.read_bytes() for path in files)


def test_a_dicom_study_is_taken_by_dropping_its_folder(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="pydicom is missing: pip install -e '.[dicom]'")
    from dicom_files import write_series

    image = nib.Nifti1Image(head().get_fdata().astype(np.int16), head().affine)
    write_series(image, tmp_path / "study" / "a", "AX FLAIR", 1)
    write_series(image, tmp_path / "study" / "b", "AX T1 GAD", 2)
    (tmp_path / "study" / "README.TXT").write_text("a disc of the hospital")
    study = read_study(dicom_body(tmp_path / "study"), MOST)
    expected, _ = read_nifti(saved(image, tmp_path / "flair.nii"))
    assert study.scan is not None and study.scan.missing == ("pre-contrast",)
    assert np.abs(study.volume[..., 1].astype(int) - expected[..., 1]).max() <= 1
    assert study.name.startswith("study-") and "Doe" not in study.name
    assert any("for SeriesDescription “AX T1 GAD”" in note for note in study.scan.notes)
    write_series(image, tmp_path / "study" / "c", study="1.2.99")
    with pytest.raises(Refused, match="found files of 2 studies"):
        read_study(dicom_body(tmp_path / "study"), MOST)


def test_messages_are_about_the_files(slices: Files) -> None:
    with pytest.raises(Refused, match=r"^a\.png and 1 more: found 'a\.png' and 'b\.jpg'"):
        read({"a.png": b"\x89PNG", "b.jpg": b"\xff\xd8\xff"})
    with pytest.raises(Refused, match=r"^a\.nii and 1 more: found FLAIR, FLAIR"):
        read({"a.nii": nifti(), "b.nii": nifti()})
