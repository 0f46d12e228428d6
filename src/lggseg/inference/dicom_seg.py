"""A mask as DICOM-SEG, which refers to the images that it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

import lggseg
from lggseg.utils.errors import DataError, install_command

if TYPE_CHECKING:
    from pydicom import Dataset

LABEL = "FLAIR abnormality of a lower-grade glioma"
_SERIES = 9024  # SeriesNumber, above those of scanners


def segmentation(mask: nib.Nifti1Image, slices: Sequence[Dataset], model: str) -> bytes:
    """A DICOM-SEG file of one binary segment.

    Its type is coded (SNOMED CT: Neoplasm, of the Brain), and the algorithm is identified by name
    and version. It names the patient as the images do, since archives file it by that.

    Args:
        mask: 0 and 1, on the voxels of the series (:func:`lggseg.data.dicom_volume.read_volume`).
        slices: the data sets of the series, in the order of its slices.
        model: the model's fingerprint.

    Raises:
        DataError: where highdicom is missing or the images cannot be referred to.
    """
    hd = _highdicom()
    frames = np.asarray(mask.dataobj).transpose(2, 1, 0).astype(bool)
    try:
        made = hd.seg.Segmentation(
            source_images=list(slices),
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_segment(model)],
            series_instance_uid=hd.UID(),
            series_number=_SERIES,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="lggseg",
            manufacturer_model_name="lggseg",
            software_versions=lggseg.__version__,
            device_serial_number=model,
            series_description="lggseg: FLAIR abnormality, not for clinical use",
            omit_empty_frames=bool(frames.any()),
        )
    except Exception as error:  # highdicom raises many kinds for images that lack a field
        found = f"images that DICOM-SEG cannot refer to ({_reason(error)})"
        action = "The mask is there in NIfTI; for DICOM-SEG, complete the series' headers."
        raise DataError("DICOM-SEG", found, "complete MR images", action) from error
    file = BytesIO()
    made.save_as(file)
    return file.getvalue()


def _reason(error: Exception) -> str:
    """What may be told of an error: the text of the other kinds repeats what a field holds, such as
    a date of birth."""
    return str(error)[:200] if isinstance(error, AttributeError) else "a field has no valid value"


def _segment(model: str) -> Any:
    from pydicom.sr.codedict import codes

    hd = _highdicom()
    algorithm = hd.AlgorithmIdentificationSequence(
        name="lggseg",
        family=codes.DCM.ArtificialIntelligence,
        version=f"{lggseg.__version__}, model {model}",
    )
    return hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=LABEL,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        anatomic_regions=[codes.SCT.Brain],
    )


def _highdicom() -> Any:
    try:
        import highdicom
        import highdicom.seg
    except ImportError:
        action = f"Run {install_command('dicom')}."
        raise DataError("DICOM-SEG", "no highdicom", "the package highdicom", action) from None
    return highdicom
