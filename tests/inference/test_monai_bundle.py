"""The MONAI bundle: MONAI alone loads it, and it gives the masks that this package gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, load, verify_net_in_out
from monai.bundle.properties import InferProperties, MetaProperties
from monai.data import MetaTensor
from monai.networks.nets import UNet
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from safetensors.torch import load_file, save_file

from lggseg import cli
from lggseg.config import Config
from lggseg.data.simulation import make_patient, plan_cohort
from lggseg.inference.bundle_docs import PACKAGES
from lggseg.inference.model_folder import write_card
from lggseg.inference.monai_bundle import export_bundle, inference, metadata
from lggseg.inference.scans import predict_nifti
from lggseg.inference.segmenter import Segmenter
from lggseg.models.networks import NETWORKS, build_network
from lggseg.preprocessing.monai_workflow import (
    DropSmallComponentsd,
    MirrorSliceInferer,
    ToGridd,
    WholeScansd,
    find_scans,
    whole_weights,
)
from lggseg.preprocessing.postprocessing import drop_small_components
from lggseg.utils.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "lgg-unet"
# All that a config can leave out.
PLAIN = Config(
    width=4,
    neighbours=False,
    downsample=1,
    test_flips=False,
    threshold=0.5,
    min_component_fraction=0.0,
)
WITHOUT_THIS_PACKAGE = """
import sys
sys.modules["lggseg"] = None
from monai.bundle import run
run(config_file="configs/inference.json", dataset_dir=sys.argv[1], output_dir=sys.argv[2])
"""


def is_monais(network: str) -> bool:
    return NETWORKS[network](Config())[0].__module__.startswith("monai.")


def saved(values: np.ndarray, affine: np.ndarray, codes: str, path: Path) -> None:
    """Write a scan with its voxels in this order."""
    path.parent.mkdir(exist_ok=True)
    image = nib.Nifti1Image(values, affine)
    order = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(codes)))
    nib.save(image.as_reoriented(order), path)


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices of a simulated patient, axial with the training data's pixels, and oblique with finer
    voxels, thin slices and no post-contrast."""
    images, mask = make_patient(plan_cohort(1, 0)[0])
    middle = int(np.argwhere(mask).mean(axis=0)[0])
    values = images[max(middle - 5, 0) : middle + 5].transpose(2, 1, 0, 3) * np.float32(7.3)
    straight, oblique = np.diag([-0.9375, -0.9375, 5, 1]), np.eye(4)
    oblique[:3, :3] = np.array([[1, 0, 0], [0, 0.98, -0.19], [0, 0.19, 0.98]]) * (-0.6, -0.7, 1.6)
    oblique[:3, 3] = 70, 90, -12
    folder = tmp_path_factory.mktemp("patients")
    for channel, name in enumerate(("pre", "flair", "post")):
        saved(values[..., channel], straight, "LPS", folder / "straight" / f"{name}.nii.gz")
        if name != "post":
            part = values[20:236, 10:240, :, channel]
            saved(part, oblique, "PSR", folder / "oblique" / f"{name}.nii")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of random weights; nothing reads its graph."""
    folder = tmp_path_factory.mktemp("plain")
    torch.manual_seed(0)
    weights = build_network(PLAIN).state_dict()
    save_file(
        {name: value.contiguous() for name, value in weights.items()},
        folder / "weights.safetensors",
    )
    (folder / "model.onnx").touch()
    write_card(PLAIN, {"data_fingerprint": "", "split_fingerprint": "", "simulated": True}, folder)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed model as a bundle."""
    out = tmp_path_factory.mktemp("zoo") / "lgg-unet"
    assert cli.main(["export", str(MODEL), "--monai-bundle", str(out)]) == 0
    return out


