"""From a volume of grey levels to what a network sees, and from its probability to a mask.

It imports nothing else of the package lggseg, since MONAI bundles hold a copy; licence: MIT.
"""

from .postprocessing import drop_small_components
from .resampling import Grid
from .volume import CHANNELS, FLAIR, SIZE, channel_statistics, stack_channels

__all__ = [
    "CHANNELS",
    "FLAIR",
    "SIZE",
    "Grid",
    "channel_statistics",
    "drop_small_components",
    "stack_channels",
]
