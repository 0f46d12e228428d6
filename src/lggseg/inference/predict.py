"""Volume in, mask out: a model folder, loaded with ONNX Runtime or torch.

The model folder holds ``model.onnx``, ``weights.safetensors`` and ``model_card.json``; nothing
in it is a pickle. The exported graph holds all pixel arithmetic (shrink, normalise, network, mirror
average, enlarge, sigmoid), so both engines run the very operations that training ran. A server
does without torch and pandas, so they are imported where they are used.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lggseg.config import Config
from lggseg.data.codecs import mask_tiff
from lggseg.data.kaggle import (
    Survey,
    contents,
    ending,
    is_patient,
    named,
    survey,
    unusable,
    volume_name,
)
from lggseg.evaluation.segmentation import (
    dice,
    expected_calibration_error,
    expected_dice,
    patient_metrics,
    reliability,
)
from lggseg.inference.model_folder import CARD, OLD_CARD, Engine, checked, read_card
from lggseg.inference.outputs import Outputs, Predictions
from lggseg.preprocessing.volume import (
    FLAIR,
    SIZE,
    channel_statistics,
    drop_small_parts,
    stack_channels,
)
from lggseg.utils.paths import CONVERT, DataError, new_folder, replace_file, usable_name
from lggseg.utils.progress import progress_bar
from lggseg.utils.threads import threads

if TYPE_CHECKING:
    import onnxruntime
    import pandas as pd
    import torch

    from lggseg.data.cohort import Cohort

_AGAIN = "Copy the model folder again."
# Slices that the network sees at once.
BATCH = 16


@dataclass(frozen=True)
class Prediction:
    """mask: bool ``(slices, 256, 256)``, where the probability reaches the threshold, without small
    parts; probability: float32 of the same shape."""

    mask: np.ndarray
    probability: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray, threshold: float, smallest_part: float) -> Prediction:
        """The prediction that the probability of a whole volume gives."""
        return cls(drop_small_parts(probability >= threshold, smallest_part), probability)

    @property
    def expected_dice(self) -> float:
        """How good the model thinks the mask is
        (:func:`lggseg.evaluation.segmentation.expected_dice`)."""
        return expected_dice(self.probability, self.mask)


@dataclass(frozen=True)
class Segmenter:
    """A loaded model folder. ``card`` is its whole model card."""

    config: Config
    card: dict[str, Any]
    run: Engine

    @property
    def fingerprint(self) -> str:
        """The same for the same model card but for what was measured with it since training."""
        measured = ("train", "validation", "test", "evaluation", "checksums")
        facts = {name: value for name, value in self.card.items() if name not in measured}
        # Without that of the card, which holds what was measured.
        kept = self.card.get("checksums", {})
        files = {name: checksum for name, checksum in kept.items() if name != CARD}
        # Under the old name, so that a renamed card changes no fingerprint.
        facts["files"] = {**files, OLD_CARD: ""}
        text = json.dumps([asdict(self.config), facts], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    @classmethod
    def load(cls, folder: Path | str, engine: str = "onnx") -> Segmenter:
        """Load a model folder with the engine ``onnx`` (default) or ``torch``.

        Raises ``DataError`` that names the file which is missing, was changed or cannot run: two
        slices are tried.

        >>> Segmenter.load("models/lgg-unet").config.network
        'unet'
        """
        folder = Path(folder)
        config, card = read_card(folder)
        open_engine = {"onnx": onnx_engine, "torch": torch_engine}[engine]
        return cls(config, card, open_engine(folder, config))

    @classmethod
    def ensemble(cls, folders: Sequence[Path | str]) -> Segmenter:
        """The mean probability of several models that take the same channels, such as those of all
        folds; threshold and the rest are the first's. Raises ``ValueError`` for other channels."""
        members = [cls.load(folder) for folder in folders]
        channels = [member.config.channels for member in members]
        if len(set(channels)) != 1:
            raise ValueError(f"found models of {channels} channels, expected the same for all")

        def run(*inputs: np.ndarray) -> np.ndarray:
            return cast(np.ndarray, sum(member.run(*inputs) for member in members) / len(members))

        return cls(members[0].config, members[0].card, run)

    def predict(self, volume: np.ndarray, apart: int = 1) -> Prediction:
        """Segment a volume: uint8 ``(slices, 256, 256, 3)``, pre-contrast, FLAIR, post-contrast.

        Normalisation is per volume: give all slices of a patient at once, in order. A network that
        sees neighbouring slices sees those ``apart`` slices away, which for thin slices should be
        as far as in training (:attr:`lggseg.data.nifti.Scan.apart`). Raises ``ValueError`` for
        another shape or dtype.

        >>> from lggseg.data.simulation import make_patient, plan_cohort
        >>> volume, truth = make_patient(plan_cohort(patients=1, seed=0)[0])
        >>> prediction = Segmenter.load("models/lgg-unet").predict(volume)
        >>> prediction.mask.shape == prediction.probability.shape == truth.shape
        True
        >>> dice(truth, prediction.mask) > 0.7
        True
        """
        if volume.dtype != np.uint8 or volume.ndim != 4 or volume.shape[1:] != (SIZE, SIZE, 3):
            raise ValueError(
                f"volume: found {volume.dtype} {volume.shape}, "
                f"expected uint8 (slices, {SIZE}, {SIZE}, 3)"
            )
        probability = self.probability(volume, channel_statistics(volume), apart=apart)
        return Prediction.of(probability, self.config.threshold, self.config.smallest_part)

    def probability(
        self,
        part: np.ndarray,
        statistics: np.ndarray,
        context: tuple[int, int] = (0, 0),
        apart: int = 1,
    ) -> np.ndarray:
        """The tumour probability of consecutive slices of a volume: float32 ``(slices, 256, 256)``.

        statistics: :func:`lggseg.preprocessing.volume.channel_statistics` of the whole volume.
        context: so many slices at the start and the end of ``part`` are only neighbours of the
        others and are left out of the answer. apart: see :meth:`predict`.
        """
        if self.config.neighbours:
            statistics = np.concatenate([statistics, statistics[:, [FLAIR, FLAIR]]], axis=1)
        image = stack_channels(part, self.config.neighbours, apart)
        image = image[context[0] : len(part) - context[1]]
        air, contrast = statistics[:1], statistics[1:]
        parts = [
            self.run(image[start : start + BATCH], air, contrast)
            for start in range(0, len(image), BATCH)
        ]
        return np.concatenate(parts)


