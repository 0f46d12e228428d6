"""What travels to a machine with a GPU arrives unchanged, and what is cut off leaves results; the
page about GPUs names all code that needs one."""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import gpu
import pytest
import torch

from lggseg.config import Config
from lggseg.data.cohort import Cohort
from lggseg.data.splits import make_split
from lggseg.training.datamodule import DeviceCohort


def test_a_packed_cohort_arrives_unchanged(
    cohort: Cohort, shared_tree: Path, tmp_path: Path
) -> None:
    gpu.pack(str(shared_tree), tmp_path / "packed")
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == [
        "cohort-1.xz", "cohort-2.xz", "cohort.sha256"
    ]  # fmt: skip
    gpu.unpack(tmp_path / "packed", tmp_path / "there")
    arrived = gpu.load(tmp_path / "there")
    here, there = (DeviceCohort(c, Config(), torch.device("cpu")) for c in (cohort, arrived))
    assert torch.equal(here.pixels, there.pixels) and torch.equal(here.truth, there.truth)
    assert torch.equal(here.patient, there.patient)
    assert arrived.fingerprint == cohort.fingerprint
    assert make_split(arrived).equals(make_split(cohort))


def test_a_changed_part_is_refused(shared_tree: Path, tmp_path: Path) -> None:
    gpu.pack(str(shared_tree), tmp_path)
    (tmp_path / "cohort.sha256").write_text("0" * 64)
    with pytest.raises(SystemExit, match="differs from the packed one"):
        gpu.unpack(tmp_path, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_stage_that_fails_leaves_its_results_and_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut(options: argparse.Namespace) -> object:
        yield {"runs": [1]}
        raise RuntimeError("the machine was taken away")

    monkeypatch.setattr(gpu, "STAGES", {"race": cut, "speed": lambda options: {"ms": 3.0}})
    options = argparse.Namespace(out=tmp_path, stages=["race", "speed"], minutes=1.0)
    gpu.measure(options)
    results = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert results["race"]["runs"] == [1] and results["speed"]["ms"] == 3.0
    assert all("torch" in result["machine"] for result in results.values())
    assert "the machine was taken away" in capsys.readouterr().err


def test_no_stage_begins_after_the_time_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def long(options: argparse.Namespace) -> object:
        for number in range(3):
            clock.append(clock[-1] + 40)
            yield {"runs": number}

    clock = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[-1])
    monkeypatch.setattr(gpu, "STAGES", {"race": long, "speed": lambda options: {"ms": 3.0}})
    options = argparse.Namespace(out=tmp_path, stages=["race", "speed"], minutes=1.0)
    gpu.measure(options)
    assert json.loads((tmp_path / "race.json").read_text())["runs"] == 1
    assert not (tmp_path / "speed.json").exists()


ROOT = Path(__file__).parents[1]
# Names, attributes, keywords and texts by which code speaks to a GPU.
OF_A_GPU = re.compile(
    r"\w*(?i:cuda)\w*|NCCL.*|nccl|nvidia-smi|pin_memory|non_blocking|GradScaler|capturable"
)


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{node.name}.")


def words(function: ast.FunctionDef) -> Iterator[str]:
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    for node in ast.walk(ast.Module(statements, [])):
        match node:
            case ast.Attribute(attr=word) | ast.Name(id=word) | ast.Constant(value=str(word)):
                yield word
            case ast.keyword(arg=str(word)):
                yield word


def test_the_page_names_every_function_that_only_a_gpu_can_prove() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text()
    listed, found = set(), set()
    for line in page.split("## Lines that only a GPU can prove")[1].splitlines():
        names = re.findall(r"`([^`]+)`", line.split("|")[1]) if line.startswith("| `") else []
        listed |= {(names[0], name) for name in names[1:]}
    package = ROOT / "src" / "lggseg"
    for path in package.rglob("*.py"):
        for name, function in functions(ast.parse(path.read_text())):
            if any(map(OF_A_GPU.fullmatch, words(function))):
                found.add((str(path.relative_to(package)), name))
    assert found == listed


def test_the_page_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text()
    tests = (ROOT / "tests" / "training" / "test_gpu.py").read_text()
    proofs = set(re.findall(r"`(test_\w+)`", page))
    assert proofs == set(re.findall(r"^def (test_\w+)", tests, re.M))
