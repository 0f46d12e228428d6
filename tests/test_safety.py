"""Nothing is unpickled, no archive is trusted, and nothing private is in what is committed."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from lggseg.data.kaggle import PATIENT
from lggseg.data.simulation import CLINICAL, plan_cohort

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sorted(
    path for part in ("src", "report", "benchmarks") for path in (ROOT / part).rglob("*.py")
)
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
SNAPSHOTS = sorted(ROOT.glob("report/notebooks/*.ipynb"))
RESULTS = sorted(path for path in (ROOT / "report" / "results").iterdir() if path.is_file())
CARDS = sorted(ROOT.glob("models/*/model_card.json"))
TEXTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]

# Modules that build any object that a file asks for.
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}


def unsafe_calls(source: str) -> list[str]:
    """What loads more than data, or lets an archive or a shell decide: a line each."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call | ast.Constant)
        if _is_unsafe(node)
    ]


def _is_unsafe(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(name.name.partition(".")[0] in UNSAFE_MODULES for name in node.names)
    if isinstance(node, ast.ImportFrom):
        return str(node.module).partition(".")[0] in UNSAFE_MODULES
    if isinstance(node, ast.Constant):  # code that a MONAI bundle runs
        text = node.value if isinstance(node.value, str) else ""
        return "torch.load(" in text and "weights_only=True" not in text
    assert isinstance(node, ast.Call)
    name = ast.unparse(node.func)
    options = {word.arg: ast.unparse(word.value) for word in node.keywords}
    return any(
        (
            name == "torch.load" and options.get("weights_only") != "True",
            name.endswith((".fit", ".validate")) and "ckpt_path" in options
            and options.get("weights_only") != "True",
            name.endswith(".load_from_checkpoint") and options.get("weights_only") != "True",
            options.get("allow_pickle", "False") != "False",
            name.endswith("read_pickle"),
            name.endswith((".extractall", ".extract")),  # see lggseg.data.archive.extract_files
            name in ("eval", "exec", "os.system"),
            options.get("shell", "False") != "False",
        )
    )  # fmt: skip


def code_of(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text()
    cells = nbformat.read(path, 4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", [*PYTHON, *NOTEBOOKS], ids=lambda path: path.name)
def test_only_data_is_loaded(path: Path) -> None:
    assert unsafe_calls(code_of(path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import yaml.constructor",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "trainer.fit(module, ckpt_path=path)",
        "Module.load_from_checkpoint(path)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "tar.extractall(folder)",
        "tar.extract(member, filter='data')",
        "eval(text)",
        "subprocess.run(command, shell=True)",
        "'$torch.load(@checkpoint)'",
    ],
)
def test_what_loads_more_than_data_is_found(source: str) -> None:
    assert len(unsafe_calls(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "trainer.fit(module, ckpt_path=path, weights_only=True)",
        "np.load(path, mmap_mode='c')",
    ],
)
def test_what_loads_data_passes(source: str) -> None:
    assert unsafe_calls(source) == []


SECRETS = {
    "AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "AWS secret": r"(?i)aws_secret_access_key\W{1,4}[A-Za-z0-9/+]{40}\b",
    "W&B key": r"(?i)(?:wandb|api)_?key\W{1,4}[0-9a-f]{40}\b",
    "Kaggle key": r'"key"\s*:\s*"[0-9a-f]{32}"',
    "GitHub token": r"\b(?:gh[pousr]_\w{36}|github_pat_\w{22})",
    "Hugging Face token": r"\bhf_[A-Za-z]{34}\b",
    "Slack token": r"\bxox[abpr]-\w+-\w+",
    "Google key": r"\bAIza[\w-]{35}\b",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "signed token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "password in a URL": r"://[^/\s:@\"'{}<>]+:[^/\s:@\"'{}<>]+@",
}
# Folders of one machine or user; not those inside of a container, /opt/ml and /usr.
MACHINE_PATHS = (
    r"(?<![\w.~/])(?:/home/|/root/|/Users/|/work/|/tmp/|/private/|/mnt/|/var/)\w|[A-Z]:\\{1,2}Users"
)


def private_names(text: str) -> Iterator[str]:
    """Names of what looks like a secret, and folders of a machine."""
    yield from (name for name, pattern in SECRETS.items() if re.search(pattern, text))
    yield from re.findall(MACHINE_PATHS, text)


@pytest.mark.parametrize(
    "path", [*NOTEBOOKS, *SNAPSHOTS, *RESULTS, *CARDS, *TEXTS], ids=lambda path: path.name
)
def test_no_secret_and_no_path_of_a_machine(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".ipynb":  # pictures are long lines of letters
        text = re.sub(r'"image/\w+": "[^"]*"', "", text)
    assert list(private_names(text)) == []


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.name)
def test_no_secret_in_the_code(path: Path) -> None:
    text = path.read_text()
    assert [name for name, pattern in SECRETS.items() if re.search(pattern, text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "A" * 16,
        "aws_secret_access_key = " + "a" * 40,
        "WANDB_API_KEY=" + "a" * 40,
        '{"username": "u", "key": "' + "a" * 32 + '"}',
        "ghp_" + "a" * 36,
        "hf_" + "a" * 34,
        "xoxb-1-a",
        "AIza" + "a" * 35,
        "-----BEGIN RSA PRIVATE " + "KEY-----",
        ".".join(["eyJ" + "a" * 10] * 2 + ["a" * 10]),
        "https://user:word" + "@host",
        "File /home/someone/notebook",
        "'/tmp/pytest-of-root/x'",
        "C:\\Users\\someone",
    ],
)
def test_what_is_private_is_found(text: str) -> None:
    assert len(list(private_names(text))) == 1


BARCODE = re.compile(r"TCGA_\w+")


@pytest.mark.parametrize("path", [*NOTEBOOKS, *SNAPSHOTS], ids=lambda path: path.name)
def test_notebooks_name_real_patients_only_where_there_is_no_picture(path: Path) -> None:
    """A table of scores names patients as report/results does; a picture would show whom a cell
    names."""
    simulated = {plan.name for plan in plan_cohort(24, 0)}
    known = simulated | {name.rsplit("_", 1)[0] for name in simulated}
    published = {
        name for table in RESULTS if table.suffix == ".csv"
        for name in BARCODE.findall(table.read_text())
    }  # fmt: skip
    for cell in json.loads(path.read_text())["cells"]:
        named = set(BARCODE.findall(json.dumps(cell))) - known
        assert named <= published
        kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        assert not named or not any(kind.startswith("image/") for kind in kinds)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_results_name_patients_by_their_public_barcode_alone(path: Path) -> None:
    """Tables of scores name patients on purpose: by what The Cancer Imaging Archive calls them,
    and without a clinical column beside."""
    assert all(PATIENT.fullmatch(name) for name in BARCODE.findall(path.read_text()))
    if path.suffix == ".csv":
        table = pd.read_csv(path)
        assert not set(CLINICAL) & set(table)
        if "patient" in table:
            assert table["patient"].map(PATIENT.fullmatch).notna().all()
