"""Many trainings: cross-validation, hyperparameter search, comparison of networks."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "compare": "per_patient",
        "cross_validation": "crossvalidate score_folds",
        "search": "best_config gain_elsewhere importances trials_table tune",
        "side_by_side": "train_together",
    },
)
