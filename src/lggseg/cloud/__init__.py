"""Where a model is deployed. The only place that may import sagemaker or boto3."""

from lggseg.cloud.endpoints import Endpoint, deploy

__all__ = ["Endpoint", "deploy"]
