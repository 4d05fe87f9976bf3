"""How much weight stands among the first i points by one count and the first j by another: a wavelet matrix.

After Claude and Navarro (SPIRE 2012), of radix 4. Level by level, from the highest digit of the second rank, the points
are put in the order of that digit, those of equal digit in the order they had. With running sums, by digit, of the
number of points and of the weight of smaller digits, a look-up follows the digits of j and carries the first i along
as an interval.

Shapes: n points, m look-ups.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modscale.arrays import IntArray

DIGIT_BITS = 2
"""Of a rank, looked up at a time."""


class WaveletMatrix:
    """Points in the order of one count, ranked by another."""

    def __init__(self, rank: IntArray, weight: IntArray) -> None:
        """rank [n]: each point's rank by the second count, 0 to n - 1; weight [n]; both in the order of the first."""
        n, radix = len(rank), 1 << DIGIT_BITS
        self.levels: list[tuple[int, IntArray, NDArray[np.int32], IntArray]] = []
        for level in reversed(range(-(-n.bit_length() // DIGIT_BITS))):
            digit = ((rank >> (level * DIGIT_BITS)) & (radix - 1)).astype(np.uint8)
            points = np.zeros((n + 1, radix), dtype=np.int32)
            points[np.arange(1, n + 1), digit] = 1
            np.cumsum(points, axis=0, out=points)
            smaller = np.zeros((n + 1, radix), dtype=np.int64)
            for d in range(1, radix):
                np.cumsum(weight * (digit < d), out=smaller[1:, d])
            begin = np.cumsum(points[-1], dtype=np.int64) - points[-1]
            self.levels.append((level * DIGIT_BITS, begin, points.ravel(), smaller.ravel()))
            order = np.argsort(digit, kind="stable")
            rank, weight = rank.take(order), weight.take(order)

    def weight(self, first: IntArray, second: IntArray) -> IntArray:
        """[m] the weight of the points among the first `first` [m] whose rank is below `second` [m], each 0 to n."""
        total = np.zeros(len(first), dtype=np.int64)
        start, stop = np.zeros_like(first), first
        for shift, begins, points, smaller in self.levels:
            digit = (second >> shift) & ((1 << DIGIT_BITS) - 1)
            low, high = (start << DIGIT_BITS) + digit, (stop << DIGIT_BITS) + digit
            total += smaller.take(high) - smaller.take(low)
            if shift:
                begin = begins.take(digit)
                start, stop = begin + points.take(low), begin + points.take(high)
        return total
