"""SageMaker's Model Registry: numbered versions of a model that wait for somebody's approval."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lggseg.cloud.archives import pack_model
from lggseg.cloud.aws.account import Account
from lggseg.cloud.aws.storage import make_bucket, put
from lggseg.data.codecs import JSON, NPY, TIFF
from lggseg.inference.segmenter import Segmenter

# What the card says of a model, by which one of many versions is known.
_FACTS = ("data_fingerprint", "split_fingerprint", "simulated", "epoch")


def register_on_aws(model: Path, name: str, account: Account) -> str:
    """Register a model folder as the next version of the run's model ``name``, with the metrics of
    its card; returns the version's ARN. It awaits approval, and deploys nothing.

    Raises ``DataError`` unless the folder holds a model that loads.
    """
    card = Segmenter.load(model).card
    make_bucket(account)
    prefix = f"runs/{account.run}/models/{name}-{time.time_ns()}"
    with tempfile.TemporaryDirectory() as folder:
        data = put(
            pack_model(model, Path(folder) / "model.tar.gz"), account, f"{prefix}/model.tar.gz"
        )
        scores = Path(folder) / "metrics.json"
        scores.write_text(json.dumps({"segmentation_metrics": card_metrics(card)}))
        metrics = put(scores, account, f"{prefix}/metrics.json")
    sagemaker, group = account.session.client("sagemaker"), f"{account.prefix}-{name}"
    _make_group(sagemaker, group, account)
    return str(
        sagemaker.create_model_package(
            ModelPackageGroupName=group,
            InferenceSpecification={
                "Containers": [{"Image": account.image("serve"), "ModelDataUrl": data}],
                "SupportedContentTypes": [TIFF, NPY],
                "SupportedResponseMIMETypes": [JSON, TIFF, NPY],
            },
            ModelMetrics={"ModelQuality": {"Statistics": {"ContentType": JSON, "S3Uri": metrics}}},
            CustomerMetadataProperties={fact: str(card[fact]) for fact in _FACTS if fact in card},
            ModelApprovalStatus="PendingManualApproval",
        )["ModelPackageArn"]
    )


def card_metrics(card: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The metrics of a card as the registry shows them: of the cross-validation where there is
    one, else of the validation patients; each mean as ``value``."""
    scores = card.get("cross_validation") or card.get("validation") or {}
    return {name: {"value": score["mean"], **score} for name, score in scores.items()}


def _make_group(sagemaker: Any, group: str, account: Account) -> None:
    # The versions have the tags of their group.
    from botocore.exceptions import ClientError

    with suppress(ClientError):
        sagemaker.describe_model_package_group(ModelPackageGroupName=group)
        return
    sagemaker.create_model_package_group(ModelPackageGroupName=group, Tags=account.tags)
