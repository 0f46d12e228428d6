"""A model folder as a MONAI bundle, the form in which the field shares models.

The bundle needs MONAI and not this package: its network is made of torch and MONAI alone, and what
else it runs (``lggseg.preprocessing.monai_workflow``) travels with it.
"""

from __future__ import annotations

import io
from importlib.metadata import version
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from safetensors.torch import load_file

import lggseg
from lggseg import preprocessing
from lggseg.config import Config
from lggseg.inference.bundle_docs import PACKAGES, data_of, description, scores_of, write_docs
from lggseg.inference.segmenter import BATCH, Segmenter
from lggseg.models.networks import network_body
from lggseg.preprocessing.volume import CHANNELS, SIZE
from lggseg.utils.errors import DataError
from lggseg.utils.files import working_folder, write_json, writing

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
SCRIPTS = "scripts"
WORKFLOW = f"{SCRIPTS}.monai_workflow"


def export_bundle(model: Path | str, out: Path | str) -> Path:
    """Write a model folder as the MONAI bundle ``out``, a new folder named like the bundle.

    Returns ``out``. Raises ``DataError`` for what is no model folder and for a folder that exists,
    ``ValueError`` for a network that is not MONAI's.

    >>> bundle = export_bundle("models/lgg-unet", "exported/lgg-unet")
    >>> sorted(path.name for path in bundle.iterdir())
    ['LICENSE', 'configs', 'docs', 'models', 'scripts']
    """
    model, out = Path(model), Path(out)
    if out.exists():
        action = "Name another folder, or delete this one."
        raise DataError(out, "something that exists", "the name of a new folder", action)
    segmenter = Segmenter.load(model, "torch")
    config, card = segmenter.config, segmenter.card
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        _write_bundle(model, config, card, out)
    return out


def _write_bundle(model: Path, config: Config, card: dict[str, Any], out: Path) -> None:
    with working_folder(out.parent, ".exporting-") as staging:
        root = staging / out.name
        write_json(inference(config), root / "configs" / "inference.json")
        write_json(metadata(config, card), root / "configs" / "metadata.json")
        _write_weights(model, root)
        _write_scripts(root / SCRIPTS)
        write_docs(model, config, card, root)
        root.rename(out)


def inference(config: Config) -> dict[str, Any]:
    """The bundle's ``configs/inference.json``: from a folder of patients to masks in NIfTI."""
    return {
        "imports": ["$import pathlib"],
        "bundle_root": ".",
        "dataset_dir": "dataset",
        "output_dir": "$@bundle_root + '/eval'",
        "checkpoint": _ours("whole_weights", path="$@bundle_root + '/models/model.pt'"),
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        **_network(config),
        "preprocessing": _compose(_preprocessing(config)),
        "datalist": _ours("find_scans", dataset_dir="@dataset_dir"),
        "dataset": _component("Dataset", data="@datalist", transform="@preprocessing"),
        "inferer": _inferer(config),
        "postprocessing": _compose(_postprocessing(config)),
        "dataloader": _component("DataLoader", dataset="@dataset", batch_size=1),
        "handlers": [_component("CheckpointLoader", load_path="@checkpoint", **_LOAD)],
        "evaluator": _component(
            "SupervisedEvaluator", val_data_loader="@dataloader", val_handlers="@handlers", **_RUN
        ),
        # Evaluator and handlers are MONAI's convention but need pytorch-ignite; this does not.
        "run": [
            "$@network.load_state_dict("
            "torch.load(@checkpoint, map_location=@device, weights_only=True))",
            _ours("segment", dataset="@dataset", **_RUN),
        ],
    }


_LOAD = {"load_dict": {"model": "@network"}, "map_location": "@device"}
_RUN = {name: f"@{name}" for name in ("device", "network", "inferer", "postprocessing")}


def _component(target: str, **options: Any) -> dict[str, Any]:
    """What MONAI's parser calls, a class or a function; MONAI's own go by their bare names."""
    return {"_target_": target, **options}


def _ours(target: str, **options: Any) -> dict[str, Any]:
    return _component(f"{WORKFLOW}.{target}", **options)


def _compose(steps: list[dict[str, Any]]) -> dict[str, Any]:
    return _component("Compose", transforms=steps)


