"""``lggseg export MODEL --html lgg.html``: page, model and ONNX Runtime Web in one file.

The page is the viewer's (``serving/viewer/static``); where it asks the server, ``local.js`` answers
in the browser. A browser loads no module from disk, so each becomes a function in one script.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import lggseg
from lggseg.inference.segmenter import Segmenter
from lggseg.serving.standalone.runtime import LICENCE, runtime_files
from lggseg.utils.errors import DataError
from lggseg.utils.files import replace_file

HERE = Path(__file__).with_name("static")
VIEWER = Path(__file__).parents[1] / "viewer" / "static"
# In the order in which they need each other; api.js is the one that local.js stands in for.
MODULES = (
    HERE / "pipeline.js",
    HERE / "scans.js",
    VIEWER / "roles.js",
    VIEWER / "files.js",
    HERE / "local.js",
    VIEWER / "scene.js",
    VIEWER / "viewer.js",
)
_STANDS_FOR = {"local": "api"}
# Nothing comes from elsewhere, and nothing goes there.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; worker-src blob:; "
    "connect-src blob: data:; img-src blob: data:; style-src 'unsafe-inline'; font-src data:; "
    "base-uri 'none'; form-action 'none'"
)
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";$', re.M)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|let|class) (\w+))", re.M)


def export_html(model: Path | str, path: Path | str) -> Path:
    """Write the HTML file of a model folder; returns its path.

    Raises ``DataError`` for a folder without a model that can run, where ONNX Runtime Web cannot be
    had, and where ``path`` is no file of this kind to replace.
    """
    model, path = Path(model), Path(path)
    if path.suffix.lower() != ".html" or path.is_dir():
        raise DataError(path, "another name", "a file .html to write", "Name it lgg.html.")
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
        action = "Move it away, or choose another name."
        raise DataError(path, "a file that lggseg did not write", "none of that name", action)
    segmenter = Segmenter.load(model)
    page = build_page(segmenter, model, runtime_files())
    replace_file(path, lambda beside: beside.write_bytes(page.encode()))
    return path


MARK = '<meta name="generator" content="lggseg export --html">'


def build_page(segmenter: Segmenter, model: Path, runtime: dict[str, bytes]) -> str:
    """The whole page as text."""
    config = segmenter.config
    graph = (model / "model.onnx").read_bytes()
    card = {
        "name": model.resolve().name,
        "model": segmenter.fingerprint,
        "graph": sha256(graph).hexdigest(),
        "lggseg": lggseg.__version__,
        "threshold": config.threshold,
        "neighbours": config.neighbours,
        "min_component_fraction": config.min_component_fraction,
        "quality": asdict(segmenter.quality),
    }
    code, loader, wasm = runtime.values()
    code = re.sub(rb"//# sourceMappingURL=\S+\s*$", b"", code)
    blocks = [
        f'<script type="application/json" id="inside-card">{_json(card)}</script>',
        *map(_packed, ("ort", "ort-loader", "ort-wasm", "model"), (code, loader, wasm, graph)),
        f'<script type="text/plain" id="inside-worker">{_text("worker.js")}</script>',
        f'<script type="module">{_script(bundle())}</script>',
    ]
    return _fill((VIEWER / "index.html").read_text(encoding="utf-8"), "\n".join(blocks))


def bundle() -> str:
    """All modules as one script: each is a function that returns what it exports."""
    parts = []
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        names = ", ".join(_EXPORT.findall(text))
        text = _EXPORT.sub("", _IMPORT.sub(r"const {\1} = modules.\2;", text))
        name = _STANDS_FOR.get(path.stem, path.stem)
        parts.append(f"modules.{name} = (() => {{\n{text}\nreturn {{ {names} }};\n}})();\n")
    return "const modules = {};\n" + "".join(parts)


def _fill(page: str, blocks: str) -> str:
    """The viewer's page with everything inside that it would load."""
    niivue = (VIEWER / "niivue.umd.js").read_text(encoding="utf-8")
    licences = f"{LICENCE}\n{(VIEWER / 'niivue.LICENSE.txt').read_text(encoding='utf-8')}"
    icon = base64.b64encode((VIEWER / "icon.svg").read_bytes()).decode()
    css = (VIEWER / "viewer.css").read_text(encoding="utf-8")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    # NiiVue last, since its text may hold any of these.
    changes = {
        "</body>": f"<!-- Licences of what is inside:\n\n{licences}-->\n{blocks}\n</body>",
        '<html lang="en">': '<html lang="en" class="alone">',
        '<meta charset="utf-8">': f'<meta charset="utf-8">\n  {MARK}\n  {policy}',
        "<title>lggseg viewer</title>": "<title>lggseg</title>",
        'href="icon.svg"': f'href="data:image/svg+xml;base64,{icon}"',
        '<link rel="stylesheet" href="viewer.css">': f"<style>\n{css}</style>",
        '  <script src="viewer.js" type="module"></script>\n': "",
        '<script src="niivue.umd.js" defer></script>': f"<script>{_script(niivue)}</script>",
    }
    for old, new in changes.items():
        if page.count(old) != 1:
            raise ValueError(f"the viewer's page has no single {old}")
        page = page.replace(old, new)
    return page


def _json(facts: dict[str, Any]) -> str:
    return json.dumps(facts).replace("<", "\\u003c")


def _packed(name: str, content: bytes) -> str:
    packed = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
    return f'<script type="application/octet-stream" id="inside-{name}">{packed}</script>'


def _text(name: str) -> str:
    return _script((HERE / name).read_text(encoding="utf-8"))


def _script(text: str) -> str:
    """A script that ends no element that it stands in."""
    return re.sub(r"<(?=/script|!--)", r"<\\", text, flags=re.I)
