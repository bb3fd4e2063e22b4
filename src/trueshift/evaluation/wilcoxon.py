"""The rank-sum test of many genes at once: truth cells against controls.

Wilcoxon, Biometrics Bulletin 1945; Mann & Whitney, Ann. Math. Stat. 1947. Normal approximation, variance corrected
for ties, no continuity correction. The controls of a context are sorted once and searched by all its conditions, and
a run of equal values (the zeros of sparse data) is searched once; nothing is ranked again for each condition.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr


@dataclass(frozen=True)
class SortedCells:
    """Cells sorted within each gene: ``values`` (G, N), and ``ties`` (G,), the sum of t³ − t over equal values."""

    values: np.ndarray
    ties: np.ndarray

    @classmethod
    def of(cls, cells: np.ndarray) -> "SortedCells":
        """Sorts ``cells``, shape (N, G)."""
        values = np.sort(np.ascontiguousarray(cells.T), axis=1)
        _, length, first = _runs(values)
        return cls(values, np.add.reduceat(_cubic(length), first))


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of equal values in the sorted rows of (G, N): value and length of each, and the first run of each row."""
    new = np.ones(values.shape, dtype=bool)
    new[:, 1:] = values[:, 1:] != values[:, :-1]
    start = np.flatnonzero(new)
    first = np.concatenate([[0], np.cumsum(new.sum(axis=1))[:-1]])
    return values.ravel()[start], np.diff(start, append=values.size).astype(np.float64), first


def _cubic(t: np.ndarray) -> np.ndarray:
    return t**3 - t


def wilcoxon(cells: np.ndarray, controls: SortedCells) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided rank-sum test of each gene.

    ``cells`` has shape (n, G), n ≥ 1; ``controls`` holds m ≥ 1 cells of the same genes. Returns z, shape (G,),
    positive where the cells are higher, and p. A gene that is constant over all cells has z = 0 and p = 1.
    """
    n, m = len(cells), controls.values.shape[1]
    value, length, first = _runs(np.sort(np.ascontiguousarray(cells.T), axis=1))
    below, up_to = np.empty(len(value)), np.empty(len(value))
    for gene, (start, stop) in enumerate(zip(first, [*first[1:], len(value)], strict=True)):
        below[start:stop] = controls.values[gene].searchsorted(value[start:stop], side="left")
        up_to[start:stop] = controls.values[gene].searchsorted(value[start:stop], side="right")
    equal = up_to - below
    u = np.add.reduceat(length * (below + up_to) / 2, first)
    ties = controls.ties + np.add.reduceat(_cubic(equal + length) - _cubic(equal), first)
    total = n + m
    spread = total + 1 - ties / (total * max(total - 1, 1))  # 0 if all cells are equal, at least 3 if one differs
    varies = spread > 1
    z = np.zeros(len(first))
    z[varies] = (u[varies] - n * m / 2) / np.sqrt(n * m / 12 * spread[varies])
    return z, 2 * ndtr(-np.abs(z))


def adjust(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p values (J. R. Stat. Soc. B 1995) of one condition, shape (G,)."""
    order = np.argsort(p)
    raised = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty_like(raised)
    adjusted[order] = np.minimum.accumulate(raised[::-1])[::-1]
    return np.minimum(adjusted, 1.0)
