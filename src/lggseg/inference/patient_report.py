"""A page for one patient: slices with the outline, volume, diameters, and what to doubt."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import numpy as np

import lggseg
from lggseg.data.nifti import Scan
from lggseg.evaluation.diameters import largest_diameters
from lggseg.inference.flags import FLAGS, quality_flags
from lggseg.inference.picture import largest_slice, outline_png
from lggseg.inference.segmenter import Prediction, Segmenter
from lggseg.preprocessing.resampling import PIXEL
from lggseg.preprocessing.volume import FLAIR

SHOWN = 12  # slices at most


def patient_report(
    segmenter: Segmenter, name: str, volume: np.ndarray, scan: Scan, prediction: Prediction
) -> str:
    """A patient's report as one HTML page that loads nothing.

    Args:
        segmenter: what made the prediction.
        name: of the patient, as it is to be shown.
        volume: uint8 ``(slices, 256, 256, 3)``.
        scan: the files that the volume comes of.
        prediction: of that volume.
    """
    mask = prediction.mask
    # That a missing sequence is a copy of FLAIR is said by its name.
    copies = {f"{name.replace('-', '_')}_is_flair" for name in scan.missing}
    flags = [FLAGS[flag] for flag in quality_flags(volume, prediction) if flag not in copies]
    missing = [f"Without {', '.join(scan.missing)}: FLAIR stands in."] if scan.missing else []
    made_by = (segmenter.config.network, segmenter.fingerprint, f"lggseg {lggseg.__version__}")
    facts = {
        **_sizes(mask, scan),
        "Expected Dice": f"{prediction.expected_dice:.2f}, estimated without a truth",
        "Model": ", ".join(made_by),
    }
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
    figures = "".join(_figure(volume, mask, number) for number in _shown(mask))
    doubts = _list("Look twice", [*flags, *missing]) + _list("Files", scan.notes)
    title = f"{escape(name)}: FLAIR abnormality"
    body = f"<h1>{title}</h1>{_CAUTION}<table>{rows}</table>{doubts}<h2>Slices</h2>{figures}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">{_STYLE}'
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>{title}</title></head>'
        f"<body><main>{body}</main></body></html>"
    )


def _sizes(mask: np.ndarray, scan: Scan) -> dict[str, str]:
    """Volume on the scan's voxels, and diameters in its axial slices."""
    voxels = int(np.count_nonzero(scan.mask_image(mask).dataobj))
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    facts = {"Volume": f"{voxels * scan.voxel_ml:.1f} ml ({voxels:,} voxels)"}
    if found := largest_diameters(mask, PIXEL):
        facts["Largest diameters in a slice"] = (
            f"{found.longest:.0f} × {found.perpendicular:.0f} mm, product "
            f"{found.longest * found.perpendicular:.0f} mm² (slice {found.slice + 1})"
        )
        facts["Slices with tumour"] = (
            f"{len(slices)} of {len(mask)}, {slices[0] + 1} to {slices[-1] + 1} counted upwards"
        )
    return facts


def _shown(mask: np.ndarray) -> list[int]:
    """The slices to draw: those with tumour, thinned out evenly, or the middle one."""
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    if not len(slices):
        return [len(mask) // 2]
    thinned = slices[np.linspace(0, len(slices) - 1, min(len(slices), SHOWN)).round().astype(int)]
    return sorted({*map(int, thinned), largest_slice(mask)})


def _figure(volume: np.ndarray, mask: np.ndarray, number: int) -> str:
    png = outline_png(volume[number, ..., FLAIR], mask[number])
    text = f"Slice {number + 1} of {len(mask)}: {int(mask[number].sum()):,} pixels"
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="FLAIR, outline of the mask. {text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _list(title: str, sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<h2>{title}</h2><ul>{items}</ul>" if items else ""


_CAUTION = (
    "<p><strong>Not for clinical use.</strong> Made by a program for research and teaching, "
    "without a reader. The outline in orange-red is the program's mask; the patient's left is on "
    "the right. Diameters are like those of RANO, but no person chose their ends.</p>"
)
_STYLE = (
    "<style>body{font:16px/1.5 system-ui,sans-serif;color:#1c2126;background:#fff;margin:0}"
    "main{max-width:1100px;margin:auto;padding:24px 16px}h1{font-size:24px}h2{font-size:18px}"
    "th{text-align:left;vertical-align:top;padding:4px 24px 4px 0;font-weight:600}"
    "td{padding:4px 0}figure{display:inline-block;width:256px;max-width:100%;margin:0 8px 16px 0}"
    "img{width:100%;display:block;background:#000}figcaption{font-size:14px;color:#4a545c}</style>"
)
