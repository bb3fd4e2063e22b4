"""The rank-sum test of many genes at once: cells of a condition, and any parts of them, against controls.

Wilcoxon, Biometrics Bulletin 1945; Mann & Whitney, Ann. Math. Stat. 1947. Normal approximation, variance corrected
for ties, no continuity correction. The controls of a context are sorted once and searched by all its conditions. A
cell's place among the controls does not depend on which other cells are tested with it, so the halves of a condition
are tested together: U is a sum over cells, and only runs of equal values are counted anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from trueshift.evaluation.places import places

_BLOCK = 2**21  # values that are placed at a time: bounds memory for conditions of many cells
_FEW = 2**18  # of them: caches have room for what is made of so many


@dataclass(frozen=True)
class SortedCells:
    """Cells sorted within each gene.

    ``values`` (G, N); ``length`` (G, N), at the first of equal values how many there are, undefined elsewhere;
    ``ties`` (G,), the sum of t³ − t over runs of t equal values.
    """

    values: np.ndarray
    length: np.ndarray
    ties: np.ndarray

    @classmethod
    def of(cls, cells: np.ndarray) -> "SortedCells":
        """Sorts ``cells``, shape (N, G), N ≥ 1."""
        values = cells.T.copy()
        values.sort(axis=1)
        start = _starts(values)
        runs = np.diff(start, append=values.size)
        length = np.zeros(values.size, dtype=np.int32)
        length[start] = runs
        tied = np.flatnonzero(runs > 1)
        weights = _cubic(runs[tied].astype(np.float64))
        ties = np.bincount(start[tied] // values.shape[1], weights=weights, minlength=len(values))
        return cls(values, length.reshape(values.shape), ties)


def rank_sum(cells: np.ndarray, controls: SortedCells, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided rank-sum tests of each gene, of several parts of the same cells.

    ``cells`` (n, G) are compared with ``controls`` of the same genes; ``parts`` (P, n) are masks of the cells that each
    test takes. Returns z, shape (P, G), positive where the cells are higher, and p. A gene that is constant over all
    cells has z = 0 and p = 1; a part without cells has NaN.
    """
    n_genes = cells.shape[1]
    width = max(1, _BLOCK // max(1, len(cells)))
    z = np.empty((len(parts), n_genes))
    for start in range(0, n_genes, width):
        block = slice(start, start + width)
        z[:, block] = _z(cells[:, block], controls.values[block], controls.length[block], controls.ties[block], parts)
    return z, 2 * ndtr(-np.abs(z))


def wilcoxon(conditions: Sequence[np.ndarray], controls: SortedCells) -> tuple[np.ndarray, np.ndarray]:
    """z and p, both (C, G), of all cells of several conditions against the same controls.

    ``conditions`` are C arrays (n, G), n ≥ 1. The numbers are those of :func:`rank_sum`; here the cells of all
    conditions find their places together.
    """
    sizes = np.array([len(cells) for cells in conditions])
    n_genes, m = controls.values.shape
    z = np.empty((len(conditions), n_genes))
    width, few = (max(1, size // int(sizes.sum())) for size in (_BLOCK, _FEW))

    for start in range(0, n_genes, width):
        block = slice(start, min(start + width, n_genes))
        ordered = np.empty((block.stop - start, sizes.sum()), dtype=conditions[0].dtype)
        np.concatenate([cells[:, block].T for cells in conditions], axis=1, out=ordered)
        for part in np.split(ordered, np.cumsum(sizes)[:-1], axis=1):
            part.sort(axis=1)
        for first in range(0, len(ordered), few):
            genes = slice(start + first, min(start + first + few, block.stop))
            some = ordered[first : first + few], controls.values[genes], controls.length[genes]
            u, tied = _of_genes(*some, sizes)
            z[:, genes] = _standardised(u, tied + controls.ties[genes, None], sizes, m).T
    return z, 2 * ndtr(-np.abs(z))


def adjust(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p values (J. R. Stat. Soc. B 1995) over the last axis, shape (…, G)."""
    order = np.argsort(p, axis=-1)
    n = p.shape[-1]
    raised = np.take_along_axis(p, order, axis=-1) * (n / np.arange(1, n + 1))
    raised = np.minimum.accumulate(raised[..., ::-1], axis=-1)[..., ::-1]
    adjusted = np.empty_like(raised)
    np.put_along_axis(adjusted, order, np.minimum(raised, 1.0), axis=-1)
    return adjusted


def _of_genes(
    ordered: np.ndarray, controls: np.ndarray, length: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """U of genes and what their cells add to Σ t³ − t, both (G, C).

    ``ordered`` (G, N) are the cells of C conditions of ``sizes``, ascending within each; ``controls`` and ``length``
    (G, M) those of :class:`SortedCells`. Cells that equal the lowest control, the zeros of sparse data, are one run in
    each condition: counted, not searched. The others stand one after the other, a segment for each gene and condition.
    """
    m = controls.shape[1]
    other = ordered != controls[:, :1]
    x, met = ordered[other], length[:, :1]
    count = np.add.reduceat(other, np.cumsum(sizes) - sizes, axis=1, dtype=np.intp)
    lowest, end = sizes - count, np.cumsum(count).reshape(count.shape)
    place, equal = np.empty(len(x), dtype=np.intp), np.empty(len(x), dtype=bool)
    for gene, part in enumerate(map(slice, end[:, 0] - count[:, 0], end[:, -1])):
        place[part], equal[part] = places(x[part], controls[gene], int(met[gene, 0]))
    total = np.zeros(len(x) + 1, dtype=np.intp)
    np.cumsum(place, out=total[1:])
    u = total[end] - total[end - count] + lowest * met / 2
    tied = _cubic(met.astype(np.float64) + lowest) - _cubic(met.astype(np.float64))

    in_run, alike = equal.copy(), x[1:] == x[:-1]  # equal to a control or to the cell beside it
    in_run[1:] |= alike
    in_run[:-1] |= alike
    cell = np.flatnonzero(in_run)
    if len(cell):
        run, of = x[cell], end.ravel().searchsorted(cell, side="right")
        start = np.flatnonzero(np.append(True, (run[1:] != run[:-1]) | (of[1:] != of[:-1])))
        cell, of, b = cell[start], of[start], np.append(start[1:], len(run)) - start
        at = of // len(sizes) * m + np.minimum(place[cell], m - 1)
        e = np.where(equal[cell], length.ravel()[at], 0).astype(np.float64)
        u += np.bincount(of, weights=b * e / 2, minlength=u.size).reshape(u.shape)
        tied += np.bincount(of, weights=_cubic(e + b) - _cubic(e), minlength=u.size).reshape(u.shape)
    return u, tied


def _z(cells: np.ndarray, values: np.ndarray, length: np.ndarray, ties: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """z of a block of genes, shape (P, G)."""
    (n_genes, m), n = values.shape, len(cells)
    columns = np.ascontiguousarray(cells.T)
    order = np.argsort(columns, axis=1)
    ordered = np.take_along_axis(columns, order, axis=1)
    below = np.empty((n_genes, n), dtype=np.int64)  # controls below each cell
    for gene in range(n_genes):
        below[gene] = values[gene].searchsorted(ordered[gene])
    at = np.minimum(below, m - 1)
    at += np.arange(n_genes)[:, None] * m
    equal = np.where(values.take(at) == ordered, length.take(at), 0)

    share = parts.astype(np.float64).T  # (n, P)
    u = _sums(below + equal / 2, order, share)
    tied = ties[:, None] + _ties(ordered, order, equal, share)
    return _standardised(u, tied, share.sum(axis=0), m).T


def _standardised(u: np.ndarray, tied: np.ndarray, size: np.ndarray, m: int) -> np.ndarray:
    """z from U and Σ t³ − t, both (…, P), of P tests of ``size`` cells against m controls."""
    total = size + m
    spread = total + 1 - tied / (total * np.maximum(total - 1, 1))  # 0 if all cells are equal, at least 3 if not
    varies = spread > 1
    scale = np.sqrt(np.where(varies, size * m / 12 * spread, 1))
    return np.where(varies, u - size * m / 2, 0) / np.where(scale > 0, scale, np.nan)


def _sums(ordered: np.ndarray, order: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Sums over the cells of each part, (G, P), of what is known of the sorted cells, (G, n)."""
    by_cell = np.empty(ordered.shape)
    np.put_along_axis(by_cell, order, ordered, axis=1)
    return by_cell @ share


def _ties(ordered: np.ndarray, order: np.ndarray, equal: np.ndarray, share: np.ndarray) -> np.ndarray:
    """What the cells of each part add to Σ t³ − t, shape (G, P).

    A run of b cells that meets e equal controls adds (e + b)³ − (e + b) − (e³ − e). For a run of one cell that is
    3e² + 3e, a sum over cells; longer runs, mostly the zeros of sparse data, are counted for each part.
    """
    n = ordered.shape[1]
    start = _starts(ordered)
    size = np.diff(start, append=ordered.size)
    long = np.flatnonzero(size > 1)
    in_run = np.flatnonzero(np.repeat(size > 1, size))
    e = equal.astype(np.float64)
    alone = 3 * e * (e + 1)
    alone.ravel()[in_run] = 0
    added = _sums(alone, order, share)
    if len(long):
        b = np.add.reduceat(share[order.ravel()[in_run]], np.cumsum(size[long]) - size[long], axis=0)  # (runs, P)
        met = e.ravel()[start[long], None]
        np.add.at(added, start[long] // n, _cubic(met + b) - _cubic(met))
    return added


def _starts(ordered: np.ndarray) -> np.ndarray:
    """Flat positions at which a run of equal values begins in the sorted rows of (G, N)."""
    new = np.ones(ordered.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return np.flatnonzero(new)


def _cubic(t: Any) -> Any:
    return t * (t * t - 1)  # NumPy's power is slow
