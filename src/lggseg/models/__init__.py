"""The networks and losses that a config can name."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "losses": "LOSSES build_loss",
        "networks": "Body NETWORKS build_network",
        "profiling": "describe",
    },
)
