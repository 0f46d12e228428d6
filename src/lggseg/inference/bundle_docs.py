"""What a MONAI bundle says of its model: data, licences, scores, how to run it."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from lggseg.config import Config
from lggseg.models.networks import network_body

# What the bundle imports besides MONAI, torch and NumPy; einops is what MONAI's transformers need.
PACKAGES = ("einops", "nibabel", "scikit-image", "scipy")


class Data(NamedTuple):
    """What a model was trained on, and what that means for its weights."""

    source: str
    licence: str
    weights: str
    references: list[str]


MIT = "MIT (https://opensource.org/license/mit)"
_CC = "CC BY-NC-SA 4.0 (https://creativecommons.org/licenses/by-nc-sa/4.0/)"
_BUDA = (
    "Buda, M., Saha, A., Mazurowski, M. A.: Association of genomic subtypes of lower-grade gliomas "
    "with shape features automatically extracted by a deep learning algorithm. Computers in "
    "Biology and Medicine 109 (2019) 218–225. https://doi.org/10.1016/j.compbiomed.2019.05.002"
)
_MNI = (
    "Fonov, V., et al.: Unbiased average age-appropriate atlases for pediatric studies. NeuroImage "
    "54 (2011) 313–327. https://doi.org/10.1016/j.neuroimage.2010.07.033"
)
REAL = Data(
    "LGG MRI segmentation, https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation, from "
    "The Cancer Imaging Archive's TCGA-LGG collection",
    f"{_CC}: attribution, non-commercial use, share alike",
    f"{_CC}, as the data: attribution, non-commercial use, share alike",
    [_BUDA],
)
SIMULATED = Data(
    "the simulated cohort of lggseg, built on the MNI ICBM152 templates that nilearn ships",
    "the MNI templates' own, which allows use, copies and changes with attribution",
    MIT,
    [_MNI],
)


def data_of(card: dict[str, Any]) -> Data:
    """What a model was trained on, by its card."""
    return SIMULATED if card["simulated"] else REAL


def description(config: Config) -> str:
    """One sentence on a model."""
    body, _ = network_body(config)
    return (
        f"A 2-D {body.__name__} that outlines the FLAIR abnormality of lower-grade glioma in axial "
        "slices of pre-contrast, FLAIR and post-contrast MRI of heads with their skull"
    )


def scores_of(card: dict[str, Any]) -> dict[str, float]:
    """The means over patients that the card has, such as ``test_mean_dice``."""
    return {
        f"{subset}_mean_{metric}": round(card[subset][metric]["mean"], 4)
        for subset in ("validation", "cross_validation", "test", "recipe_test")
        for metric in ("dice", "hd95", "precision", "recall")
        if metric in card.get(subset, {})
    }


def write_docs(model: Path, config: Config, card: dict[str, Any], root: Path) -> None:
    """Write a bundle's README and licences."""
    data = data_of(card)
    docs = root / "docs"
    docs.mkdir()
    (docs / "data_license.txt").write_text(f"Data: {data.source}.\nLicence: {data.licence}.\n")
    (root / "LICENSE").write_text(
        f"models: {data.weights}.\n"
        f"configs, scripts: {MIT}, Copyright (c) 2026 the lggseg authors.\n"
    )
    packages = " ".join(f"{name}=={version(name)}" for name in ("monai", *PACKAGES))
    text = README.format(
        name=root.name,
        description=description(config),
        packages=packages,
        scores=_score_table(card),
        source=data.source,
        weights=data.weights,
    )
    (docs / "README.md").write_text(text + _readme_of(model))


def _score_table(card: dict[str, Any]) -> str:
    rows = [f"| {name.replace('_', ' ')} | {value} |" for name, value in scores_of(card).items()]
    return "\n".join(["", "| mean over patients | |", "|---|---|", *rows, ""]) if rows else ""


def _readme_of(model: Path) -> str:
    """The model folder's own README, its headings a level deeper."""
    path = model / "README.md"
    if not path.exists():
        return ""
    text = re.sub(r"^(#+ )", r"#\1", path.read_text(), flags=re.M)
    return f"\nThe README of the model folder that lggseg made this bundle of:\n\n{text}"


README = """\
# {name}

{description}. For teaching and research; **not for clinical use**.

## Run it

```bash
pip install {packages}
cd {name}
python -c "from monai.bundle import run; run(config_file='configs/inference.json', \\
    dataset_dir='path/to/patients', output_dir='masks')"
```

`path/to/patients` holds a folder for each patient with `flair.nii.gz`, `pre.nii.gz` and
`post.nii.gz` (T1 before and after contrast), registered to each other and on the same voxels; where
one of the latter two is missing, FLAIR stands in. Any orientation and voxel size will do, as long
as the headers tell them.
`masks/<patient>_mask.nii.gz`, 0 and 1, lies on the scans' voxels. With `pip install fire` the
same works as `python -m monai.bundle run --config_file …`; with `pip install pytorch-ignite` the
configuration's `evaluator` can be used instead.

The network alone:

```python
from monai.bundle import load

network = load("{name}", bundle_dir="path/to/its/parent", workflow_type="inference").eval()
```

It takes what `preprocessing` makes of the scans, a slice at a time, and gives logits. `scripts`
holds the few transforms that MONAI has not.

## The model
{scores}
Trained on: {source}. Licence of the weights: {weights}.
"""
