"""Small trees in Kaggle's layout, and a cache that is thrown away."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

BYTECODE = Path(__file__).resolve().parents[1] / "build" / "bytecode"
if sys.dont_write_bytecode:
    # Each child process of a test would compile torch, MONAI and pandas anew: 12 CPU seconds.
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(BYTECODE)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(BYTECODE)

import numpy as np
import pandas as pd
import pytest
import tifffile

from lggseg import threads
from lggseg.data import Cohort, load_cohort

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
# Trainings are compared to the last bit, so none may take fewer threads than another.
os.environ.setdefault("OMP_NUM_THREADS", str(threads.threads_each(WORKERS)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """A test process for each CPU that may be used, and at most four: each holds 1 GB."""
    return min(4, threads.usable_cpus())


if TYPE_CHECKING:
    from aws_shapes import Request

    from lggseg.cloud.account import Account


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a browser shows is slow to test: the quick tests ask the server alone."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _throwaway_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["LGGSEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def write_tree(root: Path, patients: int = 3, slices: int = 4, seed: int = 0) -> Path:
    """A tree of head-like disks with a bright blob as tumour, in Kaggle's layout."""
    rng = np.random.default_rng(seed)
    names = [f"TCGA_{('CS', 'DU', 'HT')[i % 3]}_T{i:03d}_20000101" for i in range(patients)]
    y, x = np.mgrid[:256, :256]
    for name in names:
        (root / name).mkdir(parents=True)
        centre = rng.integers(90, 166, 2)
        for number in range(1, slices + 1):
            image = rng.integers(0, 12, (256, 256, 3), dtype=np.uint8)
            image[(y - 128) ** 2 + (x - 128) ** 2 < 90**2] += 80
            mask = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 20**2
            mask &= 1 < number < slices
            image[mask, 1] += 90
            tifffile.imwrite(root / name / f"{name}_{number}.tif", image, photometric="rgb")
            pixels = mask.astype(np.uint8) * 255
            tifffile.imwrite(root / name / f"{name}_{number}_mask.tif", pixels)
    rows = {"Patient": [name.rsplit("_", 1)[0] for name in names], "gender": 1}
    pd.DataFrame(rows).to_csv(root / "data.csv", index=False)
    return root


def need(tool: str, present: bool) -> None:
    """Skip a test of a tool that is missing; fail it where LGGSEG_REQUIRE names the tool, as CI's
    does."""
    if present:
        return
    if tool in os.environ.get("LGGSEG_REQUIRE", "").split(","):
        pytest.fail(f"{tool} is missing, and LGGSEG_REQUIRE names it")
    pytest.skip(f"{tool} is missing")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three patients of four slices."""
    return write_tree(tmp_path / "kaggle_3m")


@pytest.fixture(scope="session")
def shared_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patients of six slices; not to be changed."""
    return write_tree(tmp_path_factory.mktemp("shared") / "kaggle_3m", patients=8, slices=6)


@pytest.fixture(scope="session")
def cohort(shared_tree: Path) -> Cohort:
    """The patients of ``shared_tree``."""
    return load_cohort(shared_tree, progress=False)


@pytest.fixture(scope="session")
def real_tree() -> Path:
    """A tree of real patients, where the environment names one."""
    path = os.environ.get("LGGSEG_REAL_DATA")
    if not path:
        pytest.skip("LGGSEG_REAL_DATA names no tree of real patients")
    return Path(path)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Request]]:
    """An empty AWS account made by moto, and the requests that reach it. At the end each of them
    must be one that AWS would take."""
    need("aws", all(find_spec(package) for package in ("boto3", "moto", "sagemaker")))
    import boto3
    import moto
    from aws_gaps import filled
    from aws_shapes import recorded

    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with moto.mock_aws(), filled(), recorded() as requests:
        yield requests
    assert [problem for request in requests for problem in request.problems] == []


ENVIRONMENT = {
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "LGGSEG_ROLE": "arn:aws:iam::123456789012:role/lggseg",
}


@pytest.fixture
def account(aws: list[Request]) -> Account:
    """That account, opened for the run ``test``."""
    from lggseg.cloud.account import open_account

    return open_account("test")


@pytest.fixture
def pushed(account: Account) -> Account:
    """The account, with an image to serve in its registry."""
    push_image(account)
    return account


def push_image(account: Account) -> None:
    ecr = account.session.client("ecr")
    ecr.create_repository(repositoryName="lggseg")
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": {}, "layers": []}
    ecr.put_image(repositoryName="lggseg", imageTag="serve", imageManifest=json.dumps(manifest))
