"""Distances between cells, in blocks: what E-distance and MMD are made of.

A block of the distance matrix is one matrix product, ‖a − b‖² = ‖a‖² + ‖b‖² − 2ab, in float64 and about a common
centre, so that little cancels. No matrix of all cells with all cells is kept.
"""

from collections.abc import Iterator

import numpy as np

_BLOCK = 2**22  # distances at a time
_MOST = 2000  # cells that the median distance is taken over


def distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Euclidean distances of the rows of ``a`` (n, G) to those of ``b`` (m, G), as blocks (rows of a, m)."""
    centre = b.mean(axis=0, dtype=np.float64)
    b = b - centre
    norm = np.einsum("ij,ij->i", b, b)
    height = max(1, _BLOCK // max(1, len(b)))
    for start in range(0, len(a), height):
        rows = slice(start, min(start + height, len(a)))
        part = a[rows] - centre
        squared = part @ b.T
        squared *= -2
        squared += norm
        squared += np.einsum("ij,ij->i", part, part)[:, None]
        yield rows, np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


def kernel(distance: np.ndarray, bandwidth: float) -> np.ndarray:
    """The Gaussian kernel exp(−d² / 2σ²) of distances, σ the bandwidth."""
    return np.exp(distance**2 / (-2 * bandwidth**2))


def pairs_of(cells: np.ndarray) -> tuple[float, float, float]:
    """Median distance, mean distance and mean kernel over pairs of different cells of (n, G); NaN for one cell.

    The median is the bandwidth of the kernel. Of more than 2,000 cells it is that of 2,000, taken evenly by row.
    """
    if len(cells) < 2:
        return (float("nan"),) * 3
    few = len(cells) <= _MOST
    some = cells if few else cells[np.linspace(0, len(cells) - 1, _MOST).astype(int)]
    full = np.concatenate([block for _, block in distances(some, some)])
    pairs = full[~np.eye(len(some), dtype=bool)]  # every pair twice
    middle = float(np.median(pairs))
    bandwidth = middle if middle > 0 else float("nan")
    if few:
        return bandwidth, float(pairs.mean()), float(kernel(pairs, bandwidth).mean())
    distance, similarity = within(cells, bandwidth)[:, 0]
    return bandwidth, float(distance), float(similarity)


def to_each(true: np.ndarray, predicted: np.ndarray, bandwidth: float) -> np.ndarray:
    """For each true cell its mean distance to, and its mean kernel with, the predicted cells: shape (2, n)."""
    found = np.empty((2, len(true)))
    for rows, block in distances(true, predicted):
        found[0, rows] = block.mean(axis=1)
        found[1, rows] = kernel(block, bandwidth).mean(axis=1)
    return found


def within(cells: np.ndarray, bandwidth: float, parts: np.ndarray | None = None) -> np.ndarray:
    """Mean distance and mean kernel over pairs of different cells, of each part: shape (2, P).

    ``parts`` (P, n) says which of the ``cells`` (n, G) each part takes, by default all of them. NaN where a part has
    fewer than two cells.
    """
    chosen = np.ones((1, len(cells))) if parts is None else parts.astype(np.float64)
    return _means(cells, chosen, chosen, bandwidth, same=True)


def within_at(cells: np.ndarray, bandwidths: np.ndarray) -> np.ndarray:
    """:func:`within` of all ``cells`` for several bandwidths (B,), from one matrix of distances: shape (2, B)."""
    n, sums = len(cells), np.zeros((2, len(bandwidths)))
    if n < 2:
        return np.full(sums.shape, np.nan)
    for rows, block in distances(cells, cells):
        block[np.arange(len(block)), np.arange(rows.start, rows.stop)] = 0
        sums[0] += block.sum()
        sums[1] += [kernel(block, bandwidth).sum() for bandwidth in bandwidths]
    sums[1] -= n  # the kernel of a cell with itself is 1
    return sums / (n * (n - 1))


def between(cells: np.ndarray, bandwidth: float, parts: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean distance and mean kernel between disjoint parts of the same cells, both (P, n): shape (2, P)."""
    return _means(cells, parts.astype(np.float64), others.astype(np.float64), bandwidth, same=False)


def _means(cells: np.ndarray, parts: np.ndarray, others: np.ndarray, bandwidth: float, same: bool) -> np.ndarray:
    sums = np.zeros((2, len(parts)))
    for rows, block in distances(cells, cells):
        if same:  # rounding leaves a little on the diagonal
            block[np.arange(len(block)), np.arange(rows.start, rows.stop)] = 0
        for i, values in enumerate((block, kernel(block, bandwidth))):
            sums[i] += np.einsum("pb,bp->p", parts[:, rows], values @ others.T)
    n, m = parts.sum(axis=1), others.sum(axis=1)
    if same:
        sums[1] -= n  # the kernel of a cell with itself is 1
    pairs = n * (m - 1) if same else n * m
    return np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0)
