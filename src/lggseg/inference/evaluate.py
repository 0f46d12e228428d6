"""A model's masks compared with those of the patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lggseg.evaluation.calibration import expected_calibration_error, reliability
from lggseg.evaluation.quality import threshold_agreement
from lggseg.evaluation.segmentation import patient_metrics
from lggseg.inference.segmenter import Segmenter
from lggseg.utils.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd

    from lggseg.data.cohort import Cohort


def evaluate(
    segmenter: Segmenter, cohort: Cohort, patients: Sequence[str], *, progress: bool = True
) -> pd.DataFrame:
    """Segment these patients and compare with their masks.

    Returns one row per patient: patient, institution and the columns of
    :func:`lggseg.evaluation.segmentation.patient_metrics`, over the whole volume at native pixels,
    then calibration_error, threshold_agreement and the estimate made of it, expected_dice.
    """
    import pandas as pd

    rows = []
    for patient in progress_bar(patients, "evaluate", "patient", show=progress):
        prediction, truth = segmenter.predict(cohort.image(patient)), cohort.mask(patient)
        metrics = patient_metrics(truth, prediction.mask)
        bins = reliability(prediction.probability, truth)
        metrics["calibration_error"] = expected_calibration_error(bins)
        metrics["threshold_agreement"] = threshold_agreement(prediction.probability)
        metrics["expected_dice"] = prediction.expected_dice
        institution = cohort.patients.loc[patient, "institution"]
        rows.append({"patient": patient, "institution": institution, **metrics})
    return pd.DataFrame(rows)
