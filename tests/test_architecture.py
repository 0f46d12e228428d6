"""The package as one text: arrows, privacy, docstrings, length of functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from importlib.util import resolve_name
from pathlib import Path
from statistics import median, quantiles

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "lggseg"
AWS = {"sagemaker", "boto3", "botocore"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def read_package() -> dict[str, ast.Module]:
    """The modules by their names without the package's: ``cli``, ``training``,
    ``training.train``."""
    trees = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        trees[".".join(parts).removesuffix("__init__").rstrip(".")] = ast.parse(path.read_text())
    return trees


TREES = read_package()
# The folders, by their __init__, which gives a folder's public names.
FOLDERS = {
    ".".join(path.parent.relative_to(SOURCE).parts) for path in SOURCE.rglob("*/__init__.py")
} - {""}


def read_rows() -> dict[str, int]:
    """The row of each module in the table of docs/architecture.md, from the top."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = re.findall(r"^\| (`.*?) \|", text, re.M)
    return {name: row for row, cell in enumerate(table) for name in re.findall(r"`([\w.]+)`", cell)}


MODULES = read_rows()
# A folder's names stand above its modules: only what may import all of these may import the folder.
ROWS = MODULES | {
    folder: min(row for name, row in MODULES.items() if name.startswith(f"{folder}."))
    for folder in FOLDERS
}


def package_of(name: str) -> str:
    """The full name of the package that a module's relative imports start from."""
    return f"lggseg.{name if name in FOLDERS else name.rpartition('.')[0]}".rstrip(".")


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """The modules that a module imports anywhere but for type checking, by their full names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            inner = [f"{base}.{alias.name}" for alias in node.names]
            yield from (full if full.removeprefix("lggseg.") in ROWS else base for full in inner)
        yield from imports(node, package)


def own_imports(name: str, tree: ast.Module) -> list[str]:
    """The modules and folders of the package that a module imports."""
    full = (full for full in imports(tree, package_of(name)) if full.startswith("lggseg."))
    return [target for name in full if (target := name.removeprefix("lggseg.")) in ROWS]


def wrong_arrows(trees: Mapping[str, ast.Module]) -> list[str]:
    """The imports within the package that do not lead to a row below; a folder's ``__init__`` may
    import its own modules, too."""
    return [
        f"{name} -> {target}"
        for name, tree in trees.items()
        for target in own_imports(name, tree)
        if ROWS[target] <= ROWS.get(name, -1)
        and not (name in FOLDERS and target.rpartition(".")[0] == name)
    ]


def folder_of(name: str) -> str:
    """The folder below the package in which a module or a folder lies; a module at the top:
    itself."""
    return name.partition(".")[0]


def circles(trees: Mapping[str, ast.Module]) -> list[str]:
    """The pairs of folders that import each other, whichever of their modules do."""
    arrows = {
        (folder_of(name), folder_of(target))
        for name, tree in trees.items()
        for target in own_imports(name, tree)
    }
    return [f"{one} <-> {other}" for one, other in arrows if one < other and (other, one) in arrows]


def test_the_table_names_every_module() -> None:
    assert set(MODULES) == set(TREES) - FOLDERS - {""}


def test_the_rows_of_a_folder_lie_together() -> None:
    order = [folder_of(name) for name in sorted(MODULES, key=lambda name: MODULES[name])]
    starts = [name for name, before in zip(order, ["", *order], strict=False) if name != before]
    assert len(starts) == len(set(starts)), "so that the order of rows is one of folders"


def test_imports_lead_to_rows_below() -> None:
    assert wrong_arrows(TREES) == []
    assert circles(TREES) == []


def test_leaves_import_nothing_of_the_package() -> None:
    leaves = [name for name, row in MODULES.items() if row == max(MODULES.values())]
    assert {"utils.threads", "utils.progress"} <= set(leaves)
    assert [full for leaf in leaves for full in own_imports(leaf, TREES[leaf])] == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("evaluation.segmentation", "from lggseg.training.train import train"),
        ("data.splits", "import lggseg.training.datamodule"),
        ("data.cohort", "def load():\n    from lggseg.data import splits"),
        ("data.cohort", "from .splits import make_split"),
        ("data.cohort", "from lggseg.data import make_split"),
        ("serving.endpoint", "from lggseg.serving.client import segment"),  # of the same row
        ("training.train", "from lggseg.cloud.aws.training_jobs import train"),
        ("training.train", "from lggseg.experiments import tune"),
        ("inference", "from lggseg.training.train import train"),
        ("cloud.aws.account", "from . import training_jobs"),
        ("cloud.aws.endpoints", "from lggseg.cloud import deploy"),
        (
            "preprocessing.volume",
            "try:\n    from lggseg import plots\nexcept ImportError:\n    pass",
        ),
    ],
)
def test_a_made_up_wrong_import_is_found(name: str, line: str) -> None:
    assert wrong_arrows({name: ast.parse(line)})


def test_a_made_up_circle_of_folders_is_found() -> None:
    made = {
        "inference.check": ast.parse("from lggseg.training.muon import MuonAdamW"),
        "training.train": ast.parse("from lggseg.inference.outputs import Outputs"),
    }
    assert circles(made) == ["inference <-> training"]


def test_imports_for_type_checking_are_excused() -> None:
    text = (
        "if TYPE_CHECKING:\n    from lggseg.training.train import train\n"
        "from lggseg.utils.paths import runs_root"
    )
    assert wrong_arrows({"data.cohort": ast.parse(text)}) == []


def test_preprocessing_can_be_copied_alone() -> None:
    """Its imports are relative and stay inside; those of all other folders are absolute."""
    for name, tree in TREES.items():
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        if folder_of(name) == "preprocessing":
            assert {node.level for node in froms if node.module != "__future__"} <= {0, 1}, name
            assert not [node for node in froms if str(node.module).startswith("lggseg")], name
        else:
            assert {node.level for node in froms} <= {0}, name


def aws_imports(trees: Mapping[str, ast.Module]) -> list[str]:
    """The modules outside of ``cloud.aws`` that import the SDK or boto3."""
    outside = {name: tree for name, tree in trees.items() if not name.startswith("cloud.aws")}
    return [
        name
        for name, tree in outside.items()
        if AWS & {full.partition(".")[0] for full in imports(tree, package_of(name))}
    ]


def test_only_cloud_aws_imports_aws() -> None:
    assert aws_imports(TREES) == []
    text = "def f():\n    from boto3.session import Session"
    assert aws_imports({"training.train": ast.parse(text), "cloud.deploy": ast.parse(text)}) == [
        "training.train",
        "cloud.deploy",
    ]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_private_names(tree: ast.Module) -> set[str]:
    """What a module defines or assigns under a private name, attributes of ``self`` included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return set(filter(is_private, names))


def used_names(tree: ast.Module) -> set[str]:
    """The names that a module takes out of others: by import, or as an attribute."""
    nodes = list(ast.walk(tree))
    imported = [alias.name for n in nodes if isinstance(n, ast.ImportFrom) for alias in n.names]
    return {*imported, *(node.attr for node in nodes if isinstance(node, ast.Attribute))}


def borrowed(trees: Mapping[str, ast.Module]) -> list[str]:
    """The private names of one module that another uses."""
    private = {name: own_private_names(tree) for name, tree in trees.items()}
    return [
        f"{name} uses {used}"
        for name, tree in trees.items()
        for used in used_names(tree) - private[name]
        if any(used in names for names in private.values())
    ]


def test_no_module_uses_a_private_name_of_another() -> None:
    assert borrowed(TREES) == []
    owner = ast.parse("def _inside(): ...\nclass A:\n    def f(self): self._kept = 1")
    for text in ("from lggseg.owner import _inside", "import owner\nowner._inside()", "a._kept"):
        assert borrowed({"owner": owner, "user": ast.parse(text)}), text


# Each with a comment where it is used; tests of the modules fail when the library changes it.
FOREIGN = {
    "_foreach_lerp": "torch", "_foreach_lerp_": "torch", "_foreach_mul_": "torch",
    "_foreach_add_": "torch", "_stream_output": "sagemaker, tests/cloud/test_local_mode.py",
}  # fmt: skip


def foreign_private_names(trees: Mapping[str, ast.Module]) -> set[str]:
    """The private names that are used and that no module of the package defines."""
    own = set().union(*(own_private_names(tree) for tree in trees.values()))
    stored = own & set(FOREIGN)  # a library's name, replaced by ours
    used = {name for tree in trees.values() for name in used_names(tree) if is_private(name)}
    return used - own - {"_exit"} | stored  # os._exit is public


def test_private_names_of_libraries_are_few_and_listed() -> None:
    assert foreign_private_names(TREES) == set(FOREIGN)
    assert foreign_private_names({"user": ast.parse("study._storage")}) == {"_storage"}


def public(tree: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    """Public functions and classes; of a class that inherits, not the methods, since they may be
    the base's."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef) and not node.bases:
                yield from public(node)


def test_everything_public_is_documented() -> None:
    bare = [name for name, tree in TREES.items() if not ast.get_docstring(tree)]
    for name, tree in TREES.items():
        bare += [f"{name}.{node.name}" for node in public(tree) if not ast.get_docstring(node)]
    assert bare == []


LONGEST_FUNCTION, LONGEST_FILE = 40, 350


def function_lengths(tree: ast.Module) -> dict[str, int]:
    """The lines of each function of a module, by its name and its first line."""
    return {
        f"{node.name}:{node.lineno}": (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, Function)
    }


def too_long(texts: Mapping[str, str]) -> list[str]:
    """The modules and functions that are longer than they may be."""
    files = [name for name, text in texts.items() if len(text.splitlines()) > LONGEST_FILE]
    return files + [
        f"{module}.{name}"
        for module, text in texts.items()
        for name, length in function_lengths(ast.parse(text)).items()
        if length > LONGEST_FUNCTION
    ]


def test_no_file_and_no_function_is_long() -> None:
    paths = sorted(SOURCE.rglob("*.py"))
    assert too_long({str(path.relative_to(SOURCE)): path.read_text() for path in paths}) == []


def test_a_made_up_long_file_and_function_are_found() -> None:
    line = "    x = 1\n"
    assert too_long({"short": "def f():\n" + line * (LONGEST_FUNCTION - 1)}) == []
    assert too_long({"long": "def f():\n" + line * LONGEST_FUNCTION}) == ["long.f:1"]
    assert too_long({"long": "x = 1\n" * (LONGEST_FILE + 1)}) == ["long"]


def test_functions_are_short() -> None:
    """The proportions of torchio: half of its functions have at most 10 lines, 90 % at most 29."""
    lengths = [length for tree in TREES.values() for length in function_lengths(tree).values()]
    assert len(lengths) > 500
    assert median(lengths) <= 10
    assert quantiles(lengths, n=10)[-1] <= 29
