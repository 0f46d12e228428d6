"""The account that moto makes: its environment, its image, what is left in it, its policy."""

from __future__ import annotations

import json
from importlib import resources

from lggseg.cloud.aws.account import Account

ENVIRONMENT = {
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "LGGSEG_ROLE": "arn:aws:iam::123456789012:role/lggseg",
}


def push_image(account: Account) -> None:
    ecr = account.session.client("ecr")
    ecr.create_repository(repositoryName="lggseg")
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": {}, "layers": []}
    ecr.put_image(repositoryName="lggseg", imageTag="serve", imageManifest=json.dumps(manifest))


def left(account: Account) -> set[str]:
    """The names of all that moto's account holds, but for buckets."""
    from moto.ecr.models import ecr_backends
    from moto.logs.models import logs_backends
    from moto.sagemaker.models import sagemaker_backends

    where = (account.number, account.region)
    backend = sagemaker_backends[where[0]][where[1]]
    kinds = ("_models", "endpoint_configs", "endpoints", "training_jobs", "model_packages")
    kinds += ("model_package_groups", "hyper_parameter_tuning_jobs")
    found = {f"{kind}/{name}" for kind in kinds for name in getattr(backend, kind)}
    found |= set(logs_backends[where[0]][where[1]].groups)
    return found | set(ecr_backends[where[0]][where[1]].repositories)


def keys(account: Account) -> set[str]:
    bucket = account.session.resource("s3").Bucket(account.bucket)
    return {entry.key for entry in bucket.objects.all()}


POLICY = json.loads(resources.files("lggseg.cloud.aws").joinpath("policy.json").read_text())
# Operations whose permission has another name than they have, or that of others.
NAMES = {
    "s3:HeadBucket": ["s3:ListBucket"],
    "s3:ListObjects": ["s3:ListBucket"],
    "s3:ListObjectsV2": ["s3:ListBucket"],
    "s3:ListMultipartUploads": ["s3:ListBucketMultipartUploads"],
    "s3:HeadObject": ["s3:GetObject"],
    "s3:PutObject": ["s3:PutObject", "s3:PutObjectTagging"],
    "s3:CreateMultipartUpload": ["s3:PutObject", "s3:PutObjectTagging"],
    "s3:UploadPart": ["s3:PutObject"],
    "s3:CompleteMultipartUpload": ["s3:PutObject"],
    "s3:DeleteObjects": ["s3:DeleteObject"],
    "s3:PutPublicAccessBlock": ["s3:PutBucketPublicAccessBlock"],
    "s3:PutBucketEncryption": ["s3:PutEncryptionConfiguration"],
    "s3:PutBucketLifecycleConfiguration": ["s3:PutLifecycleConfiguration"],
    "sts:GetCallerIdentity": [],  # needs no permission
}


def allowed() -> set[str]:
    actions = [statement["Action"] for statement in POLICY["Statement"]]
    return {action for listed in actions for action in listed}
