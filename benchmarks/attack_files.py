"""Sections C to E of attacks.py: users' files, model folders and trainings, by the command line."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import tifffile

from lggseg.cloud.registry import resolve
from lggseg.data.simulation import make_cohort
from lggseg.utils.errors import DataError

if TYPE_CHECKING:
    from attacks import Tally

SECONDS = 10  # of CPU time beyond what a command takes for a good patient
MEMORY = 8 * 2**30  # bytes of addresses of a command
SMOKE = ("--profile", "smoke", "--precision", "32-true")


class Commands:
    """Runs commands of lggseg and judges how they end."""

    def __init__(self, tally: Tally, section: str, model: Path, folder: Path) -> None:
        self.tally, self.section, self.model, self.folder = tally, section, model, folder
        self.number, self.usual, self.last = 0, 60.0, 0.0

    def out(self) -> Path:
        """A new place to write to."""
        self.number += 1
        return self.folder / f"out{self.number}"

    def run(self, attack: str, *arguments: object) -> tuple[int, str]:
        """Exit status and output of a command; a traceback or a hang is recorded."""
        line = [sys.executable, "-m", "lggseg.cli", *map(os.fspath, map(as_argument, arguments))]
        before, hung = cpu_seconds(), False
        try:
            found = subprocess.run(
                line, capture_output=True, timeout=600, cwd=self.folder, preexec_fn=limit_memory
            )
            status, text = found.returncode, (found.stdout + found.stderr).decode(errors="replace")
        except subprocess.TimeoutExpired:
            status, text, hung = -1, "stopped after 600 s", True
        seconds = self.last = cpu_seconds() - before
        hung |= arguments[0] == "predict" and seconds > self.usual + SECONDS
        fault = "traceback" if "Traceback" in text else "hang" if hung else ""
        last = " ".join(text.split())[-200:]
        self.tally.record(f"{self.section} {attack}", fault, f"{seconds:.0f} s of CPU, {last}")
        return status, text

    def check(self, attack: str, wrong: bool, fault: str, detail: str = "") -> None:
        """Record whether what the command left is wrong."""
        self.tally.record(f"{self.section} {attack}", fault if wrong else "", detail)


def cpu_seconds() -> float:
    """CPU time of all commands so far, which other work on the machine does not lengthen."""
    times = resource.getrusage(resource.RUSAGE_CHILDREN)
    return times.ru_utime + times.ru_stime


def limit_memory() -> None:
    """A file that inflates must not take this machine's memory."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def as_argument(value: object) -> str | Path:
    """A path or a text for a command line."""
    return value if isinstance(value, Path) else str(value)


def tree_of(folder: Path, seed: int) -> Path:
    """Three simulated patients."""
    return make_cohort(folder, patients=3, seed=seed, progress=False)


def copy_patient(source: Path, target: Path) -> None:
    """A patient's folder under another name, the slices named alike."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        shutil.copy(path, target / path.name.replace(source.name, target.name))


def digest(path: Path) -> str:
    """What tells whether a file changed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def patients_of(out: Path) -> list[str]:
    """The patients in a table that predict or evaluate wrote."""
    for name in ("predictions.csv", "patients.csv"):
        if (out / name).is_file():
            with (out / name).open(newline="") as file:
                return [row["patient"] for row in csv.DictReader(file)]
    return []


def attack_files(tally: Tally, model: Path, folder: Path, seed: int) -> None:
    """Section C."""
    commands = Commands(tally, "C", model, folder)
    data = tree_of(folder / "tree", seed)
    source = min(path for path in data.iterdir() if path.is_dir())
    commands.run("good", "predict", model, source, commands.out())
    commands.usual = commands.last
    attack_names(commands, source)
    attack_overwriting(commands, source)
    attack_halves(commands, source)
    attack_leaving_out(commands, source)
    attack_bombs(commands)


