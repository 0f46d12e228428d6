"""The notebooks' way through AWS, by papermill: their kernels talk to moto's server, whose jobs and
endpoints run the project's own code (see aws_service)."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pandas as pd
import pytest
from aws_account import ENVIRONMENT, NAMES, allowed, keys, left, push_image
from tools import need

from lggseg.cloud import registry
from lggseg.cloud.aws.account import Account, open_account
from lggseg.cloud.aws.cleanup import find_everything
from lggseg.cloud.deploy import deploy
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.splits import make_split, split_fingerprint, write_split
from lggseg.experiments.search_space import SEARCH_SPACE
from lggseg.inference.segmenter import Segmenter
from lggseg.notebooks import execute, runs_of

if TYPE_CHECKING:
    from aws_shapes import Request

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = {path.stem.partition("_")[0]: path for path in (ROOT / "notebooks").glob("*.ipynb")}
MODEL = ROOT / "models" / "lgg-unet"
# The service model allows 6 MiB, the package sends up to lggseg.data.codecs.MAX_BYTES, 25 MB; which
# of them AWS holds to is not known here. A broken volume of notebook 08 lies in between.
LARGE = "InvokeEndpoint.Body is "
# What every kernel begins with.
STARTUP = """
import sys
sys.path.append({tests!r})
import aws_shapes
aws_shapes.record_to({file!r})
"""


@dataclass(frozen=True)
class Series:
    """The series on a machine whose AWS is moto's server."""

    account: Account
    data: Path
    folder: Path

    @property
    def runs(self) -> Path:
        return runs_of(load_cohort(self.data, progress=False))

    def execute(self, number: str, **parameters: Any) -> list[str]:
        """Execute a notebook with its cost confirmed; returns what it asked of AWS, each request
        one that AWS would take and the policy allows."""
        requests = self.folder / "requests"
        requests.write_text("")
        given = {"DATA": str(self.data), "PROFILE": "smoke", "WHERE": "sagemaker"}
        given |= {"CONFIRM_COST": True, **parameters}
        execute(NOTEBOOKS[number], self.folder / f"{number}.ipynb", given)
        made = [json.loads(line) for line in requests.read_text().splitlines()]
        problems = [problem for request in made for problem in request["problems"]]
        assert [problem for problem in problems if not problem.startswith(LARGE)] == []
        called = [f"{request['service']}:{request['operation']}" for request in made]
        assert {action for call in called for action in NAMES.get(call, [call])} <= allowed()
        return [request["operation"] for request in made]

    def said(self, number: str) -> str:
        """What an executed notebook printed."""
        cells = nbformat.read(self.folder / f"{number}.ipynb", 4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        return "".join(output.get("text", "") for output in outputs)


@pytest.fixture
def series(
    shared_tree: Path, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Series]:
    need("aws", all(find_spec(package) for package in ("boto3", "moto", "sagemaker")))
    from aws_gaps import filled
    from aws_service import working
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "record.py"
    startup.parent.mkdir(parents=True)
    file = str(tmp_path / "requests")
    startup.write_text(STARTUP.format(tests=str(Path(__file__).parent / "support"), file=file))
    environment = {
        **ENVIRONMENT,
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "LGGSEG_RUNS": str(tmp_path / "runs"),
        "LGGSEG_CACHE": str(tmp_path / "cache"),  # notebook 99 deletes it
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST"))
    account = open_account()
    push_image(account)
    write_split(make_split(cohort), runs_of(cohort) / "split.csv")
    with filled(), working():
        yield Series(account, shared_tree, tmp_path)
    server.stop()


@pytest.mark.slow
def test_a_model_is_trained_deployed_asked_and_cleaned_up(series: Series, cohort: Cohort) -> None:
    assert series.execute("03").count("CreateTrainingJob") == 1
    card = Segmenter.load(series.runs / "unet-smoke" / "model").card
    assert card["data_fingerprint"] == cohort.fingerprint
    assert card["split_fingerprint"] == split_fingerprint(make_split(cohort))
    for number, more in {"07": {"REGISTRY": "sagemaker"}, "08": {}}.items():
        made = series.execute(number, **more)
        assert made.count("CreateModelPackage") == len(more)
        assert made.count("CreateEndpoint") == made.count("DeleteEndpoint") == 1
        assert made.count("InvokeEndpoint") > 5
    training, registered = find_everything(series.account)
    assert ":training-job/" in training and ":model-package-group/" in registered
    assert f"sagemaker: {registered.replace('-group', '')}/1" in series.said("07")
    # As a notebook leaves it that is killed.
    deploy(MODEL, "sagemaker", account=series.account)
    series.execute("99", DELETE=True)
    assert "Cost: the endpoint $0.12 an hour" in series.said("99")
    assert left(series.account) == {"lggseg"}, "the repository of the images stays"
    assert {key.split("/")[0] for key in keys(series.account)} == {"data", "splits"}


@pytest.mark.slow
def test_a_search_is_drawn_from_the_trainings_that_it_started(series: Series) -> None:
    made = series.execute("04", TRIALS=2)
    assert made.count("CreateHyperParameterTuningJob") == 1
    results = series.runs / "results" / "04_tune_hyperparameters-smoke.json"
    table = pd.DataFrame(json.loads(results.read_text())["trials"])
    assert table["state"].tolist() == ["complete"] * 2
    assert set(SEARCH_SPACE) <= set(table) and table["learning_rate"].nunique() == 2
    assert len([name for name in left(series.account) if "training_jobs/" in name]) == 2


@pytest.mark.parametrize("number", ["03", "04", "07", "08"])
def test_without_a_confirmed_cost_nothing_is_asked_of_aws(
    aws: list[Request],
    number: str,
    shared_tree: Path,
    cohort: Cohort,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LGGSEG_RUNS", str(tmp_path))
    write_split(make_split(cohort), runs_of(cohort) / "split.csv")
    registry.register(MODEL, "lgg-unet", aliases=["production"])
    given = {"DATA": str(shared_tree), "PROFILE": "smoke", "WHERE": "sagemaker"}
    if number == "07":
        given["MODEL"] = str(MODEL)  # instead of that of notebook 03
    with pytest.raises(RuntimeError, match="CONFIRM_COST is not set, so nothing was started"):
        run_cells(NOTEBOOKS[number], given)
    assert "Cost: " in capsys.readouterr().out
    assert aws == []


@pytest.mark.slow
def test_a_model_is_registered_with_wandb_too(
    shared_tree: Path,
    cohort: Cohort,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("LGGSEG_RUNS", str(tmp_path))
    write_split(make_split(cohort), runs_of(cohort) / "split.csv")
    given = {"DATA": str(shared_tree), "PROFILE": "smoke", "MODEL": str(MODEL)}
    run_cells(NOTEBOOKS["07"], {**given, "REGISTRY": "wandb"})
    assert "wandb: lggseg/lgg-unet:latest\n" in capsys.readouterr().out
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert registry.resolve("lgg-unet:production").name == "v1"


def run_cells(path: Path, parameters: dict[str, Any]) -> None:
    """The code of a notebook in this process, which is faster than a kernel."""
    space: dict[str, Any] = {}
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, path.name, "exec"), space)
        if "parameters" in cell.metadata.get("tags", []):
            space.update({name: value for name, value in parameters.items() if name in space})
