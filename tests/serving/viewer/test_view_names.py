"""The viewer among odd names, addresses and lists of files: every answer is a sentence in JSON."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Extension

from lggseg.data.kaggle import patient_folders
from lggseg.serving.server import Limits
from lggseg.serving.viewer import app as view
from lggseg.utils.errors import Refused

MODEL = Path(__file__).resolve().parents[3] / "models" / "lgg-unet"
LIMITS = Limits(bytes=12_000_000, slices=64, seconds=10, predictions=2)
NAMES = ["1.2.840.113619.1", "1.2.840.113619.2", "NA", "50% #1?", 'a"b\u00fc', "b'\udcfc"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, shared_tree: Path) -> Path:
    """One patient under many names, the slices named like their folder."""
    root = tmp_path_factory.mktemp("names") / "kaggle_3m"
    source = patient_folders(shared_tree)[0]
    for name in NAMES:
        try:
            (root / name).mkdir(parents=True)
        except (OSError, UnicodeError):
            continue  # this file system has no such names
        for number in (1, 2):
            for ending in (".tif", "_mask.tif"):
                place = source / f"{source.name}_{number}{ending}"
                shutil.copy(place, root / name / f"{name}_{number}{ending}")
    return root


@pytest.fixture(scope="module")
def client(tree: Path) -> TestClient:
    app = view.build_app(MODEL, tree, "127.0.0.1", LIMITS)
    return TestClient(app, base_url="http://127.0.0.1:8081", raise_server_exceptions=False)


def send(client: TestClient, line: bytes, content: bytes = b"") -> Any:
    headers = {"Content-Type": view.BODY}
    return client.post("/api/cases", content=line + b"\n" + content, headers=headers)


def error(response: Any) -> str:
    assert 400 <= response.status_code < 500, (response.status_code, response.text)
    return str(response.json()["error"])


def test_every_patient_is_listed_and_shown_under_its_whole_name(
    client: TestClient, tree: Path
) -> None:
    listed = client.get("/api/patients").json()["patients"]
    # A name that is no Unicode stops no other patient.
    assert sorted(listed) == sorted(name for name in NAMES if name.isprintable())
    assert len(listed) == len(list(tree.iterdir())) - 1
    for name in listed:
        facts = client.get(f"/api/cases/{quote(name, safe='')}").json()
        assert facts["name"] == name and facts["slices"] == 2
    asked = "/api/cases/1.2.840.113619.%d/mask.tif?threshold=0.5"
    saved = [client.get(asked % number).headers["content-disposition"] for number in (1, 2)]
    assert "1.2.840.113619.1_mask.tif" in saved[0] and "1.2.840.113619.2_mask.tif" in saved[1]


def test_patients_of_one_name_are_distinguished() -> None:
    paths = [Path("a/p1"), Path("b/p1"), Path("b/p2"), Path("c/b/p1")]
    named = view.name_patients(paths)
    assert list(named) == ["p1", "p1 (b)", "p2", "p1 (b) (b)"]
    assert list(named.values()) == paths


LONG = "9" * 4300
LISTS = [
    b"",
    b"{}",
    b"[1]",
    b"null",
    b"NaN",
    b"[" * 100_000,
    b'[{"name": "a.tif"}]',
    b'[{"name": "a.tif", "size": -1}]',
    b'[{"name": "a.tif", "size": 1e999}]',
    b'[{"name": "a.tif", "size": NaN}]',
    f'[{{"name": "a.tif", "size": {LONG}}}, {{"name": "b.tif", "size": {LONG}}}]'.encode(),
    f'[{{"name": "a.tif", "size": -{LONG}}}, {{"name": "b.tif", "size": {LONG}}}]'.encode(),
    f'[{{"name": "a.tif", "size": "{LONG}"}}]'.encode(),
    b'[{"name": "\\ud800.tif", "size": 0}]',
    b'[{"name": "\\udfff", "size": 0}]',
    b'[{"name": "a.nii", "size": 0, "role": "\\ud800"}]',
    b'[{"name": "a\\u0000.nii", "size": 0, "role": "FLAIR"}]',
    b'[{"name": ["\\ud800"], "size": 0}]',
    b"\xff\xfe",
]


@pytest.mark.parametrize("line", LISTS, ids=range(len(LISTS)))
def test_a_list_of_files_that_is_none_is_refused(client: TestClient, line: bytes) -> None:
    assert ": found " in error(send(client, line))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
entry = st.fixed_dictionaries({"name": values, "size": values, "role": values})


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(entry, max_size=3) | values, st.binary(max_size=20))
def test_any_list_of_files_is_refused_in_a_sentence(
    client: TestClient, entries: Any, content: bytes
) -> None:
    assert error(send(client, json.dumps(entries).encode("utf-8", "surrogatepass"), content))


def test_an_encoded_upload_is_refused(client: TestClient) -> None:
    headers = {"Content-Type": view.BODY, "Content-Encoding": "gzip"}
    answer = client.post("/api/cases", content=b"[]\n", headers=headers)
    assert answer.status_code == 415 and "Content-Encoding 'gzip'" in error(answer)


def test_a_name_that_is_no_unicode_is_shown_in_the_sentence(client: TestClient) -> None:
    text = error(send(client, b'[{"name": "\\udce4.tif", "size": 3}]', b"abc"))
    assert r"\xe4.tif: found a broken TIFF" in text


def test_a_nifti_with_afnis_header_extension_becomes_a_case(client: TestClient) -> None:
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 200, (64, 64, 4)).astype(np.int16)
    image = nib.Nifti1Image(voxels, np.diag([-3.0, -3.0, 5.0, 1.0]))
    image.header.extensions.append(Nifti1Extension(4, b"<AFNI_attributes/>" * 20))
    content = image.to_bytes()
    line = json.dumps([{"name": "anat.nii", "size": len(content), "role": ""}]).encode()
    answer = send(client, line, content)
    assert answer.status_code == 201, answer.text
    assert client.get(f"/api/cases/{answer.json()['case']}").json()["slices"] == 4


@pytest.mark.parametrize(
    ("host", "answered", "refused"),
    [
        (
            "127.0.0.1",
            ["127.0.0.1:8081", "localhost", "LOCALHOST:1"],
            ["evil.example", "", "[::2]"],
        ),
        ("::1", ["[::1]:8081", "[::1]", "localhost:8081"], ["evil.example", "[::2]:8081", "::1"]),
        ("0:0:0:0:0:0:0:1", ["[::1]:8081"], ["[::]:8081"]),
        ("localhost", ["localhost:8081", "127.0.0.1", "[::1]:8081"], ["www.localhost"]),
        ("::", ["[::1]", "any.example"], []),
        ("0.0.0.0", ["10.0.0.1:8081", "any.example"], []),
        ("fe80::a", ["[fe80::a]:8081"], ["[fe80::b]"]),
        ("box.example", ["box.example:8081"], ["www.box.example", "other.example"]),
    ],
)
def test_the_address_it_prints_is_answered_and_foreign_names_are_not(
    host: str, answered: list[str], refused: list[str]
) -> None:
    client = TestClient(view.build_app(MODEL, None, host, LIMITS), follow_redirects=False)
    for name in answered:
        assert client.get("/api/patients", headers={"Host": name}).status_code == 200, name
    for name in refused:
        assert client.get("/api/patients", headers={"Host": name}).status_code == 400, name


def test_nobody_may_frame_the_page(client: TestClient) -> None:
    for path in ("/", "/api/patients", "/nothing"):
        headers = client.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"


def test_a_room_that_is_full_is_told(tree: Path) -> None:
    limits = Limits(requests=0)
    client = TestClient(view.build_app(MODEL, tree, "127.0.0.1", limits))
    answer = client.get("/api/patients", headers={"Host": "127.0.0.1"})
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert "too many requests at once" in answer.json()["error"]


def test_a_third_upload_is_told_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "IDLE_SECONDS", 0.2)

    async def three() -> list[bool]:
        receiving = asyncio.Semaphore(2)
        async with view.turn(receiving), view.turn(receiving):
            with pytest.raises(Refused, match="other files on their way") as refused:
                async with view.turn(receiving):
                    pass
            assert refused.value.status == 503
        async with view.turn(receiving):
            return [receiving.locked()]

    assert asyncio.run(three()) == [False]