def _network(config: Config) -> dict[str, Any]:
    """The network of :func:`lggseg.models.networks.build_network` in MONAI's words."""
    body, options = network_body(config)
    if not body.__module__.startswith("monai."):
        found = f"found {body.__module__}.{body.__name__}; expected one of MONAI's networks"
        raise ValueError(f"network={config.network!r}: {found}. Share the model folder itself.")
    head = f"torch.nn.Conv2d({options['out_channels']}, 4, kernel_size=1)"
    layers = f"torch.nn.PixelUnshuffle(2), @body, {head}, torch.nn.PixelShuffle(2)"
    return {
        "body": _component(body.__name__, **options),
        "network_def": f"$torch.nn.Sequential({layers})",
        "network": "$@network_def.to(@device).eval()",
    }


def _preprocessing(config: Config) -> list[dict[str, Any]]:
    sight = {"neighbours": config.neighbours, "downsample": config.downsample}
    return [
        _ours("WholeScansd", keys="image"),
        _component("LoadImaged", keys="image", ensure_channel_first=True),
        # Slices upwards, rows front to back, columns from the patient's right to the left.
        _component("Orientationd", keys="image", axcodes="SPL", labels=None),
        _ours("ToGridd", keys="image"),
        _ours("ToNetworkInputd", keys="image", **sight),
    ]


def _inferer(config: Config) -> dict[str, Any]:
    options = {"roi_size": [config.size, config.size], "sw_batch_size": BATCH, "spatial_dim": 0}
    if config.test_flips:
        return _ours("MirrorSliceInferer", **options)
    return _component("SliceInferer", **options)


def _postprocessing(config: Config) -> list[dict[str, Any]]:
    name = "pathlib.Path(meta['filename_or_obj']).parent.name"
    saving = {
        # It changes nothing, since Invertd has already been there. Without it, MONAI 1.6 takes the
        # first two axes for the whole affine and fails where slices are the second.
        "resample": True,
        "output_dir": "@output_dir",
        "output_postfix": "mask",
        "output_dtype": "uint8",
        "separate_folder": False,
        "output_name_formatter": f"$lambda meta, saver: {{'subject': {name}, 'idx': None}}",
    }
    return [
        _component("Resized", keys="pred", spatial_size=[-1, SIZE, SIZE], mode="trilinear"),
        _component("Activationsd", keys="pred", sigmoid=True),
        _component("AsDiscreted", keys="pred", threshold=config.threshold),
        _ours("DropSmallComponentsd", keys="pred", share=config.min_component_fraction),
        _component("Invertd", keys="pred", orig_keys="image", transform="@preprocessing"),
        _component("SaveImaged", keys="pred", **saving),
    ]


def metadata(config: Config, card: dict[str, Any]) -> dict[str, Any]:
    """The bundle's ``configs/metadata.json``, in MONAI's schema. card: the model folder's."""
    data = data_of(card)
    return {
        "schema": SCHEMA,
        "version": lggseg.__version__,
        "changelog": {lggseg.__version__: "exported by lggseg of this version"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {name: version(name) for name in PACKAGES},
        "task": "Segmentation of lower-grade glioma in brain MRI",
        "description": description(config),
        "authors": "the lggseg authors",
        "copyright": "Copyright (c) 2026 the lggseg authors",
        "data_source": data.source,
        "data_type": "nibabel",
        "image_classes": "pre-contrast T1, FLAIR and post-contrast T1, registered to each other",
        "pred_classes": "1 the abnormality that FLAIR shows, 0 everything else",
        "eval_metrics": scores_of(card),
        "intended_use": "Teaching and research; not for clinical use",
        "references": data.references,
        "network_data_format": {
            "inputs": {"image": _image(config)},
            "outputs": {"pred": _tensor(config, "segmentation", {"0": "tumour, as a logit"})},
        },
    }


def _image(config: Config) -> dict[str, Any]:
    names = [*CHANNELS, "FLAIR of the slice below", "FLAIR of the slice above"][: config.channels]
    channels = {str(index): name for index, name in enumerate(names)}
    return {"modality": "MR", **_tensor(config, "magnitude", channels)}


def _tensor(config: Config, kind: str, channels: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "image",
        "format": kind,
        "num_channels": len(channels),
        "spatial_shape": [config.size, config.size],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": channels,
    }


def _write_weights(model: Path, root: Path) -> None:
    (root / "models").mkdir()
    content = io.BytesIO()  # torch's own writing does not say that a disk is full
    torch.save(load_file(model / "weights.safetensors"), content)
    (root / "models" / "model.pt").write_bytes(content.getbuffer())


def _write_scripts(folder: Path) -> None:
    """Copy the modules that the bundle runs: a folder that imports nothing else of the package."""
    folder.mkdir()
    for source in sorted(Path(preprocessing.__path__[0]).glob("*.py")):
        (folder / source.name).write_bytes(source.read_bytes())
