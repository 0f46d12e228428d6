"""The documentation agrees with the repository: links, versions, environment variables, hooks."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

import lggseg

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "models/**/*.md", ".github/**/*.md")
    for page in ROOT.glob(pattern)
)
ENVIRONMENT = ROOT / "docs" / "environment.md"


def names_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def targets(text: str) -> list[str]:
    """The relative links of a page in Markdown, outside of code."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    return re.findall(r"\]\((?!\w+:)([^)\s]+)\)", prose)


def anchors(text: str) -> set[str]:
    """The anchors that code-hosting sites give the headings of a page."""
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    titles = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path, text: str) -> list[str]:
    """The links of a page that lead to no file, or to no heading of it."""
    broken = []
    for link in targets(text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists():
            broken.append(link)
        elif anchor and target.suffix == ".md":
            content = text if target == page else target.read_text(encoding="utf-8")
            broken += [link] if anchor not in anchors(content) else []
    return broken


@pytest.mark.parametrize("page", PAGES, ids=names_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_found() -> None:
    page = ROOT / "docs" / "README.md"
    text = "# Two words\n[a](nothing.md) [b](#two-words) [c](#three) `[d](no.md)`"
    text += " [e](architecture.md#contracts) [f](architecture.md#nothing)"
    assert broken_links(page, text) == ["nothing.md", "#three", "architecture.md#nothing"]


def test_the_index_names_every_page_and_notebook() -> None:
    index = targets((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    linked = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in index}
    wanted = {*(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")}
    assert wanted - linked == {ROOT / "docs" / "README.md"}


def test_the_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest, *_ = re.findall(r"^## \[(.+?)\] – ", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert project["version"] == lggseg.__version__ == citation["version"] == newest
    assert citation["license"] == project["license"]


def test_the_citation_has_what_the_format_requires() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    for entry in (citation, *citation["references"]):
        assert entry["title"] and entry["authors"]
    assert all("type" in entry for entry in citation["references"])
    assert {"message", "authors", "title"} <= set(citation)


def test_changelog_entries_are_of_the_known_kinds() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= kinds


def rules() -> set[str]:
    """The targets of the Makefile, with the environment's folder by its default name."""
    names = re.findall(r"^([\w.$()/-]+):", (ROOT / "Makefile").read_text(), re.M)
    return {name.replace("$(BIN)", ".venv/bin") for name in names}


@pytest.mark.parametrize("page", PAGES, ids=names_of)
def test_commands_of_make_files_and_results_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    for command in [*"\n".join(blocks).splitlines(), *quoted]:
        if match := re.match(r"make (?!alone)([\w./-]+)", command):
            assert match[1] in rules(), command
        for path in re.findall(r"(?:tests|benchmarks)/\w+\.py", command):
            assert (ROOT / path).exists(), command
    if page.name == "experiments.md":
        for name in re.findall(r"`(\w+\.(?:json|csv))`", text):
            assert (ROOT / "report" / "results" / name).exists(), name


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_loads_and_names_make_targets(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"]
        for step in job["steps"]:
            command = step.get("run", "")
            assert re.fullmatch(r"[\w/-]+@v\d[\d.]*", step.get("uses", "a@v1")), step
            assert not command.startswith("make ") or command.split()[1] in rules(), command


def test_the_workflow_tests_every_supported_python() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    matrix = jobs["quick"]["strategy"]["matrix"]["include"]
    assert [entry["python"] for entry in matrix] == ["3.11", "3.12", "3.13"]
    assert all((ROOT / entry["lock"]).exists() for entry in matrix)


def test_hooks_strip_notebooks_as_make_does() -> None:
    config: Any = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"]: hook for entry in config["repos"] for hook in entry["hooks"]}
    assert {"ruff", "ruff-format", "nbstripout", "mypy"} <= set(hooks)
    assert all(entry["repo"] == "local" for entry in config["repos"])
    strip = re.search(r"^STRIP := (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert strip and strip[1] in hooks["nbstripout"]["entry"]


@cache
def code() -> dict[Path, str]:
    """The text of every file that may read an environment variable."""
    folders = ("src", "tests", "benchmarks", "report", "notebooks")
    files = chain.from_iterable((ROOT / folder).rglob("*.py") for folder in folders)
    others = chain.from_iterable(
        ROOT.glob(pattern) for pattern in ("Makefile", ".ci/*", "container/*", "notebooks/*.ipynb")
    )
    paths = [path for path in chain(files, others) if path.is_file()]
    return {path: path.read_text(encoding="utf-8") for path in paths}


def listed() -> set[str]:
    """The variables in the first column of the tables of docs/environment.md."""
    rows = re.findall(r"^\| (`[^|]*`) \|", ENVIRONMENT.read_text(encoding="utf-8"), re.M)
    return set(re.findall(r"`(\w+)`", " ".join(rows)))


def own_variables(texts: Iterator[str] | list[str]) -> set[str]:
    return {name for text in texts for name in re.findall(r"\bLGGSEG_[A-Z][A-Z_]*[A-Z]\b", text)}


def test_our_variables_are_those_of_the_page() -> None:
    ours = {name for name in listed() if name.startswith("LGGSEG_")}
    assert own_variables(list(code().values())) == ours


def test_a_variable_that_is_not_listed_is_found() -> None:
    new = "LGGSEG" + "_NEW"
    assert own_variables([f'os.environ.get("{new}")']) - listed() == {new}


def environment_names(tree: ast.Module) -> set[str]:
    """The variables that a module reads or sets by a name that stands in it."""
    constants = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    found: list[ast.expr | None] = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            if re.fullmatch(r"os\.(environ\.(get|setdefault|pop)|getenv)", called):
                found.append(node.args[0])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.environ.update":
            names |= {keyword.arg for keyword in node.keywords if keyword.arg}
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            found.append(node.slice)
        if isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "os.environ":
            found.append(node.left)
    for value in found:
        value = constants.get(value.id) if isinstance(value, ast.Name) else value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            names.add(value.value)
    return names


def test_all_variables_of_the_package_are_on_the_page() -> None:
    source = ROOT / "src"
    used = {
        name
        for path, text in code().items()
        if path.is_relative_to(source)
        for name in environment_names(ast.parse(text))
    }
    assert {"LGGSEG_RUNS", "WORLD_SIZE", "ORT_DISABLE_TELEMETRY"} <= used
    assert used - listed() == set()


def test_no_variable_of_the_page_is_unknown_to_the_code() -> None:
    text = "\n".join(code().values())
    assert [name for name in sorted(listed()) if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize(
    "line",
    [
        'os.environ.get("NEW")',
        'os.environ["NEW"]',
        '"NEW" in os.environ',
        "os.environ.update(NEW=1)",
        'os.getenv("NEW", "")',
        'NAME = "NEW"\nos.environ.setdefault(NAME, "1")',
    ],
)
def test_each_way_to_read_a_variable_is_found(line: str) -> None:
    assert environment_names(ast.parse(line)) == {"NEW"}
