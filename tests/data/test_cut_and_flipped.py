"""Whatever is cut off a file, and whichever bits of it flip: its loader refuses it, or gives what
it gave before. Formats without a checksum (npy, TIFF) are held to cuts alone."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from checked_runs import CONFIG, FACTS, a_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scan_files import head

from lggseg.data.archive import PACKED, pack, unpack
from lggseg.data.cache import cached_cohorts
from lggseg.data.codecs import npy_bytes, read_npy
from lggseg.data.cohort import load_cohort
from lggseg.data.nifti import read_nifti
from lggseg.data.slices import read_volume
from lggseg.inference.check import check_pixels
from lggseg.inference.model_folder import read_card, write_card
from lggseg.inference.onnx_export import export_model
from lggseg.models import networks
from lggseg.preprocessing.monai_workflow import whole_weights
from lggseg.serving.viewer.uploads import read_study
from lggseg.utils.checksums import check_checkpoint

# What a loader gives, in a form that can be compared.
Load = Callable[[Path], Any]
RNG = np.random.default_rng(0)
VOLUME = RNG.integers(0, 255, (3, 256, 256, 3), np.uint8)


def scan(path: Path) -> Any:
    return read_nifti(path)[0].tobytes()


def upload(path: Path) -> Any:
    body = path.read_bytes()
    entry = [{"name": path.name, "size": len(body)}]
    return read_study(json.dumps(entry).encode() + b"\n" + body, 300).volume.tobytes()


def card(path: Path) -> Any:
    return read_card(path.parent)


def checkpoint(path: Path) -> Any:
    check_checkpoint(path)
    content = torch.load(path, weights_only=True)
    weights = {name: value.numpy().tobytes() for name, value in content["state_dict"].items()}
    return weights, content["epoch"], str(content["optimizer_states"])


def weights(path: Path) -> Any:
    try:
        content = torch.load(whole_weights(str(path)), weights_only=True)
    except RuntimeError as error:  # torch's own refusal, of a damaged directory
        raise ValueError(f"{path}: {error}") from error
    return {name: value.numpy().tobytes() for name, value in content.items()}


def packed(path: Path) -> Any:
    out = path.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    unpack(path.parent, out)
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.*")}


def cohort(path: Path) -> Any:
    """The cohort of a cache whose pixels are compared, as ``lggseg check`` does."""
    found = load_cohort(path.parents[2] / "kaggle_3m", progress=False)
    check_pixels(found)
    return found.images.tobytes(), found.masks.tobytes(), found.fingerprint


def tiff(**options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, VOLUME, photometric="rgb", **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, shared_tree: Path) -> Path:
    """One whole file for each loader."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "a.nii.gz").write_bytes(gzip.compress(head().to_bytes()))
    (folder / "a.nii").write_bytes(head().to_bytes())
    for name, options in (
        ("plain", {}),
        ("zip", {"compression": "zlib"}),
        ("tile", {"tile": (64, 64)}),
    ):
        (folder / f"{name}.tif").write_bytes(tiff(**options))
    (folder / "a.npy").write_bytes(npy_bytes(VOLUME))
    torch.save(a_checkpoint(), folder / "last.ckpt")
    torch.save(a_checkpoint()["state_dict"], folder / "model.pt")
    config = replace(CONFIG)
    export_model(networks.build_network(config), config, folder / "model")
    write_card(config, FACTS, folder / "model")
    tree = folder / "kaggle_3m"
    shutil.copytree(shared_tree, tree, ignore=lambda at, names: [n for n in names if "T00" in n and
                    "T000" not in n])  # fmt: skip
    (folder / "packed").mkdir()
    (tree / "data.csv").write_text("Patient\nTCGA_CS_T000\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGGSEG_CACHE", str(folder / "cache"))
        pack(load_cohort(tree, progress=False), folder / "packed" / PACKED)
    return folder


# The file of each loader, and whether it has a checksum.
LOADERS: dict[str, tuple[str, Load, bool]] = {
    "NIfTI, gzipped": ("a.nii.gz", scan, True),
    "NIfTI, gzipped, in the viewer": ("a.nii.gz", upload, True),
    "NIfTI": ("a.nii", scan, False),
    "NIfTI in the viewer": ("a.nii", upload, False),
    "TIFF": ("plain.tif", lambda path: read_volume(path)[0].tobytes(), False),
    "TIFF, deflated": ("zip.tif", lambda path: read_volume(path)[0].tobytes(), False),
    "TIFF of tiles in the viewer": ("tile.tif", upload, False),
    "npy": ("a.npy", lambda path: read_npy(path.read_bytes(), 9).tobytes(), False),
    "checkpoint": ("last.ckpt", checkpoint, True),
    "weights of a bundle": ("model.pt", weights, True),
    "model.onnx": ("model/model.onnx", card, True),
    "weights.safetensors": ("model/weights.safetensors", card, True),
    "model card": ("model/model_card.json", card, True),
    "packed cohort": (f"packed/{PACKED}", packed, True),
    "pixels of the cache": ("pixels.npy", cohort, True),
    "table of the cache": ("slices.csv", cohort, True),
    "facts of the cache": ("meta.json", cohort, True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LOADERS)
def test_it_is_refused_or_the_same(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGGSEG_CACHE", str(place / "cache"))
    file, load, has_checksum = LOADERS[name]
    path = cached_cohorts()[0] / file if load is cohort else place / file
    whole, right = path.read_bytes(), load(path)
    refused = []

    @settings(
        max_examples=40, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(data=st.data())
    def spoil(data: st.DataObject) -> None:
        content = bytearray(whole)
        # Half of the places near an end, where lengths, places and checksums stand.
        near = st.integers(0, min(600, len(whole) - 1))
        places = near | near.map(lambda n: len(whole) - 1 - n) | st.integers(0, len(whole) - 1)
        if has_checksum and data.draw(st.booleans(), "flip"):
            for at in data.draw(st.lists(places, min_size=1, max_size=3), "bytes"):
                content[at] ^= 1 << data.draw(st.integers(0, 7), "bit")
        else:
            content = content[: data.draw(places, "length")]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        try:
            assert load(path) == right
        except ValueError as error:  # DataError is one
            refused.append(error)
            assert (
                str(path.parent) in str(error) or "request" in str(error) or path.name in str(error)
            )

    try:
        spoil()
    finally:
        path.write_bytes(whole)
    assert refused or load is cohort  # a cache that is damaged is made again
