"""Files in S3: one private, encrypted bucket for the project; a cohort goes there as one file."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from lggseg.cloud.aws.account import PROJECT, Account
from lggseg.data.archive import PACKED, pack, packed_name
from lggseg.data.cohort import Cohort
from lggseg.data.splits import split_fingerprint, write_split

_PRIVATE = dict.fromkeys(
    ["BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"], True
)
_ENCRYPTION = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
# Parts of an upload that was killed cost like files.
_LIFECYCLE = {
    "Rules": [
        {
            "ID": "abort-uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        }
    ]
}
# Every part carries its SHA-256, which S3 checks on arrival.
_OPTIONS = {
    "ServerSideEncryption": "AES256",
    "ChecksumAlgorithm": "SHA256",
    "Tagging": f"project={PROJECT}",
}


def upload(cohort: Cohort, split: pd.DataFrame, account: Account) -> dict[str, str]:
    """Put a cohort, packed as one file, and its split into the bucket, unless the same content is
    there already.

    Returns the channels of a training: ``train`` and ``split``, each the S3 URI of a folder. An
    upload that is cut off leaves no file, so what is there is whole.
    """
    make_bucket(account)
    uploads = {"train": (f"data/{packed_name(cohort)}", PACKED, partial(pack, cohort))}
    split_name = f"splits/{split_fingerprint(split)}"
    uploads["split"] = (split_name, "split.csv", partial(write_split, split))
    for folder, name, write in uploads.values():
        if not _exists(account, f"{folder}/{name}"):
            with tempfile.TemporaryDirectory() as here:
                write(Path(here) / name)
                put(Path(here) / name, account, f"{folder}/{name}")
    return {channel: f"s3://{account.bucket}/{at}/" for channel, (at, *_) in uploads.items()}


def put(path: Path, account: Account, key: str) -> str:
    """Upload a file, encrypted, without an access list, its checksum verified; returns its URI."""
    s3 = account.session.client("s3")
    s3.upload_file(str(path), account.bucket, key, ExtraArgs=_OPTIONS)
    return f"s3://{account.bucket}/{key}"


def make_bucket(account: Account) -> None:
    """The project's bucket, made where there is none: private, encrypted, tagged."""
    s3, bucket = account.session.client("s3"), account.bucket
    where: dict[str, Any] = {}
    if account.region != "us-east-1":
        where = {"CreateBucketConfiguration": {"LocationConstraint": account.region}}
    if not has_bucket(account):
        s3.create_bucket(Bucket=bucket, ObjectOwnership="BucketOwnerEnforced", **where)
    # Again each time, in case that an earlier call was cut off.
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=_PRIVATE)
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=_ENCRYPTION)
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=_LIFECYCLE)
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": account.tags[:1]})


def has_bucket(account: Account) -> bool:
    """Whether the project's bucket is there, and the account's own.

    Raises botocore's ``ClientError`` when another account has a bucket of that name.
    """
    from botocore.exceptions import ClientError

    try:
        account.session.client("s3").head_bucket(
            Bucket=account.bucket, ExpectedBucketOwner=account.number
        )
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        return False
    return True


def _exists(account: Account, key: str) -> bool:
    listing = account.session.client("s3").list_objects_v2(Bucket=account.bucket, Prefix=key)
    return any(entry["Key"] == key for entry in listing.get("Contents", []))
