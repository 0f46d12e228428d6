"""The attacks of the reviews on what is here, run again: endpoint, viewer, files, models, training.

    python benchmarks/attacks.py [--sections A B C D E] [--model models/lgg-unet] [--seed 0]

Each attack runs the real commands as a user or a stranger would. Prints one line per finding and
at the end how many attacks there were and how many gave a wrong result without a word, lost
something, were answered with a 5xx (503 with Retry-After, "too many at once", is none), hung for
more than 10 seconds, or ended in a traceback. The exit status is 1 unless all of these are 0. Only
addresses of this machine are asked.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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

    def report(self) -> int:
        """Print the counts; the exit status."""
        for section, number in sorted(self.tried.items()):
            print(f"section {section}: {number} attacks")
        print(", ".join(f"{self.faults[fault]} {fault}" for fault in FAULTS))
        return int(any(self.faults.values()))


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
    options = parser.parse_args()
    tally = Tally()
    for section in options.sections:
        with tempfile.TemporaryDirectory(prefix="lggseg-attacks-") as folder:
            sections[section](tally, options.model.resolve(), Path(folder), options.seed)
    return tally.report()


if __name__ == "__main__":
    sys.exit(main())
