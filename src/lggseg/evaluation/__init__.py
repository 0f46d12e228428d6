"""How well a mask fits, intervals and tests over patients, the shape of a tumour."""
