"""How many threads multiply matrices."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SPENT = '''
import os, time
import numpy as np
from modscale.arrays import one_blas_thread

def spent():
    """Nanoseconds on a core of the threads that are not this one."""
    others = [task for task in os.listdir("/proc/self/task") if int(task) != os.getpid()]
    return sum(int(open(f"/proc/self/task/{task}/schedstat").read().split()[0]) for task in others)

def multiply():
    time.sleep(0.3)  # threads that have done their part spin before they sleep
    before = spent()
    for _ in range(20):
        np.linalg.cholesky(matrix @ matrix.T)
    return spent() - before

matrix = np.random.default_rng(0).standard_normal((300, 300))
shared = multiply()
with one_blas_thread():
    alone = multiply()
try:
    with one_blas_thread():
        raise KeyError
except KeyError:
    pass
print(shared, alone, multiply())
'''


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="needs Linux's account of each thread")  # noqa: PTH110
def test_one_thread_multiplies_and_afterwards_as_many_as_before() -> None:
    """By the kernel's account of every thread: the others work outside, also after an error, and not inside."""
    import numpy as np

    if "openblas" not in str(np.show_config(mode="dicts")).lower():
        pytest.skip("numpy's BLAS is not OpenBLAS here")
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    answer = subprocess.run([sys.executable, "-c", SPENT], env=environment, capture_output=True, text=True, check=True)
    shared, alone, after = map(int, answer.stdout.split())
    assert alone < min(shared, after) / 20
