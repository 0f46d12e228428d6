"""Endpoints by SageMaker's calls: against moto, and against clients that fail as AWS does."""

from __future__ import annotations

import tarfile
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lggseg.cloud.archives import pack_model
from lggseg.cloud.aws.account import Account
from lggseg.cloud.aws.endpoints import Clients, Hosted, create_endpoint
from lggseg.cloud.deploy import deploy
from lggseg.data.codecs import ATTRIBUTES_HEADER, JSON, NPY
from lggseg.inference.model_folder import FILES
from lggseg.inference.segmenter import Segmenter

if TYPE_CHECKING:
    from aws_shapes import Request

MODEL = Path(__file__).resolve().parents[2] / "models" / "lgg-unet"
CALLS = ("create_model", "create_endpoint_config", "create_endpoint", "describe_endpoint")


def what_is_there(account: Account) -> list[str]:
    sagemaker, s3 = account.session.client("sagemaker"), account.session.client("s3")
    found = [entry["EndpointName"] for entry in sagemaker.list_endpoints()["Endpoints"]]
    configs = sagemaker.list_endpoint_configs()["EndpointConfigs"]
    found += [entry["EndpointConfigName"] for entry in configs]
    found += [entry["ModelName"] for entry in sagemaker.list_models()["Models"]]
    return found + [entry["Key"] for entry in objects(s3, account)]


def objects(s3: Any, account: Account) -> list[dict[str, Any]]:
    buckets = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    if account.bucket not in buckets:
        return []
    return list(s3.list_objects_v2(Bucket=account.bucket).get("Contents", []))


