from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lggseg.training import run_folder
from lggseg.utils import errors, files, paths


def test_replace_file_leaves_nothing_half_written(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("before")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.replace_file(target, fail)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_working_folder_is_gone_at_the_end_and_what_was_renamed_out_stays(tmp_path: Path) -> None:
    with files.working_folder(tmp_path, ".making-") as beside:
        (beside / "made").mkdir()
        (beside / "other").mkdir()
        (beside / "made").rename(tmp_path / "made")
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]


KILLED = """
import os, signal, sys
from pathlib import Path
from lggseg.utils.files import working_folder
with working_folder(Path(sys.argv[1]), ".making-") as beside:
    (beside / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_one_and_a_living_ones_stays(
    tmp_path: Path,
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert next(tmp_path.glob(".making-*/half"))
    with files.working_folder(tmp_path, ".making-") as first:
        assert not list(tmp_path.glob(".making-*/half"))
        with files.working_folder(tmp_path, ".making-"):
            assert first.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_two_earlier_runs_of_the_same_time_are_both_kept(tmp_path: Path) -> None:
    run = tmp_path / "unet"
    for text in ("first", "second", "third"):
        run.mkdir()
        (run / "metrics.csv").write_text(text)
        os.utime(run, (2**33, 2**33))  # a clock that is wrong, too: in the year 2242
        run_folder.fresh_folder(run)
    kept = [path.read_text() for path in tmp_path.glob("unet-2242*/metrics.csv")]
    assert sorted(kept) == ["first", "second", "third"]


def test_fresh_folder_keeps_the_earlier_run(tmp_path: Path) -> None:
    run = tmp_path / "unet"
    run.mkdir()
    (run / "metrics.csv").write_text("kept")
    assert run_folder.fresh_folder(run) == run
    assert not run.exists()
    assert next(tmp_path.glob("unet-*/metrics.csv")).read_text() == "kept"


def test_fresh_folder_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    (run := tmp_path / "unet").mkdir()
    other = files.try_lock(run / ".lock")
    with pytest.raises(errors.DataError, match="found another process that trains in it"):
        run_folder.fresh_folder(run)
    assert other is not None and run.exists()
    other.release()
    assert not run_folder.fresh_folder(run).exists()


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "masks").touch()
    for folder in (tmp_path / "masks", tmp_path / "masks" / "below"):
        with pytest.raises(errors.DataError, match=r"masks: found a file; .* yet. Choose another"):
            files.new_folder(folder)


def test_a_name_that_is_too_long_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        errors.DataError, match=r"found no way to write it .* expected a shorter name"
    ):
        files.replace_file(tmp_path / ("x" * 256), lambda part: part.touch())
    files.replace_file(tmp_path / ("x" * 255), lambda part: part.touch())


def test_a_message_is_printable_whatever_a_name_holds() -> None:
    error = errors.DataError("a\nb\x1b[2J\udce9é", "c\rd", "e", "f.")
    assert str(error) == "a\\nb\\x1b[2J\\xe9é: found c\\rd; expected e. f."


TEXTS = ["NA", "null", "nan", "None", "", "001", "1e5", "True", "-1", "=1+1", "+a", "-a", "@a"]
TEXTS += ["'=a", "''@a", "'a", 'a"b', "a,b", " a ", "a;=b", "＝a", "é", "#a", "-", "−a"]


def test_every_text_survives_a_table(tmp_path: Path) -> None:
    table = pd.DataFrame({"patient": TEXTS, "dice": [-0.5] * len(TEXTS)})
    files.write_table(table, tmp_path / "table.csv")
    again = files.read_table(tmp_path / "table.csv")
    assert again["patient"].tolist() == TEXTS and again["dice"].tolist() == table["dice"].tolist()


def test_a_spreadsheet_finds_no_formula_in_a_table(tmp_path: Path) -> None:
    files.write_table(pd.DataFrame({"patient": TEXTS, "fold": -1}), tmp_path / "table.csv")
    for separator in ",;":
        with (tmp_path / "table.csv").open(newline="") as file:
            cells = [cell for row in csv.reader(file, delimiter=separator) for cell in row]
        found = [cell for cell in cells if cell[:1] in tuple("=+-@\t\r＝") and cell[:1]]
        assert {cell.split(",")[0] for cell in found} <= {"-1", "-"}, separator


def test_an_empty_cell_of_another_column_stays_missing(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("Patient,grade\nNA,NA\nb,2\n")
    table = files.read_table(tmp_path / "table.csv")
    assert table["Patient"].tolist() == ["NA", "b"] and table["grade"].isna().tolist() == [
        True,
        False,
    ]


def test_runs_go_to_the_project_and_not_to_whoever_holds_notebooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LGGSEG_RUNS", raising=False)
    inner = tmp_path / "project" / "notebooks"
    inner.mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(inner)
    assert paths.runs_root() == inner / "runs"
    (inner / "00_start_here.ipynb").write_text("{}")
    assert paths.runs_root() == tmp_path / "project" / "runs"
