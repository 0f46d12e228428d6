"""The series: its form, that every notebook runs, and that the fast ones are deterministic."""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from notebook_times import TOP
from teaching import CLAIMS, answers, claims_as_code, prose, with_more_code
from tqdm import tqdm

from lggseg.data.simulation import make_cohort
from lggseg.notebooks import LastLine, execute, run_notebooks, say_what_follows
from lggseg.utils.machine_speed import (
    TIMES,
    as_text,
    expected_seconds,
    notebook_time,
    seconds_per_step,
)
from report.formulas import draw_formulas
from report.snapshots import one_deeper

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FAST = ("01_explore_data.ipynb",)
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@each
def test_form(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    number = path.stem.partition("_")[0]
    assert re.match(rf"# {number} · ", notebook.cells[0].source)
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert all("#" in line for line in tagged[0].source.splitlines()), "explain every knob"
    for cell in code_of(path):
        assert not cell.outputs and cell.execution_count is None
        assert len(cell.source.splitlines()) <= 15
        ast.parse(cell.source)
    text = "\n".join(cell.source for cell in notebook.cells)
    headings = ("## Checks", "## Summary", "**Exercises.**", "**Next:**", "cost on AWS")
    for heading in (*headings, "<details>", "*What you should see:*"):
        assert heading in text, heading


@each
def test_the_map_of_the_series_marks_the_present_step(path: Path) -> None:
    first = nbformat.read(path, 4).cells[0].source
    steps = re.findall(r"(?:\[|\*\*▸ )(\d\db?) ", first)
    assert steps == [other.stem.partition("_")[0] for other in NOTEBOOKS]
    assert f"**▸ {path.stem.partition('_')[0]} " in first


@each
def test_terms_in_bold_are_in_the_glossary(path: Path) -> None:
    """Where a term is explained it is bold; the glossary names each, and where it is explained."""
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    for row in re.findall(rf"^\| (.+?) \| .*{path.name}", glossary, re.M):
        for term in re.sub(r" ?\(.*?\)", "", row).split(", "):
            words = prose(nbformat.read(path, 4)).lower()
            assert re.search(rf"\b{re.escape(term.lower())}", words), f"{term}: not in {path.name}"


@each
def test_links_of_a_notebook_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
    # The executed copies lie one folder deeper, so their links are others.
    for folder, said in ((path.parent, text), (ROOT / "report" / "notebooks", one_deeper(text))):
        for link in re.findall(r"\]\((?!\w+:)([^)#]+)", said):
            assert (folder / link).exists(), link


@each
def test_formulas_can_be_drawn_on_a_page(path: Path) -> None:
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
    drawn = draw_formulas("\n".join(cells))
    assert "$" not in re.sub("```.*?```|`[^`]*`", "", drawn, flags=re.S)
    assert drawn.count("<svg") == drawn.count('aria-label="')


@each
def test_claims_are_what_the_notebook_says(path: Path) -> None:
    said = prose(nbformat.read(path, 4))
    assert CLAIMS[path.stem], "each notebook claims something"
    for words in CLAIMS[path.stem]:
        assert words in said, f"{words!r} is not in {path.name}: update tests/support/teaching.py"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All notebooks, executed in order on a tiny simulated cohort."""
    folder = tmp_path_factory.mktemp("notebooks")
    data = make_cohort(folder / "data", patients=8, progress=False)
    more = {path.name: answers(nbformat.read(path, 4)) for path in NOTEBOOKS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGGSEG_RUNS", str(folder / "runs"))
        parameters = {"DATA": str(data), "PROFILE": "smoke", "UNKNOWN": "left out"}
        run_notebooks(with_code(folder, more), folder / "out", parameters)
        yield folder


def with_code(folder: Path, more: dict[str, list[str]]) -> Path:
    """Copies of the notebooks with further cells, in a project of its own."""
    (folder / "notebooks").mkdir()
    for part in ("report", "models", "src"):
        (folder / part).symlink_to(ROOT / part)
    for path in NOTEBOOKS:
        with_more_code(path, folder / "notebooks" / path.name, more[path.name])
    return folder / "notebooks"


@pytest.mark.slow
def test_the_demo_bears_out_what_the_notebooks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Executes the demo as `make run` does, and checks each claim at the end of its notebook."""
    data = make_cohort(tmp_path / "data", progress=False)
    monkeypatch.setenv("LGGSEG_RUNS", str(tmp_path / "runs"))
    more = {path.name: claims_as_code(path.stem) for path in NOTEBOOKS}
    parameters = {"DATA": str(data), "PROFILE": "demo"}
    seconds = run_notebooks(with_code(tmp_path, more), tmp_path / "out", parameters)
    assert list(seconds) == [path.stem for path in NOTEBOOKS]


@each
def test_runs(executed: Path, path: Path) -> None:
    cells = code_of(executed / "out" / path.name)
    assert all(cell.execution_count for cell in cells)
    pictures = [o for cell in cells for o in cell.outputs if "image/png" in o.get("data", {})]
    assert pictures
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    printed = [o for cell in cells for o in cell.outputs if o.output_type == "stream"]
    assert not [o.text for o in printed if o.name == "stderr"], "it looks like an error"
    assert not any("Validation" in o.text for o in printed), "a bar for each validation"


def test_results_say_what_they_were_measured_on(executed: Path) -> None:
    results = list((executed / "runs" / "simulated" / "results").glob("*.json"))
    assert len(results) == 8
    assert all('"cohort": "simulated"' in path.read_text() for path in results)


def test_shapes_are_of_masks_that_no_model_had_seen(executed: Path) -> None:
    runs = executed / "runs" / "simulated"
    table = pd.read_csv(runs / "results" / "shape-smoke.csv")
    split = pd.read_csv(runs / "split.csv").set_index("patient")
    assert sorted(table["patient"][table["mask"] == "true masks"]) == sorted(split.index)
    predicted = split.loc[table["patient"][table["mask"] == "predicted masks"]]
    # The smoke profile trains the fold 0; the test patients are in no fold.
    assert set(predicted["fold"]) == {-1, 0}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_twice_the_same(executed: Path, name: str, tmp_path: Path) -> None:
    sanitize = tmp_path / "sanitize.cfg"
    sanitize.write_text("[addresses]\nregex: at 0x[0-9a-f]+\nreplace: at ADDRESS\n")
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env"]
    command += ["--nbval-sanitize-with", str(sanitize), str(executed / "out" / name)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "notebooks")
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "there", "message"),
    [
        ("03_train_local", [], r"split.csv: found no such file.*02_patient_split"),
        ("06_tumour_shape", ["split.csv"], r"found no trained fold.*05_compare_models"),
    ],
)
def test_the_message_says_which_notebook_to_run_first(
    executed: Path, tmp_path: Path, name: str, there: list[str], message: str
) -> None:
    runs = tmp_path / "runs" / "simulated"
    runs.mkdir(parents=True)
    for file in there:
        shutil.copy(executed / "runs" / "simulated" / file, runs)
    parameters = {"DATA": str(executed / "data" / "kaggle_3m"), "PROFILE": "smoke"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGGSEG_RUNS", str(tmp_path / "runs"))
        path = ROOT / "notebooks" / f"{name}.ipynb"
        with pytest.raises(RuntimeError, match=message):
            execute(path, tmp_path / path.name, parameters)


def write_notebook(path: Path, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "language": "python",
        "display_name": "Python",
    }
    notebook.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, path)


