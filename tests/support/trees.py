"""Small trees in Kaggle's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import tifffile


def write_tree(root: Path, patients: int = 3, slices: int = 4, seed: int = 0) -> Path:
    """A tree of head-like disks with a bright blob as tumour, in Kaggle's layout."""
    rng = np.random.default_rng(seed)
    names = [f"TCGA_{('CS', 'DU', 'HT')[i % 3]}_T{i:03d}_20000101" for i in range(patients)]
    y, x = np.mgrid[:256, :256]
    for name in names:
        (root / name).mkdir(parents=True)
        centre = rng.integers(90, 166, 2)
        for number in range(1, slices + 1):
            image = rng.integers(0, 12, (256, 256, 3), dtype=np.uint8)
            image[(y - 128) ** 2 + (x - 128) ** 2 < 90**2] += 80
            mask = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 20**2
            mask &= 1 < number < slices
            image[mask, 1] += 90
            tifffile.imwrite(root / name / f"{name}_{number}.tif", image, photometric="rgb")
            pixels = mask.astype(np.uint8) * 255
            tifffile.imwrite(root / name / f"{name}_{number}_mask.tif", pixels)
    rows = {"Patient": [name.rsplit("_", 1)[0] for name in names], "gender": 1}
    pd.DataFrame(rows).to_csv(root / "data.csv", index=False)
    return root
