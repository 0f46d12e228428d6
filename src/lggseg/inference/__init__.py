"""Volume in, mask out: the model folder, prediction, evaluation, export."""
