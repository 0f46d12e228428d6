"""Where a model is trained and deployed. The only place that may import sagemaker or boto3."""

from lggseg.client import Endpoint
from lggseg.cloud.endpoints import deploy
from lggseg.cloud.leftovers import clean_up, left_behind

__all__ = ["Endpoint", "clean_up", "deploy", "left_behind"]