class PatientsRefused(DataError):
    """Some patients could not be segmented: a sentence on each, and how many others were."""

    def __init__(self, errors: Sequence[DataError], done: int) -> None:
        rest = [f"Of the other patients, {done} were segmented."] if done else []
        ValueError.__init__(self, "\n".join([*map(str, errors), *rest]))


def predict_folder(
    segmenter: Segmenter,
    data: Path | str,
    out: Path | str,
    *,
    pictures: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Segment a tree of patients, one patient's folder, or one multi-page TIFF.

    Writes ``<patient>_mask.tif`` (multi-page, 0 and 255) into ``out`` and a row for each into
    ``predictions.csv``, and returns these rows: patient, mask (the file), model (a fingerprint),
    slices, tumour_slices, tumour_voxels, expected_dice (how good the model thinks its mask is), and
    dice where the patient has masks. ``pictures``: also ``<patient>.png``, FLAIR of the slice with
    most tumour and the outline of the mask. ``overwrite``: replace what an earlier call wrote;
    other files are never replaced (:mod:`lggseg.inference.outputs`).

    Raises ``DataError`` before anything is written where a file is in the way, and at the end where
    a patient cannot be read, which stops no other.
    """
    from lggseg.data.cohort import read_volume

    found = find_volumes(data)
    found.warn(of_refused=False)  # which are raised at the end
    names = {path: volume_name(path) for path in found.patients}
    drawn = [f"{name}.png" for name in names.values()] if pictures else []
    masks = [f"{name}_mask.tif" for name in names.values()]
    written = _predictions(segmenter, out, overwrite, masks, drawn)
    new_folder(written.outputs.folder)
    refused = list(found.refused)
    try:
        for path in progress_bar(found.patients, "predict", "patient", show=progress):
            try:
                volume, truth = read_volume(path)
            except DataError as error:
                refused.append(error)
                continue
            prediction, name = segmenter.predict(volume), names[path]
            facts, content = _describe(prediction, truth), mask_tiff(prediction.mask)
            written.add(name, f"{name}_mask.tif", content, facts)
            if pictures:
                written.outputs.write(f"{name}.png", _picture(volume, prediction.mask))
    finally:
        written.save()
    if refused:
        raise PatientsRefused(refused, len(written))
    return written.table


def predict_nifti(
    segmenter: Segmenter,
    flair: Path | str,
    out: Path | str,
    *,
    pre: Path | str | None = None,
    post: Path | str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Segment one patient's co-registered NIfTI files (:func:`lggseg.data.nifti.read_nifti`).

    Writes ``<flair>_mask.nii.gz`` (0 and 1, on the voxels of FLAIR) into ``out`` and a row into
    ``predictions.csv``, and returns a table of that row: the columns of :func:`predict_folder` with
    voxels of the file, tumour_ml (the affine taken for millimetres), and missing: the sequences
    that FLAIR stands in for. Raises ``DataError``.
    """
    from lggseg.data.nifti import read_nifti, scan_name

    name = scan_name(flair)
    if not usable_name(name):
        raise unusable(Path(flair))
    written = _predictions(segmenter, out, overwrite, [f"{name}_mask.nii.gz"])
    volume, scan = read_nifti(flair, pre, post)
    prediction = segmenter.predict(volume, apart=scan.apart)
    mask = scan.mask_image(prediction.mask)
    voxels = int(np.count_nonzero(mask.dataobj))
    facts = {**_describe(prediction, None), "tumour_voxels": voxels}
    facts |= {"tumour_ml": round(voxels * scan.voxel_ml, 3), "missing": ", ".join(scan.missing)}
    content = gzip.compress(mask.to_bytes(), compresslevel=6, mtime=0)
    written.add(name, f"{name}_mask.nii.gz", content, facts)
    return written.table


def _predictions(
    segmenter: Segmenter,
    out: Path | str,
    overwrite: bool,
    masks: Sequence[str],
    others: Sequence[str] = (),
) -> Predictions:
    """The masks and the table to write, anywhere but among a patient's slices, where a mask would
    be taken for a reader's."""
    folder = named(out)
    if folder.is_dir() and (is_patient(folder) or is_patient(folder.resolve())):
        action = "Choose another folder."
        raise DataError(folder, "a patient's folder of slices", "a folder for masks", action)
    outputs = Outputs(folder, overwrite=overwrite)
    return Predictions(outputs, segmenter.fingerprint, masks, others)


def volume_paths(data: Path) -> list[Path]:
    """The patients of a tree, or the one patient whose folder or TIFF ``data`` is. Says what is
    left out. Raises ``DataError``."""
    found = find_volumes(data)
    if not found.patients:
        raise found.refused[0]
    found.warn()
    return found.patients


def find_volumes(data: Path | str) -> Survey:
    """What :func:`volume_paths` returns, and what is left out. Raises ``DataError``."""
    data = named(data)
    if not data.exists():
        raise DataError(data, "no such file or folder", _PATIENTS, "Check the path.")
    if data.is_file() and data.suffix.lower() not in (".tif", ".tiff"):
        raise _no_patient(data, f"a file {ending(data.name)}")
    if data.is_file() and not usable_name(data.name):
        raise unusable(data)
    if data.is_file():
        return Survey(data.parent, [data])
    found = survey(data)
    if not (found.patients or found.refused):
        raise _no_patient(data, contents(data))
    return found


def _no_patient(data: Path, found: str) -> DataError:
    """What to do depends on the endings that ``found`` names."""
    kind = next((kind for kind in _ACTIONS if kind in found.lower()), "")
    return DataError(data, found, _PATIENTS, _ACTIONS.get(kind, CONVERT))


_PATIENTS = "a tree of patients, a folder NAME of slices NAME_1.tif, …, or a multi-page TIFF"
_SCAN = (
    "Name the FLAIR file itself to `lggseg predict`, the others by --pre and --post; or drop all "
    "of them on the page of `lggseg view`."
)
_ACTIONS = {
    **dict.fromkeys((".nii", ".mgz", ".mgh", ".hdr", ".img"), _SCAN),
    ".tif": "Name the slices like their folder, or give one multi-page TIFF at a time.",
}


def _describe(prediction: Prediction, truth: np.ndarray | None) -> dict[str, Any]:
    mask = prediction.mask
    facts: dict[str, Any] = {
        "slices": len(mask),
        "tumour_slices": int(mask.any(axis=(1, 2)).sum()),
        "tumour_voxels": int(mask.sum()),
        "expected_dice": round(prediction.expected_dice, 4),
    }
    return facts if truth is None else {**facts, "dice": dice(truth, mask)}


def _picture(volume: np.ndarray, mask: np.ndarray) -> bytes:
    from lggseg.inference.picture import largest_slice, outline_png

    index = largest_slice(mask)
    return outline_png(volume[index, ..., FLAIR], mask[index], zoom=3)


def evaluate(
    segmenter: Segmenter, cohort: Cohort, patients: Sequence[str], *, progress: bool = True
) -> pd.DataFrame:
    """Segment these patients and compare with their masks.

    Returns one row per patient: patient, institution and the columns of
    :func:`lggseg.evaluation.segmentation.patient_metrics`, over the whole volume at native pixels,
    then calibration_error and expected_dice.
    """
    import pandas as pd

    rows = []
    for patient in progress_bar(patients, "evaluate", "patient", show=progress):
        prediction, truth = segmenter.predict(cohort.image(patient)), cohort.mask(patient)
        metrics = patient_metrics(truth, prediction.mask)
        bins = reliability(prediction.probability, truth)
        metrics["calibration_error"] = expected_calibration_error(bins)
        metrics["expected_dice"] = prediction.expected_dice
        institution = cohort.patients.loc[patient, "institution"]
        rows.append({"patient": patient, "institution": institution, **metrics})
    return pd.DataFrame(rows)


def onnx_engine(folder: Path, config: Config) -> Engine:
    """The graph of a model folder in ONNX Runtime. Raises ``DataError``."""
    # Its official builds report to Microsoft unless told not to before they are imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    path = folder / "model.onnx"
    try:
        session = onnxruntime.InferenceSession(
            path,
            sess_options=_session_options(),
            providers=onnxruntime.get_available_providers(),
        )
    except Exception as error:  # onnxruntime's exceptions share no base class of its own
        found = f"what ONNX Runtime cannot read ({error})"
        raise DataError(path, found, "an ONNX model", _AGAIN) from error

    def run(image: np.ndarray, air: np.ndarray, contrast: np.ndarray) -> np.ndarray:
        feed = {"image": image, "air": air, "contrast": contrast}
        return cast(np.ndarray, session.run(["probability"], feed)[0])

    return checked(path, run, config)


def _session_options() -> onnxruntime.SessionOptions:
    """As many threads as this process may use, which sleep while they wait."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def torch_engine(folder: Path, config: Config) -> Engine:
    """The same built from a model folder's weights in torch, on the GPU where there is one."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from lggseg.models.networks import build_network

    path, network = folder / "weights.safetensors", build_network(config)
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        found = f"no weights of this network ({' '.join(str(error).split())[:300]})"
        raise DataError(path, found, f"those of {config.network}", _AGAIN) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    graph = inference_graph(network, config).to(device)

    def run(image: np.ndarray, air: np.ndarray, contrast: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            inputs = (torch.from_numpy(part).to(device) for part in (image, air, contrast))
            return cast(np.ndarray, graph(*inputs).cpu().numpy())

    return checked(path, run, config)


def inference_graph(network: torch.nn.Module, config: Config) -> torch.nn.Module:
    """All pixel arithmetic of a prediction as one module.

    image: uint8 ``(slices, channels, 256, 256)``; air, contrast: float32 ``(1, channels)`` →
    probability float32 ``(slices, 256, 256)``.
    """
    import torch

    from lggseg.preprocessing import transforms

    class InferenceGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(
            self, image: torch.Tensor, air: torch.Tensor, contrast: torch.Tensor
        ) -> torch.Tensor:
            small = transforms.shrink(image, config.downsample)
            small = transforms.normalise(small, air, contrast)
            if config.test_flips:
                # One pass for both: the exported graph holds the network once.
                both = self.network(torch.cat([small, small.flip(-1)])).unflatten(0, (2, -1))
                logits = (both[0] + both[1].flip(-1)) / 2
            else:
                logits = self.network(small)
            return transforms.enlarge(logits, config.downsample).sigmoid()[:, 0]

    return InferenceGraph().eval()


def export_model(network: torch.nn.Module, config: Config, folder: Path) -> None:
    """Write the weights and the graph of a model folder, which
    :func:`lggseg.inference.model_folder.write_card` completes."""
    from safetensors.torch import save

    network = network.cpu().eval()
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    # Written by Python, whose errors say that a disk is full.
    parts = {"weights.safetensors": save(weights), "model.onnx": _onnx(network, config)}
    for name, content in parts.items():
        replace_file(folder / name, partial(Path.write_bytes, data=content))


def _onnx(network: torch.nn.Module, config: Config) -> bytes:
    import torch

    # The exporter warns of operations of packages that are not installed, which none here uses.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    graph = inference_graph(network, config)
    image = torch.zeros(2, config.channels, SIZE, SIZE, dtype=torch.uint8)
    # Two tensors: the exporter would merge one that is given twice into a single input.
    air, contrast = torch.zeros(1, config.channels), torch.ones(1, config.channels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (image, air, contrast),
            input_names=["image", "air", "contrast"],
            output_names=["probability"],
            dynamic_shapes=({0: torch.export.Dim("slices")}, None, None),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # The exporter's stack traces name this machine's folders.
    for node in model.graph.node:
        node.ClearField("metadata_props")
    return cast(bytes, model.SerializeToString())
