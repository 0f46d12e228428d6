"""How well a mask fits, intervals and tests over patients, the shape of a tumour."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "calibration": "entropy expected_calibration_error reliability",
        "quality": "Quality assess_quality estimate_by_other_groups threshold_agreement",
        "segmentation": "METRICS dice patient_metrics slice_dices",
        "statistics": """
            agreement associations bootstrap_interval compare_all compare_paired examples
            rank_shares summarise
        """,
    },
)
