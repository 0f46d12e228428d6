"""Several training runs: cross-validation, hyperparameter search, comparison of networks."""

from lggseg.utils.lazy import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "compare": "per_patient",
        "cross_validation": "crossvalidate score_folds",
        "search": "gain_elsewhere tune",
        "search_results": "best_config importances trials_table",
        "side_by_side": "train_together",
    },
)
