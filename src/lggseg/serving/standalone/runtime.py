"""ONNX Runtime Web, which the HTML file embeds: fetched once by npm, compared with its checksums.

27 MB of WebAssembly are too much to commit. NiiVue, which is smaller, lies beside the viewer. Of
the package's builds this one runs on WebGPU as well as on the processor.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from functools import partial
from hashlib import sha256
from pathlib import Path

from lggseg.utils.errors import DataError
from lggseg.utils.files import private_folder, replace_file
from lggseg.utils.paths import cache_root

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web-{VERSION}.tgz"
_LOADER = "ort-wasm-simd-threaded.asyncify"
CHECKSUMS = {
    "ort.webgpu.min.js": "7d65dad7eb4564ad98db9924a259af2e2c68ebfbdbf254fa5d728f1c5736e07a",
    f"{_LOADER}.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    f"{_LOADER}.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
LICENCE = f"""\
ONNX Runtime Web {VERSION}, Copyright (c) Microsoft Corporation. MIT License.

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def runtime_files() -> dict[str, bytes]:
    """The files of ONNX Runtime Web by name, out of the cache or fetched by npm. Raises
    ``DataError``."""
    folder = cache_root() / PACKAGE.removesuffix(".tgz")
    kept = {name: folder / name for name in CHECKSUMS}
    if not all(path.is_file() for path in kept.values()):
        given = cache_root() / PACKAGE
        contents = _unpacked(given) if given.is_file() else _fetched()
        private_folder(folder)
        for name, content in contents.items():
            replace_file(kept[name], partial(Path.write_bytes, data=content))
    contents = {name: path.read_bytes() for name, path in kept.items()}
    _check(folder, contents)
    return contents


def _fetched() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return _unpacked(npm_package("onnxruntime-web", VERSION, Path(folder)))


def npm_package(name: str, version: str, folder: Path) -> Path:
    """A package as npm packs it, fetched into a folder. Raises ``DataError``."""
    npm, package = shutil.which("npm"), folder / f"{name}-{version}.tgz"
    place = cache_root()
    action = f"Install Node.js, or put {package.name}, as `npm pack` writes it, into {place}."
    if npm is None:
        raise DataError(name, "no npm to fetch it with", "npm", action)
    command = [npm, "pack", "--silent", f"{name}@{version}"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if answer.returncode:
        why = " ".join(answer.stderr.split())[-200:] or f"status {answer.returncode}"
        raise DataError(name, f"npm could not fetch it ({why})", package.name, action)
    return package


def _unpacked(package: Path) -> dict[str, bytes]:
    contents = {}
    try:
        with tarfile.open(package) as archive:
            for name in CHECKSUMS:
                member = archive.extractfile(f"package/dist/{name}")
                contents[name] = member.read() if member else b""
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        found = f"no readable package ({error})"
        raise DataError(package, found, f"{PACKAGE}, as npm packs it", "Fetch it again.") from error
    _check(package, contents)
    return contents


def _check(place: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        if sha256(content).hexdigest() != CHECKSUMS[name]:
            found = f"another {name} than that of version {VERSION}"
            raise DataError(place, found, "its SHA-256", "Delete it, and fetch it again.")
