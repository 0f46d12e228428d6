"""lggseg: lower-grade glioma in brain MRI, from raw slices to a deployed endpoint."""

__version__ = "0.1.0"
