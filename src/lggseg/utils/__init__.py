"""What every step uses: errors, whole files, paths, checksums, threads, progress."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "paths": "DataError LeftOut read_json read_table runs_root write_json write_table",
        "progress": "progress_bar",
    },
)
