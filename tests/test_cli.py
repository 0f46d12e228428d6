from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from fastapi.testclient import TestClient

from lggseg import cli
from lggseg.config import profile
from lggseg.data import download
from lggseg.inference.predict import volume_paths
from lggseg.serving import endpoint as serve
from lggseg.serving.viewer import app
from lggseg.utils.errors import DataError

KNOBS = ["--profile", "smoke", "--epochs", "1", "--width", "4", "--precision", "32-true"]


@pytest.fixture(scope="module")
def model(shared_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("cli") / "run"
    assert cli.main(["train", "--data", str(shared_tree), "--run", str(run), *KNOBS]) == 0
    return run / "model"


def test_split_then_evaluate(model: Path, shared_tree: Path, tmp_path: Path) -> None:
    split, out = str(tmp_path / "split.csv"), tmp_path / "out"
    assert cli.main(["split", str(shared_tree), "--out", split]) == 0
    arguments = ["evaluate", str(model), str(shared_tree), "--out", str(out), "--split", split]
    assert cli.main([*arguments, "--subset", "test"]) == 0
    table = pd.read_csv(out / "patients.csv")
    expected = pd.read_csv(split).query("subset == 'test'")["patient"]
    assert table["patient"].tolist() == expected.tolist()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["dice"]["mean"] == pytest.approx(table["dice"].mean())
    assert summary["simulated"] is False


def test_evaluate_keeps_the_scores_in_the_card_when_asked(
    model: Path, shared_tree: Path, tmp_path: Path
) -> None:
    own = tmp_path / "model"
    shutil.copytree(model, own)
    split = str(model.parent / "split.csv")
    arguments = ["evaluate", str(own), str(shared_tree), "--out", str(tmp_path), "--split", split]
    assert cli.main([*arguments, "--record"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    card = json.loads((own / "model_card.json").read_text())
    assert card["test"]["dice"] == summary["dice"] and "validation" in card


def test_evaluate_refuses_the_split_of_another_run(
    model: Path, shared_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = str(tmp_path / "split.csv")
    assert cli.main(["split", str(shared_tree), "--out", split, "--seed", "1"]) == 0
    assert cli.main(["evaluate", str(model), str(shared_tree), "--split", split]) == 1
    assert "found another split than the one" in capsys.readouterr().err


def test_evaluate_without_a_split_takes_all(model: Path, shared_tree: Path, tmp_path: Path) -> None:
    assert cli.main(["evaluate", str(model), str(shared_tree), "--out", str(tmp_path)]) == 0
    assert len(pd.read_csv(tmp_path / "patients.csv")) == 8


def test_predict(model: Path, shared_tree: Path, tmp_path: Path) -> None:
    assert cli.main(["predict", str(model), str(shared_tree), str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("TCGA_*_mask.tif"))) == 8
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 8


def listing(folder: Path) -> list[tuple[str, int, int]]:
    files = sorted(path for path in folder.rglob("*"))
    return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]


def test_commands_take_any_path_write_nothing_into_the_data_and_ask_no_network(
    shared_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))
    place = tmp_path / """Zoë's "scans" 50% #1 – 日本"""
    monkeypatch.setenv("LGGSEG_CACHE", str(place / "cache of hers"))
    shutil.copytree(shared_tree, place / "data's" / "kaggle_3m")
    data, split, run = place / "data's", place / "split ü.csv", place / "run's"
    before = listing(data)
    trained = ["--data", str(data), "--split", str(split), *KNOBS]
    model = str(run / "model")
    commands: list[list[str]] = [
        ["split", str(data), "--out", str(split)],
        ["train", *trained, "--run", str(run)],
        ["train", *trained, "--run", str(run), "--resume"],
        ["tune", *trained, "--run", str(place / "search é"), "--trials", "1"],
        ["evaluate", model, str(data), "--split", str(split), "--out", str(place / "evaluated ä")],
        ["predict", model, str(data), str(place / "masks ö")],
        ["export", model, "--monai-bundle", str(place / "bundle's")],
        ["phantom", str(place / "simulated ß"), "--patients", "1"],
    ]
    for command in commands:
        assert cli.main(command) == 0, command
    assert listing(data) == before
    assert len(pd.read_csv(place / "masks ö" / "predictions.csv")) == 8
    assert (place / "search é" / "best.json").exists()
    assert next((place / "cache of hers").glob("*/pixels.npy"))
    page = TestClient(app.build_app(run / "model", data, "127.0.0.1"), "http://127.0.0.1")
    patient = page.get("/api/patients").json()["patients"][0]
    assert page.get(f"/api/cases/{patient}").status_code == 200
    endpoint = TestClient(serve.build_app(run / "model", serve.Limits()))
    assert endpoint.get("/ping").status_code == 200


@pytest.mark.parametrize(
    ("files", "data", "found", "action"),
    [
        ([], "data", "no patient's folder, and no file", "the folder of a DICOM study"),
        ([], "data/absent", "no such file", "Check the path"),
        (["flair.nii.gz"], "data", "no patient's folder, but 1 file .nii.gz", "--pre and --post"),
        (["flair.nii"], "data/flair.nii", "a file .nii", "page of `lggseg view`"),
        (
            ["1.png", "2.png"],
            "data",
            "no patient's folder, but 2 files .png",
            "must be saved as TIFF",
        ),
        (["scan.dcm"], "data/scan.dcm", "a file .dcm", "dcm2niix"),
        (
            ["slice_1.tif"],
            "data",
            "no patient's folder, but 1 file .tif",
            "Name the slices like their folder",
        ),
    ],
)
def test_what_is_no_patient_is_named_with_what_to_do(
    files: list[str], data: str, found: str, action: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    for name in files:
        (tmp_path / "data" / name).touch()
    path = tmp_path / data
    with pytest.raises(DataError) as caught:
        volume_paths(path)
    assert str(caught.value).startswith(f"{path}: found {found}; expected a tree of patients")
    assert action in str(caught.value)


def test_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr("lggseg.serving.endpoint.serve", lambda *arguments: calls.append(arguments))
    assert cli.main(["serve", "model"]) == 0
    assert cli.main(["serve", "model", "--host", "0.0.0.0", "--port", "80"]) == 0
    assert calls == [(Path("model"), "127.0.0.1", 8080), (Path("model"), "0.0.0.0", 80)]


def test_serve_without_a_model_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", str(tmp_path)]) == 1
    assert "model.onnx: found no such file" in capsys.readouterr().err


def test_a_mistake_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(tmp_path), str(tmp_path), str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lggseg: ") and "model.onnx: found no such file" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("command", "name", "own"),
    [
        ("crossvalidate", "summary.json", "fold-0"),
        ("crossvalidate", "patients.csv", "fold-0"),
        ("compare", "pairs.csv", "unet/fold-0"),
        ("tune", "best.json", "study.db"),
        ("tune", "trials.csv", "study.db"),
    ],
)
def test_tables_of_others_are_not_replaced(
    command: str, name: str, own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / name).write_text("mine")
    line = [command, "--data", str(tmp_path / "absent"), "--run", str(run)]
    assert cli.main(line) == 1
    assert f"{name}: found a file that is not of such a run" in capsys.readouterr().err
    assert [path.name for path in run.iterdir()] == [name]
    (run / own).mkdir(parents=True)
    assert cli.main(line) == 1
    assert "absent: found no such folder" in capsys.readouterr().err


def test_an_empty_path_is_not_the_current_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["predict", "models/lgg-unet", "", "out"], ["split", "data", "--out", ""]):
        with pytest.raises(SystemExit) as caught:
            cli.main(line)
        assert caught.value.code == 2
        assert "found an empty path; expected a file or a folder" in capsys.readouterr().err


def test_a_bad_hyperparameter_is_one_sentence(
    shared_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--data", str(shared_tree), "--epochs", "0"]) == 1
    assert "epochs='0': expected a value from 1 to inf" in capsys.readouterr().err


def test_help_is_quick_to_import() -> None:
    code = "import sys, lggseg.cli; assert not {'torch', 'monai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_profiles_are_ordered() -> None:
    epochs = [profile(name).epochs for name in ("smoke", "demo", "full")]
    assert epochs == sorted(epochs)


def test_an_interrupt_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lggseg.data.download.download", interrupt)
    assert cli.main(["download", "data"]) == 130
    assert capsys.readouterr().err == "lggseg: interrupted\n"


def test_notebooks_of_an_absent_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["notebooks", "--data", "/no/such/tree"]) == 1
    assert "/no/such/tree: found no such folder; expected the Kaggle" in capsys.readouterr().err


def test_download_copies_the_tree(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kagglehub

    monkeypatch.setattr(kagglehub, "dataset_download", lambda name: str(tree.parent))
    found = download.download(tmp_path / "data")
    assert found == tmp_path / "data" / "kaggle_3m"
    assert len(list(found.glob("*/*.tif"))) == len(list(tree.glob("*/*.tif")))


def test_a_failed_download_says_how_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import kagglehub

    def fail(name: str) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(kagglehub, "dataset_download", fail)
    assert cli.main(["download", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "no route to host" in error and "make run DATA=/path/to/kaggle_3m" in error
    assert not list(tmp_path.iterdir())
