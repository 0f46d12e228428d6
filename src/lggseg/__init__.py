"""lggseg: lower-grade glioma in brain MRI, from raw slices to a deployed endpoint."""

import warnings

__version__ = "0.1.0"

# Without ipywidgets tqdm draws its bars as text, and says so in every notebook.
warnings.filterwarnings("ignore", message="IProgress not found")
