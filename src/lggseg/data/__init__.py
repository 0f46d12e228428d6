"""From files to patients: readers for untrusted bytes, the cohort, splits, simulation."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "cache": "cached_cohorts",
        "codecs": "NPY TIFF npy_bytes",
        "cohort": "Cohort load_cohort missing_sequences select_patients",
        "kaggle": "find_cohort",
        "nifti": "read_nifti",
        "simulation": "cohort_root make_cohort",
        "slices": "read_volume",
        "splits": "check_no_leakage slice_subsets make_split patients_of read_split write_split",
    },
)
