"""The networks and losses that a config can name."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "networks": "Body LOSSES NETWORKS build_loss build_network describe",
    },
)
