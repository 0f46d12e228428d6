"""The attacks of the reviews on what is here, run again: endpoint, viewer, files, models, training.

    python benchmarks/attacks.py [--sections A B C D E] [--model models/lgg-unet] [--seed 0]
        [--out report/results]

Each attack runs the real commands as a user or a stranger would. Prints one line per finding and
at the end how many attacks there were and how many gave a wrong result without a word, lost
something, were answered with a 5xx (503 with Retry-After, "too many at once", is none), hung for
more than 10 seconds, or ended in a traceback. The exit status is 1 unless all of these are 0. Only
addresses of this machine are asked. ``--out``: write the counts into attacks.json there, beside
those of the sections that were not run this time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FAULTS = ("silent wrong", "lost", "5xx", "hang", "traceback")
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Tally:
    """What attacks found."""

    tried: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def record(self, attack: str, fault: str = "", detail: str = "") -> None:
        """Count an attack, and its fault if it found one."""
        self.tried[attack[0]] += 1
        if fault:
            assert fault in FAULTS, fault
            self.faults[fault] += 1
            print(f"{fault}: {attack}: {detail[:300]}", flush=True)

    @property
    def counts(self) -> dict[str, int]:
        """How many attacks, and how many of each fault."""
        return {"attacks": self.tried.total(), **{fault: self.faults[fault] for fault in FAULTS}}


def main() -> int:
    """Run the sections."""
    from attack_files import attack_files, attack_models, attack_training
    from attack_network import attack_endpoint, attack_viewer

    sections: dict[str, Callable[[Tally, Path, Path, int], None]] = {
        "A": attack_endpoint,
        "B": attack_viewer,
        "C": attack_files,
        "D": attack_models,
        "E": attack_training,
    }
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--sections", nargs="+", choices=sections, default=list(sections))
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "lgg-unet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    for section in options.sections:
        tally, start = Tally(), time.monotonic()
        with tempfile.TemporaryDirectory(prefix="lggseg-attacks-") as folder:
            sections[section](tally, options.model.resolve(), Path(folder), options.seed)
        seconds = round(time.monotonic() - start)
        rows[section] = {**tally.counts, "seconds": seconds, "commit": commit()}
        print(f"section {section}: {tally.counts} in {seconds} s", flush=True)
        if options.out:
            record(rows, options.out / "attacks.json", options.seed)
    return int(any(row[fault] for row in rows.values() for fault in FAULTS))


def commit() -> str:
    """The commit that was attacked, marked where files differ from it."""
    line = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def record(rows: dict[str, dict[str, Any]], path: Path, seed: int) -> None:
    """Write the counts of these sections, and keep those of the others."""
    from throughput import machine

    from lggseg.utils.files import write_json

    earlier = json.loads(path.read_text())["sections"] if path.exists() else {}
    all_rows = dict(sorted({**earlier, **rows}.items()))
    totals = {name: sum(row[name] for row in all_rows.values()) for name in ("attacks", *FAULTS)}
    command = "python benchmarks/attacks.py --out report/results"
    facts = {"command": command, "machine": machine(), "seed": seed}
    write_json({**facts, "totals": totals, "sections": all_rows}, path)


if __name__ == "__main__":
    sys.exit(main())
