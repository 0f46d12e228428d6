"""lggseg: lower-grade glioma in brain MRI, from raw slices to a deployed endpoint."""

import warnings

from lggseg.utils import threads

__version__ = "0.2.0"

# Before torch is imported anywhere: OpenMP reads its settings only once.
threads.apply()

# MONAI and Optuna look for ipywidgets. Bars are text here: a saved notebook shows them again.
warnings.filterwarnings("ignore", message="IProgress not found")
# MONAI calls a function of its own in a way that it has deprecated, once a patient.
warnings.filterwarnings("ignore", message="monai.metrics.utils get_mask_edges")
