"""What every step uses: errors, atomic writes, paths, checksums, threads, progress."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "errors": "DataError LeftOut",
        "files": "read_json read_table write_json write_table",
        "paths": "runs_root",
        "progress": "progress_bar",
    },
)
