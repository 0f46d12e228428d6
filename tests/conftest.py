"""Small trees in Kaggle's layout, and a cache that is thrown away."""

from __future__ import annotations

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

import pytest
from aws_account import ENVIRONMENT, push_image
from tools import need
from trees import write_tree

from lggseg.data.cohort import Cohort, load_cohort
from lggseg.utils import threads

if TYPE_CHECKING:
    from aws_shapes import Request

    from lggseg.cloud.aws.account import Account

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
LONGEST = {"test_notebooks.py": 0, "test_train.py": 1, "test_server.py": 2, "test_compare.py": 3}
# Trainings are compared to the last bit, so none may take fewer threads than another.
os.environ.setdefault("OMP_NUM_THREADS", str(threads.threads_each(WORKERS)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """A test process for each CPU that may be used, and at most four: each holds 1 GB."""
    return min(4, threads.usable_cpus())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process ends alone with one of them. What a browser shows
    is slow to test: the quick tests ask the server alone."""
    items.sort(key=lambda item: LONGEST.get(item.path.name, len(LONGEST)))
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _throwaway_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["LGGSEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))


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


@pytest.fixture
def account(aws: list[Request]) -> Account:
    """That account, opened for the run ``test``."""
    from lggseg.cloud.aws.account import open_account

    return open_account("test")


@pytest.fixture
def pushed(account: Account) -> Account:
    """The account, with an image to serve in its registry."""
    push_image(account)
    return account
