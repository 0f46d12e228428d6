"""DICOM series made of a NIfTI image, as a scanner would write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

PATIENT = "Doe^Jane"  # what must not get out


def write_series(
    image: nib.Nifti1Image,
    folder: Path,
    description: str = "AX FLAIR",
    number: int = 1,
    study: str = "1.2.3",
    frame: str = "1.2.3.4",
    **fields: Any,
) -> list[Path]:
    """One file for each slice along the image's third axis, whose names tell nothing of the order.

    fields: further elements of each data set; of a function, what it gives for the slice's number.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    values = np.asarray(image.dataobj)
    paths = []
    for place in range(image.shape[2]):
        uid = f"{study}.{number}.{place + 1}"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        meta.MediaStorageSOPInstanceUID = uid
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"IM{(7 * place) % image.shape[2]:04d}_{place}"
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
        _identity(dataset, uid, study, number, frame, description)
        _geometry(dataset, image.affine, place)
        dataset.Rows, dataset.Columns = image.shape[1], image.shape[0]
        dataset.PixelData = values[..., place].T.round().astype("<i2").tobytes()
        for name, value in fields.items():
            setattr(dataset, name, value(place) if callable(value) else value)
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _identity(
    dataset: Any, uid: str, study: str, number: int, frame: str, description: str
) -> None:
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.{number}"
    dataset.FrameOfReferenceUID = frame
    dataset.PatientName, dataset.PatientID = PATIENT, "MRN-12345"
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "F"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200102", "101500", "S1"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.Modality, dataset.SeriesNumber = "MR", number
    dataset.SeriesDescription = description
    dataset.Manufacturer, dataset.PositionReferenceIndicator = "none", ""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]


def _geometry(dataset: Any, affine: np.ndarray, place: int) -> None:
    ras_to_lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    lps, edges = ras_to_lps @ affine, voxel_sizes(affine)
    along, down = (lps[:3, axis] / edges[axis] for axis in (0, 1))
    dataset.ImageOrientationPatient = [f"{v:.9f}"[:16] for v in (*along, *down)]
    dataset.ImagePositionPatient = [f"{v:.6f}"[:16] for v in (lps @ [0, 0, place, 1])[:3]]
    dataset.PixelSpacing = [f"{edges[1]:.6f}", f"{edges[0]:.6f}"]
    dataset.SliceThickness = f"{edges[2]:.6f}"
    dataset.InstanceNumber = place + 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