def test_runner_keeps_the_order_and_names_the_broken_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_notebook(tmp_path / "00_first.ipynb", "DATA = ''", "open('log', 'a').write(DATA)")
    write_notebook(tmp_path / "01_second.ipynb", "X = 0", "open('log', 'a').write('second')")
    run_notebooks(tmp_path, tmp_path / "out", {"DATA": "first "})
    assert (tmp_path / "log").read_text() == "first second"
    assert "01_second.ipynb" in capsys.readouterr().out
    write_notebook(tmp_path / "02_third.ipynb", "X = 0", "1 / 0")
    with pytest.raises(RuntimeError, match=r"02_third.ipynb, cell 2: ZeroDivisionError"):
        run_notebooks(tmp_path, tmp_path / "out", {})
    assert (tmp_path / "out" / "02_third.ipynb").exists()


def test_runner_without_notebooks(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="found no notebook"):
        run_notebooks(tmp_path, tmp_path / "out", {})


@each
def test_the_time_at_the_top_is_the_measured_one(path: Path) -> None:
    times = ROOT / TIMES
    rows = json.loads(times.read_text())["measured"] if times.exists() else []
    top = TOP.search(path.read_text())
    assert top and top[2] == notebook_time(rows, path.stem), "benchmarks/notebook_times.py --tops"


def write_times(root: Path) -> Path:
    """A project with measured times of two machines; returns its folder of notebooks."""
    (root / "notebooks").mkdir()
    (root / TIMES).parent.mkdir(parents=True)
    kind = {"profile": "demo", "beside": 0}
    fast = {**kind, "seconds_per_step": 0.05, "seconds": {"simulate": 20.0, "00_a": 100.0}}
    slow = {**kind, "seconds_per_step": 0.20, "seconds": {"simulate": 30.0, "00_a": 300.0}}
    busy = {**fast, "beside": 2, "seconds": {"00_a": 9999.0}}
    (root / TIMES).write_text(json.dumps({"measured": [fast, slow, busy]}))
    return root / "notebooks"


def test_the_expected_time_is_that_of_the_most_similar_machine(tmp_path: Path) -> None:
    folder = write_times(tmp_path)
    assert expected_seconds(folder, "demo", 0.06) == pytest.approx(120 * 0.06 / 0.05)
    assert expected_seconds(folder, "demo", 0.3) == pytest.approx(330 * 0.3 / 0.2)
    assert expected_seconds(folder, "full", 0.06) is None
    assert expected_seconds(tmp_path, "demo", 0.06) is None, "no file of times"


def test_it_says_first_what_it_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_times(tmp_path)
    write_notebook(folder / "00_a.ipynb", "DATA = ''")
    say_what_follows(folder, tmp_path / "out", "demo", simulated=True)
    said = capsys.readouterr().out
    assert "1 notebooks on a simulated cohort" in said and re.search(r"now: \d+ (min|s)", said)
    say_what_follows(folder, tmp_path / "out", "demo", simulated=False)
    assert "not measured" in capsys.readouterr().out


def test_the_speed_of_this_machine_is_measured_within_its_time() -> None:
    start = time.perf_counter()
    assert 0 < seconds_per_step(0.05) < 5
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.1, "5 s"), (60, "1 min"), (295, "5 min"), (301, "6 min")]
)
def test_times_are_rounded_up(seconds: float, text: str) -> None:
    assert as_text(seconds) == text


def test_what_a_notebook_prints_last_stands_at_the_bar(tmp_path: Path) -> None:
    write_notebook(tmp_path / "00_a.ipynb", "X = 0", "print('first'); print('half\\rwhole')")
    bar = tqdm(total=1, file=io.StringIO())
    printed = LastLine(bar)
    printed.pause = 0.0
    execute(tmp_path / "00_a.ipynb", tmp_path / "out.ipynb", {}, printed)
    assert bar.postfix == "whole"
