"""What must hold before the report is built, and of the pages that come out.

A results file that was measured with a recipe says so::

    "recipe": {"config": {…}, "differs": ["epochs", …]}

``config`` is what trained, ``differs`` names the settings in which it departs from the shipped
recipe on purpose. Whatever else differs is stale: the shipped recipe has moved on, and the numbers
are not those of the code as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
from bs4 import BeautifulSoup

from lggseg.config import Config

# Where and with which seed something ran is no part of the recipe.
INCIDENTAL = {"fold", "seed", "precision", "accelerator", "deterministic", "tracker"}
TOLERANCE = 1e-9
SHORTEST = 40  # letters of a text that says what a picture shows


class Stale(RuntimeError):
    """Results that do not belong to the shipped model."""


def recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings that make a recipe; one that was not yet there has its default."""
    defaults = {name: getattr(Config(), name) for name in Config.__dataclass_fields__}
    return {k: v for k, v in {**defaults, **config}.items() if k not in INCIDENTAL}


def stale(
    results: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    card: Mapping[str, Any],
    best: Mapping[str, Any],
) -> list[str]:
    """A sentence for each results file that does not fit the shipped model, or that of
    models/lgg-best."""
    found = []
    shipped = recipe(card["config"])
    for name, values in results.items():
        data = values.get("data_fingerprint")
        if data is not None and data != card["data_fingerprint"]:
            found.append(f"{name}.json: measured on the data {data[:8]}")
        if "recipe" not in values:
            continue
        had = recipe(values["recipe"]["config"])
        differs = {k for k in {*had, *shipped} if had.get(k) != shipped.get(k)}
        if odd := sorted(differs - set(values["recipe"]["differs"])):
            settings = ", ".join(f"{k} was {had.get(k)}, is {shipped.get(k)}" for k in odd)
            found.append(f"{name}.json: measured with another recipe ({settings})")
    for name in ("cross_validation", "test"):
        for file, own in ((name, card), (f"best_{name}", best)):
            found += _not_of_the_card(file, results[file], tables[file], own)
    return found + _old_groups(results["groups"]["groups"], tables)


def _not_of_the_card(
    file: str, summary: Mapping[str, Any], table: pd.DataFrame, card: Mapping[str, Any]
) -> list[str]:
    """The summary must be that of the model's card, and that of the table per patient."""
    found, name = [], file.removeprefix("best_")
    # A model that trained on the test patients has no score of its own there: that of its recipe.
    recorded = card.get(name, card.get(f"recipe_{name}", {}))
    metrics = [key for key, value in summary.items() if isinstance(value, dict) and "mean" in value]
    for metric in metrics:
        mean = summary[metric]["mean"]
        if metric not in recorded or abs(recorded[metric]["mean"] - mean) > TOLERANCE:
            found.append(f"{file}.json: {metric} is not that of the model's card")
        if metric in table and abs(table[metric].mean() - mean) > TOLERANCE:
            found.append(f"{file}.json: {metric} is not the mean of {file}.csv")
    return found


def _old_groups(groups: list[dict[str, Any]], tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Means by institution can be had from the tables, so the groups must have the same."""
    found = []
    for name in ("cross_validation", "test"):
        means = tables[name].groupby("institution")["dice"].mean()
        rows = [row for row in groups if row["set"] == name and row["by"] == "institution"]
        recorded = {row["group"]: row["mean"] for row in rows}
        same = set(recorded) == set(means.index) and all(
            abs(recorded[code] - mean) < TOLERANCE for code, mean in means.items()
        )
        if not same:
            found.append(f"groups.json: the groups are not those of {name}.csv")
    return found


def require_fresh(values: Mapping[str, Any]) -> None:
    """Raise :class:`Stale` that names every results file which does not fit the shipped model."""
    found = stale(values["results"], values["tables"], values["model"], values["best"])
    if found:
        raise Stale(
            "report/results: " + "; ".join(found) + ". Expected results of the shipped model "
            "(models/lgg-unet; best_…: models/lgg-best). Measure them again "
            "(report/results/README.md says how), or name the setting in the file's "
            "recipe.differs if it departs from the recipe on purpose."
        )


def faults(page: Path, soup: BeautifulSoup) -> list[str]:
    """A sentence for each picture without a text, each link that leads nowhere and each heading
    that is none, of a page that lies where it will be read."""
    found = []
    for picture in [*soup.find_all("img"), *soup.find_all("svg", role="img")]:
        if picture.find_parent(class_="notebook"):
            continue  # their texts are the notebooks' own
        text = picture.get("alt") or picture.get("aria-label") or ""
        if len(text) < SHORTEST:
            found.append(f"{page.name}: a picture whose text does not say what is seen: {text!r}")
    for text in soup.find_all("p"):
        if text.get_text().lstrip().startswith("#"):
            found.append(
                f"{page.name}: a heading that was not read as one: {text.get_text()[:40]!r}"
            )
    ids = {tag["id"] for tag in soup.find_all(id=True)}
    for link in soup.find_all("a", href=True):
        href = unquote(link["href"])
        if re.match(r"[a-z]+:", href):
            continue
        path, _, anchor = href.partition("#")
        if not path and anchor and anchor not in ids:
            found.append(f"{page.name}: the link #{anchor} leads nowhere")
        if path and not (page.parent / path).exists():
            found.append(f"{page.name}: the link {href} leads nowhere")
    return found


def require_sound(pages: Mapping[Path, str]) -> None:
    """Raise ``RuntimeError`` that names all :func:`faults` of pages, whose texts are given by their
    places."""
    found: list[str] = []
    for path, text in pages.items():
        found += faults(path, BeautifulSoup(text, "html.parser"))
    if found:
        raise RuntimeError("report: " + "; ".join(found[:12]) + ". Expected none. Mend the text.")
