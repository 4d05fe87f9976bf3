"""The arrays that counts are held in, and the largest count that they hold.

The types are for the type checker alone, so that what needs no more than `MAX_COUNT` starts without numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    IntArray = NDArray[np.int64]
    FloatArray = NDArray[np.float64]
    BoolArray = NDArray[np.bool_]
else:
    IntArray = FloatArray = BoolArray = Any

MAX_COUNT = 2**62
"""Params, FLOPs and numbers of architectures stay below this: half of int64's range, so sums of two are safe."""
