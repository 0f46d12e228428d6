"""Files in S3, against moto."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from lggseg.cloud.aws.account import Account, open_account
from lggseg.cloud.aws.storage import make_bucket, put, upload
from lggseg.data.archive import PACKED, unpack
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.splits import make_split, read_split

if TYPE_CHECKING:
    from aws_shapes import Request


@pytest.fixture(scope="module")
def cohort(shared_tree: Path) -> Cohort:
    return load_cohort(shared_tree, progress=False)


@pytest.fixture(scope="module")
def split(cohort: Cohort) -> pd.DataFrame:
    return make_split(cohort)


def sent(requests: list[Request], operation: str) -> list[Request]:
    return [request for request in requests if request.operation == operation]


def test_what_arrives_is_the_cohort_and_its_split(
    account: Account, cohort: Cohort, split: pd.DataFrame, tmp_path: Path
) -> None:
    channels = upload(cohort, split, account)
    assert channels["train"].startswith(f"s3://{account.bucket}/data/")
    s3, keys = account.session.client("s3"), {c: u.split("/", 3)[3] for c, u in channels.items()}
    key = keys["train"] + PACKED
    s3.download_file(account.bucket, key, str(tmp_path / PACKED))
    again = load_cohort(unpack(tmp_path, tmp_path / "there"), progress=False)
    assert again.fingerprint == cohort.fingerprint
    s3.download_file(account.bucket, keys["split"] + "split.csv", str(tmp_path / "split.csv"))
    assert read_split(tmp_path / "split.csv", again).equals(split)
    found = s3.head_object(Bucket=account.bucket, Key=key, ChecksumMode="ENABLED")
    digest = hashlib.sha256((tmp_path / PACKED).read_bytes()).digest()
    assert b64decode(found["ChecksumSHA256"]) == digest
    assert found["ServerSideEncryption"] == "AES256"
    tags = s3.get_object_tagging(Bucket=account.bucket, Key=key)["TagSet"]
    assert tags == [{"Key": "project", "Value": "lggseg"}]


def test_an_upload_that_was_cut_off_leaves_no_file_and_no_parts(
    account: Account, tmp_path: Path
) -> None:
    make_bucket(account)
    path = tmp_path / "large"
    path.write_bytes(b"a" * 17 * 2**20)  # three parts of boto3's

    def cut(params: dict[str, Any], **_: object) -> None:
        if "partNumber=3" in params["url"] or params["query_string"].get("partNumber") == 3:
            raise ConnectionError("the network is gone")

    event, s3 = "before-call.s3.UploadPart", account.session.client("s3")
    account.session.events.register(event, cut)
    with pytest.raises(ConnectionError, match="the network is gone"):
        put(path, account, "data/large")
    account.session.events.unregister(event, cut)
    assert "Contents" not in s3.list_objects_v2(Bucket=account.bucket)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=account.bucket)
    put(path, account, "data/large")
    found = s3.get_object(Bucket=account.bucket, Key="data/large", ChecksumMode="ENABLED")
    assert found["Body"].read() == path.read_bytes()
    assert found["ChecksumSHA256"].endswith("-3") and found["ServerSideEncryption"] == "AES256"


def test_the_same_content_is_uploaded_once(
    aws: list[Request], account: Account, cohort: Cohort, split: pd.DataFrame
) -> None:
    before = upload(cohort, split, account)
    assert upload(cohort, split, account) == before
    assert len(sent(aws, "PutObject")) == 2
    other = upload(cohort, make_split(cohort, seed=1), account)
    assert other["train"] == before["train"] and other["split"] != before["split"]
    assert len(sent(aws, "PutObject")) == 3
    assert not [request for request in aws if "ACL" in request.params]


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
def test_the_bucket_is_private_encrypted_and_tagged(aws: list[Request], region: str) -> None:
    account = open_account("test", region=region)
    make_bucket(account)
    make_bucket(account)
    s3, name = account.session.client("s3"), {"Bucket": account.bucket}
    blocks = s3.get_public_access_block(**name)["PublicAccessBlockConfiguration"]
    assert set(blocks.values()) == {True} and len(blocks) == 4
    rules = s3.get_bucket_encryption(**name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert s3.get_bucket_tagging(**name)["TagSet"] == account.tags[:1]
    assert s3.get_bucket_location(**name)["LocationConstraint"] in (None, region)
    assert len(sent(aws, "CreateBucket")) == 1


def test_what_is_missing_is_reported(monkeypatch: pytest.MonkeyPatch, aws: list[Request]) -> None:
    assert open_account("test", role="r").role == "r"
    with pytest.raises(RuntimeError, match=r"found no role .* set LGGSEG_ROLE"):
        replace(open_account("test"), given_role="").role  # noqa: B018
    with pytest.raises(ValueError, match="run='two-words': expected 1 to 14 small letters"):
        open_account("two-words")
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(RuntimeError, match="found no region; set AWS_REGION"):
        open_account("test")