def attack_names(commands: Commands, source: Path) -> None:
    """Names with dots, for missing values, of no Unicode, with line ends, as formulas."""
    names = ["1.2.840.1", "1.2.840.2", "NA", "null", "nan", "001", "=cmd|calc", "a\rb", "b\udcfc"]
    tree, out = commands.folder / "names", commands.out()
    for name in names:
        copy_patient(source, tree / name)
    _, text = commands.run("names", "predict", commands.model, tree, out)
    masks = len(list(out.glob("*_mask.tif")))
    said = sum("found" in line for line in text.splitlines())
    commands.check("names", masks + said < len(names), "lost", f"{masks} masks, {said} named")
    table = out / "predictions.csv"
    formula = table.is_file() and any(line[:1] in "=+-@" for line in table.read_text().splitlines())
    commands.check("formula", formula, "silent wrong", "predictions.csv")
    for name in names[6:]:
        shutil.rmtree(tree / name)
    out = commands.out()
    status, text = commands.run("missing values", "evaluate", commands.model, tree, "--out", out)
    wrong = status == 0 and sorted(patients_of(out)) != sorted(names[:6])
    commands.check("missing values", wrong, "silent wrong", str(patients_of(out)))


def attack_overwriting(commands: Commands, source: Path) -> None:
    """Masks that predict did not write."""
    folder = commands.folder / "own" / source.name
    shutil.copytree(source, folder)
    before = {path: digest(path) for path in folder.iterdir()}
    first = min(path for path in folder.glob("*.tif") if "mask" not in path.name)
    commands.run("into its folder", "predict", commands.model, first, folder)
    commands.run("patient into itself", "predict", commands.model, folder, folder)
    lost = [path.name for path, known in before.items() if digest(path) != known]
    commands.check("expert's mask", bool(lost), "lost", ", ".join(lost))
    commands.run("split afterwards", "split", folder.parent, "--out", commands.out())
    scan, mask = commands.folder / "case1.nii.gz", commands.folder / "case1_mask.nii.gz"
    nifti(scan)
    nifti(mask)
    known = digest(mask)
    commands.run("beside a NIfTI mask", "predict", commands.model, scan, commands.folder)
    commands.check("NIfTI mask", digest(mask) != known, "lost", mask.name)
    place = commands.folder / "file"
    place.write_text("mine")
    commands.run("OUT is a file", "predict", commands.model, source, place)
    commands.check("OUT is a file", place.read_text() != "mine", "lost")


def nifti(path: Path, shape: tuple[int, ...] = (64, 64, 5)) -> None:
    """A scan of noise in a head's form."""
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 20, shape).astype(np.int16)
    voxels[16:48, 16:48] += 150
    nib.save(nib.Nifti1Image(voxels, np.diag([-3.0, -3.0, 5.0, 1.0])), path)


