"""From files to patients: readers for untrusted bytes, the cohort and its cache, splits,
simulation."""