def test_an_endpoint_on_aws_is_tagged_and_leaves_nothing(
    pushed: Account, aws: list[Request], tmp_path: Path
) -> None:
    with deploy(MODEL, "sagemaker", account=pushed) as endpoint:
        assert endpoint.url.endswith("/invocations") and "amazonaws.com" in endpoint.url
        assert len(what_is_there(pushed)) == 4
        s3 = pushed.session.client("s3")
        (file,) = objects(s3, pushed)
        s3.download_file(pushed.bucket, file["Key"], str(tmp_path / "model.tar.gz"))
    made = [request.params for request in aws if request.operation.startswith("Create")]
    tagged = [params["Tags"] for params in made if "Tags" in params]
    assert tagged == [pushed.tags] * 3
    (container,) = [params["PrimaryContainer"] for params in made if "PrimaryContainer" in params]
    assert container["ModelDataUrl"] == f"s3://{pushed.bucket}/{file['Key']}"
    assert container["Image"].endswith("amazonaws.com/lggseg:serve")
    with tarfile.open(tmp_path / "model.tar.gz") as tar:
        assert tar.getnames() == list(FILES)
        assert {member.mode for member in tar} == {0o644}
    assert what_is_there(pushed) == []
    endpoint.delete()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_half_way_leaves_nothing(
    pushed: Account, call: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is carried out and its answer lost: the worst moment."""
    client = pushed.session.client

    class Losing:
        def __init__(self, real: Any) -> None:
            self.real = real

        def __getattr__(self, name: str) -> Any:
            def lose(**parameters: Any) -> None:
                getattr(self.real, name)(**parameters)
                raise error("lost")

            return lose if name == call else getattr(self.real, name)

    def losing(name: str, *arguments: Any, **options: Any) -> Any:
        real = client(name, *arguments, **options)
        return Losing(real) if name == "sagemaker" else real

    monkeypatch.setattr(pushed.session, "client", losing)
    with pytest.raises(error, match="lost"):
        deploy(MODEL, "sagemaker", account=pushed)
    monkeypatch.setattr(pushed.session, "client", client)
    assert what_is_there(pushed) == []


class Sagemaker:
    """A client whose endpoint takes some looks to settle, and cannot be deleted before."""

    def __init__(self, looks: int, state: str = "InService") -> None:
        self.looks, self.state = looks, state
        self.calls: list[str] = []

    def describe_endpoint(self, **_: str) -> dict[str, str]:
        self.looks -= 1
        state = "Creating" if self.looks > 0 else self.state
        return {"EndpointStatus": state, "FailureReason": "no capacity"}

    def delete_endpoint(self, **_: str) -> None:
        from botocore.exceptions import ClientError

        self.calls.append("delete_endpoint")
        self.looks -= 1
        if self.looks > 0:
            told = {"Code": "ValidationException", "Message": "Cannot update in-progress endpoint"}
            raise ClientError({"Error": told}, "DeleteEndpoint")

    def __getattr__(self, name: str) -> Any:
        return lambda **_: self.calls.append(name)


def host(sagemaker: Any, runtime: Any = None) -> Any:
    hosted = Hosted("image", "file:///model", "role", "local", "http://here/invocations", [])
    return create_endpoint(Clients(sagemaker, runtime), "lggseg-x", hosted, ExitStack())


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("botocore", reason="botocore is not installed")
    monkeypatch.setattr("lggseg.cloud.aws.account.POLL_SECONDS", 0)


DELETED = ["delete_endpoint", "delete_endpoint_config", "delete_model"]


def test_it_waits_until_the_endpoint_answers_and_deletes_in_reverse(at_once: None) -> None:
    sagemaker = Sagemaker(looks=3)
    host(sagemaker).delete()
    assert sagemaker.looks < 0
    made = ["create_model", "create_endpoint_config", "create_endpoint"]
    assert sagemaker.calls == made + DELETED


def test_an_endpoint_that_fails_says_why_and_is_deleted(at_once: None) -> None:
    sagemaker = Sagemaker(looks=2, state="Failed")
    with pytest.raises(RuntimeError, match=r"lggseg-x: the endpoint did not start \(no capacity\)"):
        host(sagemaker)
    assert sagemaker.calls[-3:] == DELETED


def test_an_endpoint_that_is_still_being_made_is_waited_for_before_it_is_deleted(
    at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sagemaker = Sagemaker(looks=4)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lggseg.cloud.aws.endpoints._wait_until_settled", interrupt)
    with pytest.raises(KeyboardInterrupt):
        host(sagemaker)
    assert sagemaker.calls[-6:] == ["delete_endpoint"] * 4 + DELETED[1:]


class Runtime:
    """Answers as the server would, by the way of SageMaker's runtime."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, {}

    def invoke_endpoint(self, **asked: Any) -> dict[str, Any]:
        self.asked = asked
        return {"Body": self.answer(asked)}


def test_headers_become_parameters(at_once: None) -> None:
    runtime = Runtime(lambda asked: BytesIO(b"{}"))
    send = host(Sagemaker(looks=0), runtime).send
    assert send(b"volume", {"Content-Type": NPY, ATTRIBUTES_HEADER: "slice=7"}) == b"{}"
    expected = {"ContentType": NPY, "Accept": JSON, "CustomAttributes": "slice=7"}
    assert runtime.asked == {"EndpointName": "lggseg-x", "Body": b"volume", **expected}


def test_a_refusal_reads_the_same_from_aws_and_from_local_mode(at_once: None) -> None:
    from botocore.exceptions import ClientError

    def aws(asked: dict[str, Any]) -> None:
        error = {"Code": "ModelError", "Message": "Received client error (400) from primary"}
        original = {"OriginalStatusCode": 400, "OriginalMessage": '{"error": "broken"}'}
        raise ClientError({"Error": error, **original}, "InvokeEndpoint")

    def local(asked: dict[str, Any]) -> BytesIO:
        body = BytesIO(b'{"error": "broken"}')
        body.status = 400  # type: ignore[attr-defined]
        return body

    for answer in (aws, local):
        send = host(Sagemaker(looks=0), Runtime(answer)).send
        with pytest.raises(RuntimeError, match=r'http://here/invocations: 400 {"error": "broken"}'):
            send(b"", {"Content-Type": NPY})


def test_a_packed_model_predicts_the_same(tmp_path: Path) -> None:
    with tarfile.open(pack_model(MODEL, tmp_path / "model.tar.gz")) as tar:
        tar.extractall(tmp_path / "model")
    volume = np.random.default_rng(0).integers(0, 255, (3, 256, 256, 3), dtype=np.uint8)
    masks = [Segmenter.load(folder).predict(volume).mask for folder in (MODEL, tmp_path / "model")]
    assert (masks[0] == masks[1]).all()
