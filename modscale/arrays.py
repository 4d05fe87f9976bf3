"""The arrays that counts are held in, the largest count that they hold, and how many threads multiply them.

The types are for the type checker alone, so that what needs no more than `MAX_COUNT` starts without numpy.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Iterator
from functools import cache
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

BLAS_PREFIXES = (("scipy_openblas", "64_"), ("openblas", "64_"), ("scipy_openblas", ""), ("openblas", ""))
"""How the functions of OpenBLAS begin and end in numpy's wheels of today, of yesterday, and in others' builds."""


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """In here numpy's products and factors of matrices take one thread, where its BLAS is OpenBLAS.

    OpenBLAS shares a matrix of 100 rows already among all cores, and its threads wait for each other by spinning: on a
    machine whose cores others have too, a factorisation of 1 ms took seconds. Any other BLAS stays as it is.
    """
    get, put = _blas_threads()
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)


@cache
def _blas_threads() -> tuple[Callable[[], int], Callable[[int], object]]:
    """What says, and what sets, the number of threads of the OpenBLAS that this process has loaded with numpy."""
    with contextlib.suppress(ImportError, OSError, TypeError):
        # A name is looked up in all that numpy's library was linked with; on Windows in itself alone, in vain.
        library = ctypes.CDLL(importlib.import_module("numpy.linalg._umath_linalg").__file__)
        for prefix, ending in BLAS_PREFIXES:
            get = getattr(library, f"{prefix}_get_num_threads{ending}", None)
            put = getattr(library, f"{prefix}_set_num_threads{ending}", None)
            if get is not None and put is not None:
                return get, put
    return (lambda: 1), (lambda threads: None)
