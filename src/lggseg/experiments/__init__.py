"""Many trainings: hyperparameter search and the comparison of networks."""
