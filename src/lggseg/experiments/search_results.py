"""What a search has found: its trials, the importance of each hyperparameter, the best config."""

from __future__ import annotations

from typing import Any

import optuna
import pandas as pd
from optuna.trial import TrialState

from lggseg.config import Config
from lggseg.experiments.search_space import SEARCH_SPACE, Choice

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """One row per finished trial: number, state, dice (of a pruned one the last reported), epochs,
    seconds, then the hyperparameters."""
    rows = []
    for trial in study.get_trials(deepcopy=False, states=FINISHED):
        steps = trial.intermediate_values
        row = {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "dice": trial.value if trial.value is not None else steps[max(steps)],
            "epochs": len(steps),
            "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
        }
        rows.append({**row, **trial.params})
    return pd.DataFrame(rows)


def importances(table: pd.DataFrame) -> pd.Series:
    """The share of the variance of Dice that each hyperparameter explains among the completed
    trials of :func:`trials_table` or of SageMaker's tuner (fANOVA, Hutter 2014); 0 where there is
    nothing to explain."""
    complete = table[table["state"] == "complete"]
    if complete["dice"].nunique() < 2:
        return pd.Series(0.0, index=list(SEARCH_SPACE))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    for row in complete.to_dict("records"):
        values: dict[str, Any] = {name: row[name] for name in SEARCH_SPACE}
        trial = optuna.trial.create_trial(
            params=values, distributions=_distributions(), value=float(row["dice"])
        )
        study.add_trial(trial)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return pd.Series(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distributions() -> dict[str, optuna.distributions.BaseDistribution]:
    return {
        name: optuna.distributions.CategoricalDistribution(space.values)
        if isinstance(space, Choice)
        else optuna.distributions.FloatDistribution(space.low, space.high, log=space.log)
        for name, space in SEARCH_SPACE.items()
    }


def best_config(table: pd.DataFrame, config: Config) -> Config:
    """``config`` with the hyperparameters of the completed trial that scored best; ``ValueError``
    without."""
    complete = table[table["state"] == "complete"]
    if complete.empty:
        raise ValueError("found no completed trial: expected at least one; run more --trials")
    best = complete.iloc[int(complete["dice"].to_numpy().argmax())]
    return Config.from_strings({name: str(best[name]) for name in SEARCH_SPACE}, base=config)