def attack_halves(commands: Commands, source: Path) -> None:
    """Cut multi-page TIFFs and flipped bytes in compressed scans."""
    slices = sorted(path for path in source.glob("*.tif") if "mask" not in path.name)
    volume = np.stack([tifffile.imread(path) for path in slices])
    whole = commands.folder / "vol.tif"
    tifffile.imwrite(whole, volume, photometric="rgb")
    content = whole.read_bytes()
    for share in (0.999, 0.9, 0.5, 0.1, 0.001):
        cut = commands.folder / f"cut{share}.tif"
        cut.write_bytes(content[: int(share * len(content))])
        status, _ = commands.run(f"cut {share}", "predict", commands.model, cut, commands.out())
        commands.check(f"cut {share}", status == 0, "silent wrong", "taken for a whole volume")
    scan = commands.folder / "scan.nii.gz"
    nifti(scan)
    packed = bytearray(scan.read_bytes())
    for place in (len(packed) // 2, len(packed) - 6, len(packed) - 1):
        flipped = commands.folder / f"flip{place}.nii.gz"
        changed = packed.copy()
        changed[place] ^= 16
        flipped.write_bytes(changed)
        out = commands.out()
        status, _ = commands.run(f"flip {place}", "predict", commands.model, flipped, out)
        commands.check(f"flip {place}", status == 0, "silent wrong", "read without its checksum")


def attack_leaving_out(commands: Commands, source: Path) -> None:
    """Sites side by side, upper-case endings, hidden twins."""
    sites = commands.folder / "sites"
    copy_patient(source, sites / "siteA" / "p1")
    copy_patient(source, sites / "siteB" / "p2")
    out = commands.out()
    _, text = commands.run("two sites", "predict", commands.model, sites, out)
    wrong = {"p1", "p2"} - set(patients_of(out))
    commands.check("two sites", bool(wrong) and "p2" not in text, "lost", str(wrong))
    tree = commands.folder / "endings"
    copy_patient(source, tree / "p3")
    numbers = [path for path in (tree / "p3").glob("*.tif") if "mask" not in path.name]
    last = max(numbers, key=lambda path: int(path.stem.rpartition("_")[2]))
    last.rename(last.with_suffix(".TIF"))
    out = commands.out()
    _, text = commands.run("last slice .TIF", "predict", commands.model, tree, out)
    table = (out / "predictions.csv").read_text() if (out / "predictions.csv").is_file() else ""
    wrong_count = bool(table) and f",{len(numbers)}," not in table and ".TIF" not in text
    commands.check("last slice .TIF", wrong_count, "silent wrong", table)
    hidden = commands.folder / "hidden"
    copy_patient(source, hidden / "p4")
    for path in list((hidden / "p4").iterdir()):
        (path.parent / f"._{path.name}").write_bytes(b"\0\x05\x16\x07Mac OS X")
    (hidden / ".DS_Store").write_bytes(b"x")
    _, text = commands.run("hidden twins", "split", hidden, "--out", commands.out())
    commands.check("hidden twins", "._" in text, "lost", text[-200:])


def attack_bombs(commands: Commands) -> None:
    """Files that grow when they are read."""
    image = nib.Nifti1Image(np.zeros((1, 1, 32767), np.uint8), np.eye(4))
    path = commands.folder / "bomb.nii.gz"
    path.write_bytes(gzip.compress(image.to_bytes()))
    status, _ = commands.run("NIfTI bomb", "predict", commands.model, path, commands.out())
    commands.check("NIfTI bomb", status not in (0, 1), "hang", f"status {status}")
    circle = commands.folder / "circle.tif"
    zeros = np.zeros((3, 256, 256, 3), np.uint8)
    tifffile.imwrite(circle, zeros, photometric="rgb", compression="zlib")
    with tifffile.TiffFile(circle) as file:
        first, last = file.pages[0].offset, file.pages[-1]
        end = last.offset + 2 + 12 * len(last.tags)
    content = bytearray(circle.read_bytes())
    content[end : end + 4] = first.to_bytes(4, "little")
    circle.write_bytes(content)
    status, _ = commands.run("TIFF in a circle", "predict", commands.model, circle, commands.out())
    commands.check("TIFF in a circle", status not in (0, 1), "hang", f"status {status}")


def attack_models(tally: Tally, model: Path, folder: Path, seed: int) -> None:
    """Section D."""
    commands = Commands(tally, "D", model, folder)
    data = tree_of(folder / "tree", seed)
    source = min(path for path in data.iterdir() if path.is_dir())

    def changed(name: str, file: str, content: bytes) -> Path:
        place = folder / name
        shutil.copytree(model, place)
        (place / file).write_bytes(content)
        return place

    graph = bytearray((model / "model.onnx").read_bytes())
    weights = (model / "weights.safetensors").read_bytes()
    card = json.loads((model / "model_card.json").read_text())
    graph[len(graph) // 2] ^= 64
    flipped = changed("flipped", "model.onnx", bytes(graph))
    status, text = commands.run("flipped graph", "predict", flipped, source, commands.out())
    told = status != 0
    if not told:
        status, text = commands.run("flipped graph, check", "check", flipped)
        told = status not in (0, 2) and "checksum" in text
    commands.check("flipped graph", not told, "silent wrong", "neither predict nor check tells")
    for name, content in (("cut", weights[:1000]), ("empty", b""), ("noise", b"x" * 5000)):
        place = changed(f"weights-{name}", "weights.safetensors", content)
        out = commands.out()
        commands.run(f"weights {name}", "predict", place, source, out, "--engine", "torch")
    no_versions = {name: value for name, value in card.items() if name != "versions"}
    text_threshold = {**card, "config": {**card["config"], "threshold": "0.5"}}
    for name, facts in (("no versions", no_versions), ("threshold", text_threshold)):
        place = changed(name.replace(" ", "-"), "model_card.json", json.dumps(facts).encode())
        commands.run(name, "predict", place, source, commands.out())
        commands.run(f"{name}, serve", "serve", place, "--port", "1")
    attack_registry(commands)


REGISTER = """
import sys
from lggseg.cloud.registry import register
register(*sys.argv[1:3], aliases=sys.argv[3:])
"""


def attack_registry(commands: Commands) -> None:
    """Eight registrations at once, aliases like versions, stray files, versions that are paths."""
    os.environ["LGGSEG_RUNS"] = os.fspath(commands.folder / "runs")
    line = [sys.executable, "-c", REGISTER, os.fspath(commands.model), "u"]
    at_once = [subprocess.Popen([*line, f"alias{number}"]) for number in range(8)]
    ended = [process.wait(300) for process in at_once]
    aliases = json.loads((commands.folder / "runs/registry/u/aliases.json").read_text())
    kept = {aliases.get(f"alias{number}") for number in range(8)} - {None}
    commands.check("eight at once", any(ended) or len(kept) < 8, "lost", str(aliases))
    refused = subprocess.run([*line, "v1"], capture_output=True).returncode
    commands.check("alias v1", not refused, "silent wrong", "hides the version v1")
    (commands.folder / "runs/registry/u/v1.bak").write_text("stray")
    again = subprocess.run([*line, "late"], capture_output=True, text=True)
    commands.check("stray v1.bak", again.returncode != 0, "traceback", again.stderr[-200:])
    for name in ("u:/etc", "u:../v1", "u:v1/..", "../u", "u:v99"):
        try:
            commands.check(f"resolve {name}", True, "silent wrong", str(resolve(name)))
        except (DataError, ValueError):
            commands.check(f"resolve {name}", False, "silent wrong")


def attack_training(tally: Tally, model: Path, folder: Path, seed: int) -> None:
    """Section E."""
    commands = Commands(tally, "E", model, folder)
    data = make_cohort(folder / "tree", patients=6, seed=seed, progress=False)
    split = folder / "split.csv"
    commands.run("split", "split", data, "--out", split)
    train = ("train", "--data", data, "--split", split, *SMOKE, "--run")
    status, _ = commands.run("fold 77", *train, folder / "fold", "--fold", 77)
    status, text = commands.run("fold 0 after it", *train, folder / "fold", "--fold", 0)
    commands.check("fold 0 after it", status != 0, "lost", text[-200:])
    for path in data.rglob("*_mask.tif"):
        pixels = tifffile.imread(path)
        tifffile.imwrite(path, np.zeros_like(pixels))
    status, _ = commands.run("resume on other data", *train, folder / "fold", "--resume")
    commands.check("resume on other data", status == 0, "silent wrong", "the run of other data")
    _, text = commands.run("no tumour", *train, folder / "none")
    commands.check("no tumour", "tumour" not in text, "silent wrong", text[-200:])
    checkpoint = folder / "fold" / "checkpoints" / "last.ckpt"
    (folder / "fold" / "patients.csv").unlink(missing_ok=True)
    for name, content in (("empty", b""), ("pickle", b"\x80\x04K\x01."), ("noise", b"x" * 999)):
        if checkpoint.exists():
            checkpoint.write_bytes(content)
            commands.run(f"checkpoint {name}", *train, folder / "fold", "--resume")
    shutil.rmtree(min(path for path in data.iterdir() if path.is_dir()))
    status, _ = commands.run("split names a lost patient", *train, folder / "gone")
    commands.check("split names a lost patient", status == 0, "silent wrong")
