"""Patients below a folder of NIfTI files: found by the names that people use, or a sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
from scan_files import head
from tools import need

from lggseg.data.sequences import find_patients, guess_sequence
from lggseg.utils.errors import DataError, LeftOut

# The files of a folder → its patients, with the files taken for FLAIR, pre- and post-contrast.
LAYOUTS: dict[str, tuple[str, dict[str, str]]] = {
    "BIDS": (
        "sub-01/anat/sub-01_FLAIR.nii.gz sub-01/anat/sub-01_T1w.nii.gz "
        "sub-01/anat/sub-01_ce-gadolinium_T1w.nii.gz sub-01/dwi/sub-01_dwi.nii.gz "
        "sub-02/ses-1/anat/sub-02_ses-1_FLAIR.nii.gz sub-02/ses-2/anat/sub-02_ses-2_FLAIR.nii.gz "
        "derivatives/x/sub-01/anat/sub-01_FLAIR.nii.gz",
        {
            "sub-01": "sub-01_FLAIR.nii.gz sub-01_T1w.nii.gz sub-01_ce-gadolinium_T1w.nii.gz",
            "sub-02_ses-1": "sub-02_ses-1_FLAIR.nii.gz - -",
            "sub-02_ses-2": "sub-02_ses-2_FLAIR.nii.gz - -",
        },
    ),
    "BraTS 2023": (
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1c.nii.gz "
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz "
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz "
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2w.nii.gz "
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz",
        {
            "BraTS-GLI-00000-000": "BraTS-GLI-00000-000-t2f.nii.gz BraTS-GLI-00000-000-t1n.nii.gz "
            "BraTS-GLI-00000-000-t1c.nii.gz"
        },
    ),
    "BraTS 2017 to 2021": (
        "HGG/Brats18_CBICA_AAB_1/Brats18_CBICA_AAB_1_flair.nii.gz "
        "HGG/Brats18_CBICA_AAB_1/Brats18_CBICA_AAB_1_t1.nii.gz "
        "HGG/Brats18_CBICA_AAB_1/Brats18_CBICA_AAB_1_t1ce.nii.gz "
        "HGG/Brats18_CBICA_AAB_1/Brats18_CBICA_AAB_1_seg.nii.gz "
        "LGG/BraTS2021_00001/BraTS2021_00001_flair.nii",
        {
            "BraTS2021_00001": "BraTS2021_00001_flair.nii - -",
            "Brats18_CBICA_AAB_1": "Brats18_CBICA_AAB_1_flair.nii.gz Brats18_CBICA_AAB_1_t1.nii.gz "
            "Brats18_CBICA_AAB_1_t1ce.nii.gz",
        },
    ),
    "a folder for each": (
        "P1/flair.nii.gz P1/t1.nii.gz P1/t1c.nii.gz P1/flair_mask.nii.gz P2/FLAIR.nii ._P3.nii",
        {"P1": "flair.nii.gz t1.nii.gz t1c.nii.gz", "P2": "FLAIR.nii - -"},
    ),
    "all in one folder": (
        "P1_flair.nii.gz P1_T1.nii.gz P2_flair.nii.gz P2_T1_post.nii.gz",
        {"P1": "P1_flair.nii.gz P1_T1.nii.gz -", "P2": "P2_flair.nii.gz - P2_T1_post.nii.gz"},
    ),
    "one name in two folders": (
        "a/anat/flair.nii.gz b/anat/flair.nii.gz",
        {"a_anat": "flair.nii.gz - -", "b_anat": "flair.nii.gz - -"},
    ),
    "UCSF-PDGM": (
        "UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_FLAIR.nii.gz "
        "UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_FLAIR_bias.nii.gz "
        "UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_T1c.nii.gz",
        {"UCSF-PDGM-0004": "UCSF-PDGM-0004_FLAIR.nii.gz - UCSF-PDGM-0004_T1c.nii.gz"},
    ),
    "pairs of header and voxels": ("P1/flair.hdr P1/flair.img", {"P1": "flair.hdr - -"}),
}


def write(folder: Path, names: str) -> Path:
    for name in names.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_patients_are_found(layout: str, tmp_path: Path) -> None:
    names, expected = LAYOUTS[layout]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeftOut)
        found = find_patients(write(tmp_path, names))
    files = {
        patient.name: " ".join(
            path.name if path else "-" for path in (patient.flair, patient.pre, patient.post)
        )
        for patient in found.patients
    }
    assert files == expected and not found.refused


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("P1/t1.nii.gz", "P1: found t1.nii.gz but no FLAIR; expected a file called after FLAIR"),
        ("P1/a_flair.nii P1/a_FLAIR2.nii", "of which each could be FLAIR; expected one file"),
        ("P1/flair.nii P1/t1_a.nii P1/t1_b.nii", "each could be pre-contrast; expected one file"),
    ],
)
def test_a_patient_that_cannot_be_told_is_refused(
    names: str, sentence: str, tmp_path: Path
) -> None:
    found = find_patients(write(tmp_path, f"{names} P9/flair.nii"))
    assert [patient.name for patient in found.patients] == ["P9"]
    assert len(found.refused) == 1 and sentence in str(found.refused[0])


def test_a_folder_without_flair_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found 2 scans but none called after FLAIR"):
        find_patients(write(tmp_path, "a/scan1.nii a/scan2.nii"))
    assert head().shape  # the scans above are empty: names alone are read


def test_the_page_guesses_as_the_command_line_does() -> None:
    need("node", shutil.which("node") is not None)
    static = Path(__file__).resolve().parents[2] / "src/lggseg/serving/viewer/static"
    names = [name for files, _ in LAYOUTS.values() for name in files.split()]
    names = sorted({Path(name).name for name in names})
    names += ["preop_t1ce.nii.gz", "T1_Mprage_Gd.nii", "postop_T1.nii", "t1_to_flair.nii.gz"]
    names += ["mprage.nii", "t1_flair.nii", "T1+C.nii", "seg_flair.nii", "T1_KM.nii", "ceT1.nii"]
    names += ["SWI.nii", "lesion.mgz"]
    script = f"""import {{ guessRole }} from {json.dumps(str(static / "roles.js"))};
      console.log(JSON.stringify({json.dumps(names)}.map(guessRole)))"""
    command = ["node", "--input-type=module", "--eval", script]
    guesses = json.loads(subprocess.check_output(command, text=True))
    assert dict(zip(names, guesses, strict=True)) == {n: guess_sequence(n) for n in names}
