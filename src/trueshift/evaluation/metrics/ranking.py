"""Genes ranked by a score, with ties. Tied genes share their places: order within a tie is never a merit."""

from typing import NamedTuple

import numpy as np


class Ranking(NamedTuple):
    """Genes of C conditions, best first; all arrays have shape (C, G) and one entry per place."""

    gene: np.ndarray
    """Position of the gene at this place."""
    first: np.ndarray
    """The first place of those it ties with, counted from 0."""
    last: np.ndarray
    """The place after the last of them."""


def rank_genes(*keys: np.ndarray) -> Ranking:
    """Ranks by the first key (C, G), lowest first; equal ones by the next; equal in all is a tie."""
    gene = np.lexsort(keys[::-1], axis=1)
    starts = np.zeros(gene.shape, dtype=bool)
    starts[:, 0] = True
    for key in keys:
        ordered = np.take_along_axis(key, gene, axis=1)
        starts[:, 1:] |= ordered[:, 1:] != ordered[:, :-1]
    n_genes = gene.shape[1]
    place = np.arange(n_genes)
    first = np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    ends = np.roll(starts, -1, axis=1)
    last = np.minimum.accumulate(np.where(ends, place + 1, n_genes)[:, ::-1], axis=1)[:, ::-1]
    return Ranking(gene, first, last)


def expected_hits(ranking: Ranking, wanted: np.ndarray, n: np.ndarray | int) -> np.ndarray:
    """How many of the ``wanted`` genes (C, G) are among the first n (scalar or (C,)), shape (C,).

    Where place n falls into a tie, the mean over all orders of the tied genes.
    """
    chance = np.clip((np.reshape(n, (-1, 1)) - ranking.first) / (ranking.last - ranking.first), 0, 1)
    return (np.take_along_axis(wanted, ranking.gene, axis=1) * chance).sum(axis=1)


def average_precision(ranking: Ranking, wanted: np.ndarray) -> np.ndarray:
    """Area under the precision-recall steps, shape (C,), NaN without wanted genes.

    As ``sklearn.metrics.average_precision_score``: tied genes are found together.
    """
    hit = np.take_along_axis(wanted, ranking.gene, axis=1)
    found = np.take_along_axis(hit.cumsum(axis=1), ranking.last - 1, axis=1)
    return share((hit * found / ranking.last).sum(axis=1), hit.sum(axis=1))


def roc_auc(ranking: Ranking, wanted: np.ndarray) -> np.ndarray:
    """Chance that a wanted gene stands above another one, ties half, shape (C,); NaN without one of each.

    The rank-sum form of the area under the ROC curve (Hanley & McNeil, Radiology 1982).
    """
    hit = np.take_along_axis(wanted, ranking.gene, axis=1)
    n = hit.sum(axis=1)
    above = (hit * (ranking.first + ranking.last - 1) / 2).sum(axis=1)  # genes above each wanted one, ties half
    return 1 - share(above - n * (n - 1) / 2, n * (hit.shape[1] - n))


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
