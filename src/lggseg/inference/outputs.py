"""Output folders that belong to the user: a command replaces only files that an earlier command
wrote, and only when asked to. A list in the folder records which files those are."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from lggseg.utils.errors import DataError
from lggseg.utils.files import (
    new_folder,
    read_table,
    replace_file,
    table_bytes,
    try_lock,
    write_json,
    writing,
)

if TYPE_CHECKING:
    import pandas as pd

LIST = ".written-by-lggseg.json"  # the SHA-256 of each file by its name
TABLE = "predictions.csv"
_LONGEST = 255  # bytes of a file's name


class Outputs:
    """A folder to write files into. ``overwrite``: whether files that lggseg wrote there before,
    and that nobody changed since, may be replaced."""

    def __init__(self, folder: Path | str, *, overwrite: bool = False) -> None:
        self.folder, self.overwrite = Path(folder), overwrite
        self._own: set[str] = set()  # what this very call wrote

    def check(self, names: Iterable[str]) -> None:
        """See that files of these names can be written, before anything is. Raises
        ``DataError``."""
        names = list(names)
        for name in names:
            self._check(name)
        alike = Counter(map(_folded, names))
        if twice := [name for name in names if alike[_folded(name)] > 1]:
            new_folder(self.folder)
            if _ignores_case(self.folder):
                found = f"{twice[0]} and {twice[1]} to write, which are one file there"
                action = "Rename one of the two patients."
                raise DataError(self.folder, found, "names that differ in more than case", action)

    def check_added(self, name: str) -> None:
        """See that a file is none yet, or one that lggseg wrote. Raises ``DataError``."""
        self._check(name, added=True)

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all. Raises ``DataError``."""
        self._write(name, lambda: content, added=False)

    def remove(self, name: str) -> None:
        """Delete the file of an earlier command that would be replaced. Raises ``DataError``."""
        self._check(name)
        (self.folder / name).unlink(missing_ok=True)

    def add(self, name: str, content: Callable[[], bytes]) -> None:
        """Write what ``content`` makes of a file that lggseg wrote before, if there is one; no
        other process writes into the folder meanwhile. Raises ``DataError``."""
        self._write(name, content, added=True)

    def _write(self, name: str, content: Callable[[], bytes], added: bool) -> None:
        new_folder(self.folder)
        with writing(self.folder / name):
            lock = try_lock(self.folder / f"{LIST}.lock", seconds=-1)
        try:
            self._check(name, added)
            write = partial(self._write_listed, name=name, content=content())
            replace_file(self.folder / name, write)
            self._own.add(name)
        finally:
            if lock:
                lock.release()

    def _write_listed(self, temporary: Path, name: str, content: bytes) -> None:
        temporary.write_bytes(content)
        # Listed first: a file that a killed process left without this would be a stranger's.
        write_json({**self._listed(), name: _digest(content)}, self.folder / LIST)

    def _check(self, name: str, added: bool = False) -> None:
        path = self.folder / name
        if (length := len(os.fsencode(name))) > _LONGEST:
            found, action = f"a name of {length} bytes to write", "Rename what it is named after."
            raise DataError(path, found, f"at most {_LONGEST}", action)
        if not os.path.lexists(path) or (name in self._own and not added):
            return
        if not self.knows(name):
            found = "a file that lggseg did not write, or that was changed since"
            action = "Move it away, or choose another folder."
            raise DataError(path, found, "none, since it would be lost", action)
        if not (added or self.overwrite):
            found, expected = "what an earlier command wrote", "none of that name"
            raise DataError(path, found, expected, "Choose another folder, or add --overwrite.")

    def knows(self, name: str) -> bool:
        """Whether lggseg wrote a file and nobody changed it since."""
        path, listed = self.folder / name, self._listed().get(name)
        return listed is not None and path.is_file() and listed == _digest(path.read_bytes())

    def _listed(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.folder / LIST).read_text()))
        except (OSError, ValueError):  # none yet, or a broken one: then nothing is replaced
            return {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _folded(name: str) -> str:
    return normalize("NFC", name).casefold()


def _ignores_case(folder: Path) -> bool:
    with tempfile.NamedTemporaryFile(prefix=".lggseg-", dir=folder) as file:
        return Path(file.name).with_name(Path(file.name).name.swapcase()).exists()


class Predictions:
    """Masks in a folder, and the table ``predictions.csv`` with a row for each, to which further
    calls with the same model add.

    masks: the names of the masks to come; others: those of other files of each, in the same order.
    resume: masks that an earlier call wrote, with their row, stay as they are (:meth:`has`). Raises
    ``DataError`` where one of them must not be written, and where the table holds masks of another
    model.
    """

    def __init__(
        self,
        outputs: Outputs,
        model: str,
        masks: Sequence[str],
        others: Sequence[Sequence[str]] = (),
        *,
        resume: bool = False,
    ) -> None:
        self.outputs, self._model, self._masks = outputs, model, set(masks)
        self._rows: list[dict[str, Any]] = []
        self._due = 1.0
        outputs.check_added(TABLE)
        if resume:
            self._masks -= {mask for mask in self._listed() if outputs.knows(mask)}
        new = [place for place, mask in enumerate(masks) if mask in self._masks]
        outputs.check([masks[place] for place in new])
        outputs.check([names[place] for names in others for place in new])
        self._earlier()

    def has(self, mask: str) -> bool:
        """Whether an earlier call wrote this mask, which is to stay."""
        return mask not in self._masks

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def table(self) -> pd.DataFrame:
        """The rows of this call."""
        import pandas as pd

        return pd.DataFrame(self._rows)

    def add(self, patient: str, mask: str, content: bytes, facts: dict[str, Any]) -> None:
        """Write a mask, and the table when a tenth more rows have come: after each mask, a long
        table would take the time."""
        self.outputs.write(mask, content)
        self._rows.append({"patient": patient, "mask": mask, "model": self._model, **facts})
        if len(self._rows) >= self._due:
            self.save()
            self._due = 1.1 * len(self._rows)

    def save(self) -> None:
        """Write the table, if there are rows."""
        if self._rows:
            self.outputs.add(TABLE, self._content)

    def _content(self) -> bytes:
        import pandas as pd

        parts = [part for part in (self._earlier(), self.table) if len(part)]
        return table_bytes(pd.concat(parts, ignore_index=True))

    def _listed(self) -> list[str]:
        """The masks that the table names."""
        path = self.outputs.folder / TABLE
        return list(read_table(path)["mask"]) if path.exists() else []

    def _earlier(self) -> pd.DataFrame:
        """The rows of the masks that this call does not write."""
        import pandas as pd

        path = self.outputs.folder / TABLE
        if not path.exists():
            return pd.DataFrame()
        table = read_table(path)
        kept = table[~table["mask"].isin(self._masks)]
        if (kept["model"] != self._model).any():
            action = "Choose another folder, so that no table mixes models."
            raise DataError(path, "masks of another model", "those of this one", action)
        return kept
