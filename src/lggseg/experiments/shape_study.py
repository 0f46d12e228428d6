"""Shape and genomics: features of true and predicted masks, beside the paper, and what else they
could be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from lggseg.data.cohort import Cohort
from lggseg.evaluation import shape, statistics
from lggseg.experiments.compare import ensemble_on_test, out_of_fold
from lggseg.utils.progress import progress_bar

# The clusterings of data.csv that the paper tests.
CLUSTERS = (
    *("RNASeqCluster", "MethylationCluster", "miRNACluster"),
    *("CNCluster", "RPPACluster", "OncosignCluster"),
)
GRADE = "neoplasm_histologic_grade"
# What the paper says of RNASeq clusters (Buda 2019), in the order of ``shape.PAPER``.
CLAIMS = ("< 0.0002", "< 0.005", "< 0.02")


def clinical(cohort: Cohort) -> pd.DataFrame:
    """The cohort's patients with all of :data:`CLUSTERS` and the grade; a column that data.csv
    lacks is empty."""
    wanted = dict.fromkeys([*cohort.patients, *CLUSTERS, GRADE])
    return cohort.patients.reindex(columns=list(wanted))


def true_shapes(cohort: Cohort) -> pd.DataFrame:
    """:func:`lggseg.evaluation.shape.shape_features` of each patient's true mask."""
    names = progress_bar(list(cohort.patients.index), "measure", "patient")
    return pd.DataFrame({name: shape.shape_features(cohort.mask(name)) for name in names}).T


def predicted_shapes(folder: Path | str, cohort: Cohort, split: pd.DataFrame) -> pd.DataFrame:
    """The same of masks by models that had not seen the patient: each fold's own for its
    patients, the mean of all folds for the test patients."""
    masks = chain(out_of_fold(folder, cohort, split), ensemble_on_test(folder, cohort, split))
    bar = progress_bar(masks, "predict", "patient", total=len(cohort.patients))
    found = {name: shape.shape_features(prediction.mask) for name, prediction in bar}
    return pd.DataFrame(found).T.rename_axis("patient")


def agreement(true: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """:func:`lggseg.evaluation.statistics.agreement` of each feature, over the patients of both."""
    both = true.loc[predicted.index]
    rows = {name: statistics.agreement(both[name], predicted[name]) for name in shape.FEATURES}
    return pd.DataFrame(rows).T.rename_axis("feature")


def beside_paper(
    masks: Mapping[str, pd.DataFrame], tests: Mapping[str, pd.DataFrame], clusters: pd.Series
) -> pd.DataFrame:
    """The paper's three findings, each with its p and those of several tests.

    Args:
        masks: Features per patient, by the kind of mask.
        tests: What :func:`lggseg.evaluation.statistics.associations` gives, by the same.
        clusters: The RNASeq cluster of each patient.
    """
    rows = {}
    numbers = ["p", "p_permutation", "p_holm", "epsilon_squared", "groups", "n"]
    for name, table in masks.items():
        own = clusters[table.index]
        tested = tests[name][tests[name]["grouping"] == CLUSTERS[0]].set_index("feature")
        for feature, claim in zip(shape.PAPER, CLAIMS, strict=True):
            fisher = statistics.fisher_at_median(table[feature], own)
            p = {"paper": claim, "p_fisher": fisher}
            rows[feature, name] = {**p, **tested.loc[feature, numbers]}
    return pd.DataFrame(rows).T.rename_axis(["feature", "mask"])


def other_spacings(
    cohort: Cohort, true: pd.DataFrame, tests: pd.DataFrame, clusters: pd.DataFrame
) -> pd.DataFrame:
    """The features of solids, measured again as if the slices lay elsewhere.

    Args:
        cohort: The patients.
        true: The features of their true masks.
        tests: Their associations with the clusters.
        clusters: The clusterings to test again.

    Returns:
        ``ranks``: Spearman's correlation with the features before. ``change``: the largest change
        of ε² over the clusterings.
    """
    assumed = pd.Series(shape.SLICE_SPACING, cohort.patients.index)
    slices = cohort.patients["slices"]
    spacings = {"half": assumed / 2, "twice": assumed * 2}
    spacings["equal heads"] = assumed * slices.median() / slices
    before = tests.set_index(["feature", "grouping"])["epsilon_squared"].loc[list(shape.SOLID)]
    parts = {name: shape.largest_component(cohort.mask(name))[0] for name in cohort.patients.index}
    rows: dict[tuple[str, str], Any] = {}
    for name, spacing in progress_bar(spacings.items(), "measure again", "spacing"):
        solids = {p: shape.solid_features(parts[p], spacing[p]) for p in parts}
        other = pd.DataFrame(solids).T
        after = statistics.associations(other, clusters).set_index(["feature", "grouping"])
        change = (after["epsilon_squared"] - before).abs()
        rows["ranks", name] = other.corrwith(true[list(shape.SOLID)], method="spearman")
        rows["change", name] = change.groupby("feature").max()
    return pd.DataFrame(rows).rename_axis(columns=["what", "slices"])


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table as rows of plain values, for a results file."""
    rows: list[dict[str, Any]] = json.loads(table.reset_index().to_json(orient="records"))
    return rows
