"""Errors and warnings that say what was found, what was expected and what to do; their texts."""

from __future__ import annotations

import unicodedata
from pathlib import Path

# Unicode's categories that neither a table nor a message can hold: control characters, halves of
# pairs (which stand for bytes that are not UTF-8), and ends of lines and paragraphs.
_UNUSABLE = ("Cc", "Cs", "Zl", "Zp")


class DataError(ValueError):
    """Bad input. Says which file, what was found, what was expected and what to do."""

    def __init__(self, path: Path | str, found: str, expected: str, action: str) -> None:
        facts = f"found {found}; expected {expected}. {action}".split("\n")
        super().__init__(f"{printable(path)}: " + "\n".join(map(printable, facts)))


class LeftOut(UserWarning):
    """Something of the user's that a command does without: one sentence that names it."""


# The extra of pyproject.toml that brings a package, by the name it is imported by.
EXTRAS = {
    "serve": "fastapi starlette uvicorn h11",
    "data": "kagglehub nilearn",
    "train": "torch monai pytorch_lightning safetensors onnx einops optuna sqlalchemy",
    "notebooks": "papermill ipykernel matplotlib",
    "aws": "sagemaker boto3 psutil",
    "wandb": "wandb",
    "dicom": "pydicom highdicom SimpleITK",
}


def missing_extra(error: ModuleNotFoundError) -> str:
    """The sentence for a package that is not installed: which extra of lggseg brings it."""
    package = (error.name or "").partition(".")[0]
    extra = next((name for name, text in EXTRAS.items() if package in text.split()), "")
    action = f"Run {install_command(extra)}." if extra else "Install it."
    return f"{package}: found no such package; expected it for this step. {action}"


def install_command(extra: str) -> str:
    """How to install an extra of pyproject.toml, for messages; lggseg is on no package index.

    >>> install_command("dicom")
    "`pip install -e '.[dicom]'` in the project's folder"
    """
    return f"`pip install -e '.[{extra}]'` in the project's folder"


def usable_name(name: str) -> bool:
    """Whether a name can stand in a table and in a message as it is."""
    return not any(unicodedata.category(letter) in _UNUSABLE for letter in name)


def printable(text: Path | str) -> str:
    """A text with its control characters, and its bytes that are not UTF-8, as escapes.

    >>> printable("line\\nbreak")
    'line\\\\nbreak'
    """
    return "".join(letter if usable_name(letter) else _escape(letter) for letter in str(text))


def _escape(letter: str) -> str:
    byte = ord(letter) - 0xDC00  # how Python holds a byte of a file name that is not UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else ascii(letter)[1:-1]


# For scans that are neither TIFF nor NIfTI.
CONVERT = (
    "`lggseg predict` takes the folder of a DICOM study, and dcm2niix makes NIfTI of it; 3D Slicer "
    "of other scans (NRRD, MINC, MetaImage), or SimpleITK in Python: "
    "`WriteImage(ReadImage('scan.mha'), 'scan.nii.gz')`. Pictures (PNG, JPEG) must be saved as "
    "TIFF."
)


class Refused(DataError):
    """A request that cannot be answered: ``status`` is HTTP's. ``name`` is that of the file in it
    which is at fault, if the request has several."""

    def __init__(
        self, status: int, found: str, expected: str, action: str, name: str = "request"
    ) -> None:
        super().__init__(name, found, expected, action)
        self.status = status
        self._message = found, expected, action

    def of(self, name: str) -> Refused:
        """The same of the file ``name``."""
        return Refused(self.status, *self._message, name)
