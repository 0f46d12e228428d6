from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from lggseg.data.archive import PACKED, pack, packed_name, unpack
from lggseg.data.cohort import load_cohort
from lggseg.utils.errors import DataError


def test_a_cohort_survives_packing(tree: Path, tmp_path: Path) -> None:
    cohort = load_cohort(tree, progress=False)
    pack(cohort, tmp_path / "channel" / PACKED)
    again = load_cohort(unpack(tmp_path / "channel", tmp_path / "there"), progress=False)
    assert again.fingerprint == cohort.fingerprint
    assert again.patients.equals(cohort.patients)
    assert packed_name(again) == packed_name(cohort)


def test_the_same_cohort_gives_the_same_file(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "copy", copy_function=shutil.copyfile)
    for place, root in (("a", tree), ("b", tmp_path / "copy")):
        pack(load_cohort(root, progress=False), tmp_path / place)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_clinical_data_has_another_name(tree: Path) -> None:
    before = packed_name(load_cohort(tree, progress=False))
    table = tree / "data.csv"
    table.write_text(table.read_text().replace("gender", "sex"))
    assert packed_name(load_cohort(tree, progress=False)) != before


def test_a_channel_with_the_tree_itself_is_left_as_it_is(tree: Path, tmp_path: Path) -> None:
    assert unpack(tree, tmp_path / "unused") == tree
    assert not (tmp_path / "unused").exists()


def test_a_cut_file_is_refused(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / PACKED
    pack(load_cohort(tree, progress=False), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"cohort.tar.gz: found no whole archive"):
        unpack(tmp_path, tmp_path / "there")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../outside", tarfile.REGTYPE),
        ("/tmp/lggseg-outside", tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("link", tarfile.LNKTYPE),
        ("pipe", tarfile.FIFOTYPE),
    ],
)
def test_only_files_below_the_folder_are_unpacked(tmp_path: Path, name: str, kind: bytes) -> None:
    (tmp_path / "channel").mkdir()
    with tarfile.open(tmp_path / "channel" / PACKED, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "../outside"
        tar.addfile(member, io.BytesIO())
    with pytest.raises(DataError, match=rf"{name} is no file below it"):
        unpack(tmp_path / "channel", tmp_path / "there")
    assert not (tmp_path / "outside").exists() and not Path("/tmp/lggseg-outside").exists()