def run_alone(bundle: Path, patients: Path, out: Path) -> None:
    """Run a bundle where this package cannot be imported."""
    arguments = [sys.executable, "-c", WITHOUT_THIS_PACKAGE, str(patients), str(out)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(arguments, cwd=bundle, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_same_masks(model: Path, patients: Path, masks: Path, out: Path) -> None:
    """Compare with what this package makes of the same files."""
    segmenter = Segmenter.load(model, "torch")
    for scan in find_scans(str(patients)):
        pre, flair, post = scan["image"]
        sequences = {"pre": pre} | ({"post": post} if post != flair else {})
        patient = Path(flair).parent.name
        predict_nifti(segmenter, flair, out / patient, **sequences)
        expected = nib.load(out / patient / "flair_mask.nii.gz")
        found = nib.load(masks / f"{patient}_mask.nii.gz")
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
        assert found.get_data_dtype() == np.uint8 and found.shape == nib.load(flair).shape
        one, other = (np.asarray(image.dataobj) for image in (found, expected))
        assert other.sum() > 1000
        # Other kernels may round a logit at the threshold to the other side.
        assert np.count_nonzero(one != other) <= 0.001 * other.sum()


@pytest.mark.slow
def test_without_this_package_it_gives_the_same_masks(
    bundle: Path, patients: Path, tmp_path: Path
) -> None:
    run_alone(bundle, patients, tmp_path / "masks")
    assert_same_masks(MODEL, patients, tmp_path / "masks", tmp_path / "ours")


@pytest.mark.slow
def test_so_does_a_model_without_neighbours_mirror_and_shrinking(
    plain: Path, patients: Path, tmp_path: Path
) -> None:
    run_alone(export_bundle(plain, tmp_path / "plain"), patients, tmp_path / "masks")
    assert_same_masks(plain, patients, tmp_path / "masks", tmp_path / "ours")


def test_monai_loads_its_network(bundle: Path) -> None:
    network = load(bundle.name, bundle_dir=bundle.parent, workflow_type="inference", device="cpu")
    config = Segmenter.load(MODEL, "torch").config
    ours = build_network(config)
    ours.load_state_dict(load_file(MODEL / "weights.safetensors"))
    image = torch.rand(2, config.channels, config.size, config.size)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(image), ours.eval()(image), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", sorted(filter(is_monais, NETWORKS)))
@pytest.mark.parametrize("neighbours", [True, False])
def test_each_network_is_told_in_torch_and_monai_alone(name: str, neighbours: bool) -> None:
    config = Config(network=name, width=12, downsample=4, neighbours=neighbours, dropout=0.1)
    text = json.dumps(inference(config))
    network = ConfigParser(json.loads(text)).get_parsed_content("network_def").eval()
    ours = build_network(config).eval()
    network.load_state_dict(ours.state_dict())
    image = torch.rand(1, config.channels, config.size, config.size)
    with torch.inference_mode():
        torch.testing.assert_close(network(image), ours(image), rtol=0, atol=1e-4)


def test_a_network_that_is_not_monais_is_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own(UNet):
        pass

    unet = NETWORKS["unet"]
    monkeypatch.setitem(NETWORKS, "unet", lambda config: (Own, unet(config)[1]))
    with pytest.raises(
        ValueError, match=r"network='unet': found test_monai_bundle.Own; expected one of"
    ):
        export_bundle(MODEL, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_its_weights_are_no_pickle_of_code(bundle: Path) -> None:
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    expected = load_file(MODEL / "weights.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_monai_finds_the_network_as_the_metadata_say(bundle: Path) -> None:
    configs = bundle / "configs"
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
    )


def read(bundle: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "configs" / f"{name}.json").read_text())
    return content


def test_the_metadata_have_what_monais_schema_requires(bundle: Path) -> None:
    """The schema itself lies behind a URL."""
    found = read(bundle, "metadata")
    texts = ("version", "monai_version", "pytorch_version", "numpy_version", "authors", "copyright")
    assert all(found[key] for key in ("schema", "task", "description", *texts))
    assert set(found["required_packages_version"]) == set(PACKAGES)
    for tensor in (found["network_data_format"][io] for io in ("inputs", "outputs")):
        for facts in tensor.values():
            assert facts["type"] == "image" and facts["dtype"] == "float32"
            assert facts["format"] and facts["spatial_shape"] == [128, 128]
            assert facts["value_range"] == [] and facts["num_channels"] == len(facts["channel_def"])
    assert "not for clinical use" in found["intended_use"]


def test_the_metadata_give_the_cards_scores(bundle: Path) -> None:
    card, scores = Segmenter.load(MODEL).card, read(bundle, "metadata")["eval_metrics"]
    mean = card["recipe_test"]["dice"]["mean"]
    assert scores["recipe_test_mean_dice"] == pytest.approx(mean, abs=1e-4)
    assert scores["cross_validation_mean_hd95"] == pytest.approx(
        card["cross_validation"]["hd95"]["mean"], abs=1e-4
    )
    assert str(scores["recipe_test_mean_dice"]) in (bundle / "docs" / "README.md").read_text()


def test_it_has_the_entries_that_monai_looks_for(bundle: Path) -> None:
    config = ConfigParser({**read(bundle, "inference"), "_meta_": read(bundle, "metadata")})
    for name, facts in {**InferProperties, **MetaProperties}.items():
        assert facts["id"] in config or not facts["required"], name


def test_licences_follow_the_data(bundle: Path, plain: Path) -> None:
    assert "CC BY-NC-SA 4.0" in (bundle / "LICENSE").read_text()
    assert "CC BY-NC-SA 4.0" in (bundle / "docs" / "data_license.txt").read_text()
    assert "simulated" in metadata(PLAIN, {"simulated": True})["data_source"]


def test_it_names_no_folder_of_the_machine_that_made_it(bundle: Path) -> None:
    files = (path for path in bundle.rglob("*") if path.is_file())
    for path in (path for path in files if path.suffix != ".pyc"):  # written by who used it
        content = path.read_bytes()
        for folder in (ROOT, bundle, Path(sys.prefix)):
            assert str(folder).encode() not in content, path


def test_nothing_is_overwritten(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(MODEL), "--monai-bundle", str(bundle)]) == 1
    assert f"{bundle}: found something that exists" in capsys.readouterr().err


def test_what_is_no_model_folder_leaves_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model.onnx: found no such file"):
        export_bundle(tmp_path, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_flair_stands_in_for_scans_that_are_missing(tmp_path: Path) -> None:
    names = ("anna/flair.nii", "anna/post.nii.gz", "bert/notes.txt", "bert/pre.nii.gz")
    for name in (*names, "anna/._flair.nii.gz", ".hidden/flair.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    flair, post = (str(tmp_path / "anna" / name) for name in ("flair.nii", "post.nii.gz"))
    assert find_scans(str(tmp_path)) == [{"image": [flair, flair, post]}]


def test_scans_of_any_case_are_found_beside_a_folder_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("anna/FLAIR.NII.GZ", "lost+found/flair.nii.gz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    listing = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:
        if folder.name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return listing(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert find_scans(str(tmp_path)) == [{"image": [str(tmp_path / "anna" / "FLAIR.NII.GZ")] * 3}]


def test_a_folder_without_patients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no folder with flair.nii.gz"):
        find_scans(str(tmp_path))


@pytest.mark.parametrize("shape", [(1, 5, 9, 9), (3, 9, 9)])
def test_other_than_three_sequences_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(3, slices, rows, columns\)"):
        ToGridd("image")({"image": MetaTensor(torch.rand(shape))})


def test_the_mirror_inferer_gives_the_mean_of_both_orientations() -> None:
    volume = torch.rand(1, 1, 3, 4, 4)
    ramp = torch.arange(4.0)
    inferer = MirrorSliceInferer(roi_size=(4, 4), sw_batch_size=2, spatial_dim=0)
    expected = volume * (ramp + ramp.flip(0)) / 2
    torch.testing.assert_close(inferer(volume, lambda slices: slices * ramp), expected)


def test_small_components_are_dropped_from_the_whole_volume() -> None:
    mask = torch.zeros(1, 4, 9, 9)
    mask[0, 1:3, 2:6, 2:6], mask[0, 0, 8, 8] = 1, 1
    found = DropSmallComponentsd("pred", share=0.1)({"pred": mask})["pred"]
    assert found.dtype == mask.dtype and found.sum() == 32
    expected = drop_small_components(mask[0].numpy() > 0, 0.1)
    assert np.array_equal(found[0].numpy() > 0, expected)


def test_a_damaged_scan_or_weight_is_refused(bundle: Path, patients: Path, tmp_path: Path) -> None:
    """nibabel and torch compare no checksum."""
    scan = patients / "straight" / "flair.nii.gz"
    weights = bundle / "models" / "model.pt"
    check = WholeScansd(keys="image")
    assert check({"image": [str(scan)]}) == {"image": [str(scan)]}
    assert whole_weights(str(weights)) == str(weights)
    for path, call in ((scan, lambda p: check({"image": [p]})), (weights, whole_weights)):
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[len(content) // 2] ^= 1
        for number, wrong in enumerate((bytes(damaged), content[:-9], b"")):
            other = tmp_path / f"{number}{path.name}"
            other.write_bytes(wrong)
            if wrong or path == weights:  # an empty file is a whole gzip of nothing
                with pytest.raises(ValueError, match=f"{other}: found a damaged file"):
                    call(str(other))
    config = inference(Config())
    assert config["preprocessing"]["transforms"][0]["_target_"].endswith(".WholeScansd")
    assert config["checkpoint"]["_target_"].endswith(".whole_weights")
