"""What is read is what was written: checksums of models, checkpoints and the cache."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from checked_runs import a_checkpoint

from lggseg.utils.checksums import check_archive, check_checkpoint, compare, file_checksum
from lggseg.utils.errors import DataError


@pytest.fixture
def last(tmp_path: Path) -> Path:
    torch.save(a_checkpoint(), tmp_path / "last.ckpt")
    check_checkpoint(tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def weights_of(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_a_flipped_bit_of_a_checkpoint_is_found_or_changes_nothing(last: Path) -> None:
    """torch itself loads 9 of 10 such files without a word."""
    content, right = last.read_bytes(), weights_of(last)
    draw, refused = random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        last.write_bytes(damaged)
        try:
            check_checkpoint(last)
        except DataError as error:
            assert str(error).startswith(f"{last}: found ")
            refused += 1
        else:
            assert all(torch.equal(right[name], value) for name, value in weights_of(last).items())
    assert refused > 200


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, b"\x80\x02}q\x00.", b"PK\x03\x04"])
def test_what_is_no_checkpoint_is_refused(last: Path, content: bytes) -> None:
    last.write_bytes(content)
    with pytest.raises(DataError, match=r"last.ckpt: found (an empty|a damaged) file"):
        check_checkpoint(last)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_cut_checkpoint_is_refused(last: Path, share: float) -> None:
    content = last.read_bytes()
    last.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="a damaged file"):
        check_checkpoint(last)


def test_another_dictionary_of_torchs_is_no_checkpoint(last: Path) -> None:
    torch.save({"state_dict": {}}, last)
    with pytest.raises(DataError, match="no 'epoch' in it"):
        check_checkpoint(last)


def test_a_class_in_a_checkpoint_is_not_made(last: Path) -> None:
    torch.save({**a_checkpoint(), "callbacks": Path("/")}, last)
    with pytest.raises(DataError, match="no readable checkpoint"):
        check_checkpoint(last)


def test_a_checksum_that_differs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    kept = file_checksum(path)
    compare(path, kept, kept, "Copy it.")
    path.write_bytes(b"2")
    for expected in (kept, None, 5, ["x"]):
        with pytest.raises(DataError, match=r"weights: found the checksum d4735e3a265e….*Copy it."):
            compare(path, file_checksum(path), expected, "Copy it.")


def test_a_folder_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a damaged file"):
        check_archive(tmp_path, "a file", "Copy it.")
