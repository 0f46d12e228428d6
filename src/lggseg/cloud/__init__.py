"""Where a model is trained, searched for, deployed and cleaned up: here, in Docker, or on AWS."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "clean_up": "left_behind",
        "cost": "Plan confirm estimate_cost",
        "platform": "find_platform missing targets",
        "registry": "register resolve",
    },
)
