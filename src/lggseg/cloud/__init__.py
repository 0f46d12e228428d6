"""Where a model is trained and deployed. The only place that may import sagemaker or boto3."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__, {"endpoints": "deploy", "leftovers": "clean_up left_behind"}
)
