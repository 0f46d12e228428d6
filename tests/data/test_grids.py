"""T1s on grids of their own: brought onto FLAIR's voxels, or refused in a sentence."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scan_files import head, saved
from scipy import ndimage
from tools import need

from lggseg.data.grids import FARTHEST, registered, resampled, same_grid
from lggseg.data.nifti import read_nifti
from lggseg.utils.errors import DataError


def on_other_grids() -> dict[str, nib.Nifti1Image]:
    """The same head, on voxels of other sizes, directions and places."""
    turned = head().as_reoriented(
        ornt_transform(io_orientation(head().affine), axcodes2ornt(tuple("LAS")))
    )
    sagittal = head((2, 2, 2)).as_reoriented(
        ornt_transform(io_orientation(head().affine), axcodes2ornt(tuple("ASR")))
    )
    return {"finer": head((2, 1.8, 3)), "turned": turned, "sagittal": sagittal}


@pytest.mark.parametrize("kind", on_other_grids())
def test_a_sequence_in_the_same_space_lands_where_it_belongs(kind: str, tmp_path: Path) -> None:
    flair = head()
    image = on_other_grids()[kind]
    assert not same_grid(image, flair)
    on_grid = np.asarray(resampled(image, flair).dataobj)
    # Edges are smoothed, so a few per cent of the head's voxels differ by much.
    assert np.mean(np.abs(on_grid - flair.get_fdata()) > 30) < 0.06
    files = saved(flair, tmp_path / "flair.nii"), saved(image, tmp_path / "t1.nii")
    volume, scan = read_nifti(files[0], post=files[1])
    near = np.abs(volume[..., 2].astype(int) - volume[..., 1]) < 40
    assert near.mean() > 0.98
    assert len(scan.notes) == 1 and scan.notes[0].startswith("post-contrast: resampled from voxels")
    assert scan.missing == ("pre-contrast",)


def test_what_lies_half_a_voxel_away_is_the_same_grid(tmp_path: Path) -> None:
    moved = head()
    moved.affine[0, 3] += 0.4
    _, scan = read_nifti(saved(head(), tmp_path / "f.nii"), saved(moved, tmp_path / "t1.nii"))
    assert scan.notes == ()


def test_a_scan_of_another_place_is_refused(tmp_path: Path) -> None:
    far = head()
    far.affine[2, 3] += 60
    files = saved(head(), tmp_path / "flair.nii"), saved(far, tmp_path / "t1.nii")
    with pytest.raises(
        DataError, match=r"t1.nii: found a scan that shows \d+% of the head in FLAIR"
    ):
        read_nifti(files[0], post=files[1])


def textured(seed: int = 0) -> nib.Nifti1Image:
    """A head that is not symmetric, so that a turn can be seen."""
    image = head((3, 3, 4))
    noise = np.random.default_rng(seed).normal(size=image.shape)
    values = image.get_fdata() + 200 * ndimage.gaussian_filter(noise, 3) * (image.get_fdata() > 0)
    return nib.Nifti1Image(values.astype(np.float32), image.affine)


def test_registration_finds_a_known_move(tmp_path: Path) -> None:
    need("simpleitk", importlib.util.find_spec("SimpleITK") is not None)
    flair, angle = textured(), np.radians(4)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = 4, -3, 2
    # The same voxels, said to lie elsewhere: what a patient who moved looks like.
    t1 = nib.Nifti1Image(250 - flair.get_fdata(dtype=np.float32), turn @ flair.affine)
    t1.set_filename(str(tmp_path / "t1.nii"))
    on_grid, move = registered(t1, flair)
    inside = flair.get_fdata() > 50
    error = np.abs(np.asarray(on_grid.dataobj) - (250 - flair.get_fdata()))[inside]
    before = np.abs(np.asarray(resampled(t1, flair).dataobj) - (250 - flair.get_fdata()))[inside]
    assert np.median(error) < 0.2 * np.median(before)
    assert move.degrees == pytest.approx(4, abs=0.5)
    middle = flair.affine @ [*(np.array(flair.shape) - 1) / 2, 1]
    assert move.millimetres == pytest.approx(np.linalg.norm((turn @ middle - middle)[:3]), abs=1)
    assert move.millimetres < FARTHEST
