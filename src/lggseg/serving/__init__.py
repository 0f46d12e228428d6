"""A model over HTTP: the endpoint, its client and the limits on what it accepts."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "client": "Endpoint segment",
        "endpoint": "serve",
    },
)
