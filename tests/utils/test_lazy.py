"""What is imported, and what is not."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from lggseg.utils.lazy import NOT_FOR_MONAI, hidden


def test_hidden_modules_count_as_missing_and_come_back() -> None:
    with hidden("this_is_nowhere", "colorsys", "json"):
        assert importlib.import_module("json")  # imported before
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("this_is_nowhere")
    assert "this_is_nowhere" not in sys.modules
    assert importlib.import_module("colorsys").hls_to_rgb(0, 0.5, 0) == (0.5, 0.5, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "without"),
    [
        ("import lggseg.models.networks, lggseg.models.losses", NOT_FOR_MONAI),
        ("from lggseg.evaluation import segmentation as s; s.assd(x, x)", NOT_FOR_MONAI),
        # What notebook 06 imports: it trains nothing.
        ("import lggseg.experiments.compare", ("torch", "monai", "pytorch_lightning")),
    ],
)
def test_what_takes_seconds_to_import_is_not(code: str, without: tuple[str, ...]) -> None:
    code = f"import sys, numpy; x = numpy.ones((2, 4, 4), bool); {code}"
    code += f"; sys.exit(str([name for name in {without!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"
