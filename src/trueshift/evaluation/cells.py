"""Distances between cells, in blocks: what E-distance and MMD are made of.

A block of the distance matrix is one matrix product, ‖a − b‖² = ‖a‖² + ‖b‖² − 2ab, about a common centre, so that
little cancels. No matrix of all cells with all cells is kept.

The products are of float32, twice as fast as float64; all else is float64. About their mean, two cells are nearly at
right angles, so that the product is small beside the squares, and with it its error. On the cells of Kang 2018 and
Papalexi 2021 a distance is off by at most 3e-7 of itself, a mean of distances by 5e-9, an E-distance by 2e-7, where
distances are 35 to 54. Where any two cells are so near that one could be off by more than 1e-6, the block is made again
in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_BLOCK = 2**22  # distances at a time
_MOST = 2000  # cells that the median distance is taken over
_NEAR = 0.1  # ‖a − b‖² / (‖a‖² + ‖b‖²), 1 at right angles: down to here float32 is good enough


@dataclass(frozen=True, eq=False)
class Centred:
    """Cells about their mean, in float64: made once of a condition, for all that is asked about it."""

    centre: np.ndarray
    """Their mean, (G,)."""
    values: np.ndarray
    """What remains of each cell, (n, G)."""
    single: np.ndarray
    """The same in float32."""
    squares: np.ndarray
    """The square of its length, (n,)."""

    @classmethod
    def of(cls, cells: "np.ndarray | Centred", centre: np.ndarray | None = None) -> "Centred":
        """Centres ``cells`` (n, G), by default about their own mean, unless they are centred already."""
        if isinstance(cells, Centred):
            return cells
        centre = cells.mean(axis=0, dtype=np.float64) if centre is None else centre
        values = cells - centre
        with np.errstate(over="ignore"):
            return cls(centre, values, values.astype(np.float32), np.vecdot(values, values))

    def at(self, rows: np.ndarray | slice) -> "Centred":
        """Some of the cells, about the same centre."""
        return Centred(self.centre, self.values[rows], self.single[rows], self.squares[rows])

    def __len__(self) -> int:
        return len(self.values)

    @property
    def variance(self) -> np.ndarray:
        """Of each gene, n − 1 in the denominator, (G,); NaN for a single cell."""
        n = len(self)
        return np.einsum("ij,ij->j", self.values, self.values) / (n - 1 if n > 1 else np.nan)


Cells = np.ndarray | Centred
"""Cells (n, G), centred or not."""


def distances(cells: Cells, others: np.ndarray | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """Euclidean distances of ``others`` (n, G), by default the cells themselves, to ``cells`` (m, G).

    Yields blocks: rows of the others, and their distances (rows, m); that of a cell to itself is exactly 0.
    """
    cells = Centred.of(cells)
    n = len(cells if others is None else others)
    height = max(1, _BLOCK // max(1, len(cells)))
    for start in range(0, n, height):
        rows = slice(start, min(start + height, n))
        part = cells.at(rows) if others is None else Centred.of(others[rows], cells.centre)
        itself = (np.arange(len(part)), np.arange(rows.start, rows.stop)) if others is None else ([], [])
        squares = part.squares[:, None] + cells.squares
        with np.errstate(over="ignore", invalid="ignore"):
            squared = squares - 2 * (part.single @ cells.single.T).astype(np.float64)
            enough = (squared > _NEAR * squares) & (squared < 3 * squares)  # at most 2, unless float32 overflows
        enough[itself] = True
        if not enough.all():
            squared = squares - 2 * (part.values @ cells.values.T)
        squared[itself] = 0  # rounding leaves a little
        yield rows, np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


def kernel(distance: np.ndarray, bandwidth: float) -> np.ndarray:
    """The Gaussian kernel exp(−d² / 2σ²) of distances, σ the bandwidth."""
    return np.exp(distance**2 / (-2 * bandwidth**2))


def pairs_of(cells: Cells) -> tuple[float, float, float]:
    """Median distance, mean distance and mean kernel over pairs of different cells of (n, G); NaN for one cell.

    The median is the bandwidth of the kernel. Of more than 2,000 cells it is that of 2,000, taken evenly by row.
    """
    if len(cells) < 2:
        return (float("nan"),) * 3
    cells = Centred.of(cells)
    few, some = len(cells) <= _MOST, cells
    if not few:
        even = np.linspace(0, len(cells) - 1, _MOST).astype(int)
        some = cells.at(even)
    full = np.concatenate([block for _, block in distances(some)])
    pairs = full[~np.eye(len(some), dtype=bool)]  # every pair twice
    middle = float(np.median(pairs))
    bandwidth = middle if middle > 0 else float("nan")
    if few:
        return bandwidth, float(pairs.mean()), float(kernel(pairs, bandwidth).mean())
    distance, similarity = within(cells, bandwidth)[:, 0]
    return bandwidth, float(distance), float(similarity)


def to_each(true: np.ndarray, predicted: Cells, bandwidth: float) -> np.ndarray:
    """For each true cell its mean distance to, and its mean kernel with, the predicted cells: shape (2, n)."""
    found = np.empty((2, len(true)))
    for rows, block in distances(predicted, true):
        found[0, rows] = block.mean(axis=1)
        found[1, rows] = kernel(block, bandwidth).mean(axis=1)
    return found


def within(cells: Cells, bandwidths: float | np.ndarray) -> np.ndarray:
    """Mean distance and mean kernel over pairs of different cells (n, G), for B bandwidths: shape (2, B).

    NaN for one cell.
    """
    bandwidths = np.atleast_1d(bandwidths)
    n, sums = len(cells), np.zeros((2, len(bandwidths)))
    for _, block in distances(cells):
        sums[0] += block.sum()
        sums[1] += [kernel(block, bandwidth).sum() for bandwidth in bandwidths]
    sums[1] -= n  # the kernel of a cell with itself is 1
    return sums / (n * (n - 1)) if n > 1 else np.full(sums.shape, np.nan)


def within_and_between(cells: Cells, bandwidth: float, parts: np.ndarray) -> np.ndarray:
    """Mean distance and mean kernel over pairs of cells in each part, in the rest, and across: shape (3, 2, P).

    ``parts`` (P, n) are masks of ``cells`` (n, G), and the rest are those it leaves. NaN where there is no pair of
    different cells.
    """
    inside = parts.astype(np.float64)
    outside = 1 - inside
    sums = np.zeros((3, 2, len(parts)))
    for rows, block in distances(cells):
        for i, values in enumerate((block, kernel(block, bandwidth))):
            to_inside, to_outside = values @ inside.T, values @ outside.T  # sums over the cells of each, (rows, P)
            for j, (of, to) in enumerate(((inside, to_inside), (outside, to_outside), (inside, to_outside))):
                sums[j, i] += np.einsum("pb,bp->p", of[:, rows], to)
    n, m = inside.sum(axis=1), outside.sum(axis=1)
    sums[:2, 1] -= n, m  # the kernel of a cell with itself is 1
    pairs = np.stack([n * (n - 1), m * (m - 1), n * m])[:, None]
    return np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0)
