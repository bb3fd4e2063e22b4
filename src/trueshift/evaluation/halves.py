"""Random halves of the test cells: what floors, models and the technical duplicate are compared on.

The test cells of a condition are halved several times. Half B plays the truth, with its own tests and gene order
against the reference controls; half A plays the prediction of the technical duplicate. A model's score against the
same halves B can then be set beside the duplicate's. No cell is on both sides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar

import numpy as np

from trueshift.contract import atomic, check_intact
from trueshift.evaluation import cells as distances
from trueshift.evaluation.pair import CellTerms, Tests
from trueshift.evaluation.reference import HALVES, TestCells, de_order
from trueshift.evaluation.truth import Truth
from trueshift.evaluation.wilcoxon import SortedCells, adjust, rank_sum

ENOUGH = 20  # test cells from which a condition is halved


@dataclass(frozen=True)
class Halves:
    """H halvings of the C' conditions with at least 20 test cells, of G genes; what is true of each half B.

    Arrays (H, C', G) are float32, ``order`` int32; they mean what those of :class:`Truth` mean.
    """

    conditions: np.ndarray
    """Positions among the conditions of the truth, (C',)."""
    in_a: np.ndarray
    """Which rows of ``truth.h5ad`` are in half A, (H, N) bool; the other test cells are half B."""
    mean: np.ndarray
    variance: np.ndarray
    z: np.ndarray
    p_adjusted: np.ndarray
    order: np.ndarray
    within: np.ndarray
    """Mean distance and mean kernel between cells of half B, with the bandwidth of all test cells: (H, 2, C')."""

    def __len__(self) -> int:
        return len(self.in_a)

    def truth(self, halving: int, truth: Truth) -> Truth:
        """``truth`` of half B. What describes a condition (n_deg, n_cells, flags) stays that of all its test cells."""
        arrays = {name: getattr(self, name)[halving] for name in ("mean", "variance", "z", "p_adjusted", "order")}
        arrays["p_value"] = np.full(arrays["z"].shape, np.nan)
        half = truth.take(self.conditions, **arrays)
        half.conditions[["distance_within", "kernel_within"]] = self.within[halving].T
        return half

    def members(self, halving: int, test: TestCells) -> list[np.ndarray]:
        """The rows of half B of each condition."""
        blocks = [test.of(i) for i in self.conditions]
        return [rows[~self.in_a[halving, rows]] for rows in blocks]


@dataclass(frozen=True)
class Duplicates:
    """Half A of each halving as a prediction, the technical duplicate; arrays as in :class:`Halves`."""

    mean: np.ndarray
    variance: np.ndarray
    z: np.ndarray
    p_adjusted: np.ndarray
    within: np.ndarray
    cross: np.ndarray
    """Mean distance and mean kernel of a cell in half A with one in half B: (H, 2, C')."""

    def test(self, halving: int) -> Tests:
        """Half A against the input controls."""
        return Tests(self.z[halving], self.p_adjusted[halving])

    def terms(self, halving: int, halves: Halves) -> tuple[CellTerms, CellTerms]:
        """What E-distance and MMD are made of."""
        distance, kernel = (
            CellTerms(self.cross[halving, i], halves.within[halving, i], self.within[halving, i]) for i in range(2)
        )
        return distance, kernel


def halvings(test: TestCells, truth: Truth, settings: Mapping[str, Any]) -> tuple[Halves, Duplicates]:
    """Random halvings (``duplicate_halvings``, ``seed`` of ``settings``) of all conditions with enough test cells."""
    conditions = np.flatnonzero(truth.conditions["n_cells"] >= ENOUGH)
    in_a = draw_halves(test, conditions, int(settings["duplicate_halvings"]), int(settings["seed"]))
    return halve(test, truth, in_a, conditions)


def draw_halves(test: TestCells, conditions: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Masks (n, N) over the rows of ``truth.h5ad``: a random half (rounded down) of the cells of every condition."""
    masks = np.zeros((n, len(test.role)), dtype=bool)
    for halving, mask in enumerate(masks):
        rng = np.random.default_rng([seed, halving])
        for i in conditions:
            rows = test.of(i)
            mask[rng.permutation(rows)[: len(rows) // 2]] = True
    return masks


def halve(test: TestCells, truth: Truth, in_a: np.ndarray, conditions: np.ndarray) -> tuple[Halves, Duplicates]:
    """Both sides of every halving ``in_a`` (H, N) of some ``conditions`` (positions among those of the truth).

    The cells of a condition are placed among the controls once, whatever the number of halvings.
    """
    n, n_conditions, n_genes = len(in_a), len(conditions), len(truth.genes)
    sides = [_Side((n, n_conditions, n_genes)) for _ in range(2)]
    cross = np.full((n, 2, n_conditions), np.nan, dtype=np.float32)
    place = {int(i): c for c, i in enumerate(conditions)}
    for group in test.same_controls():
        members = np.array([place[int(i)] for i in group if int(i) in place], dtype=int)
        testable = truth.controls_suffice[group].all() and test.testable(group[0])
        controls: list[SortedCells | None] = [None, None]
        if testable and len(members):
            controls = [SortedCells.of(test.dense(test.controls(group[0], half))) for half in HALVES]
        for c in members:
            rows = test.of(conditions[c])
            cells = test.dense(rows)
            bandwidth = float(truth.conditions["bandwidth"].iloc[conditions[c]])
            parts = [in_a[:, rows], ~in_a[:, rows]]
            *within, across = distances.within_and_between(cells, bandwidth, parts[0])
            for side, part, sorted_controls, pairs in zip(sides, parts, controls, within, strict=True):
                side.fill(c, cells, part, sorted_controls)
                side.within[:, :, c] = pairs.T
            cross[:, :, c] = across.T
    a, b = sides
    control = truth.control_reference[conditions]
    genes = truth.genes.astype(str)
    order = np.stack([de_order(p, x - control, genes) for p, x in zip(b.p_adjusted, b.mean, strict=True)])
    halves = Halves(conditions, in_a, b.mean, b.variance, b.z, b.p_adjusted, order, b.within)
    return halves, Duplicates(a.mean, a.variance, a.z, a.p_adjusted, a.within, cross)


class _Side:
    """One half of every halving, filled condition by condition."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.mean, self.variance, self.z, self.p_adjusted = (np.full(shape, np.nan, dtype=np.float32) for _ in range(4))
        self.within = np.full((shape[0], 2, shape[1]), np.nan, dtype=np.float32)

    def fill(self, c: SupportsIndex, cells: np.ndarray, parts: np.ndarray, controls: SortedCells | None) -> None:
        """``parts`` (H, n) are the cells of this half in each halving."""
        size = parts.sum(axis=1, keepdims=True).astype(np.float64)
        values = cells.astype(np.float64)
        centre = values.mean(axis=0)
        share = parts.astype(np.float64)
        shifted = share @ (values - centre) / size  # about the centre, so that the squares cancel little
        squares = share @ (values - centre) ** 2 / size
        self.mean[:, c] = centre + shifted
        self.variance[:, c] = (squares - shifted**2) * size / (size - 1)
        if controls is not None:
            z, p = rank_sum(cells, controls, parts)
            self.z[:, c], self.p_adjusted[:, c] = z, adjust(p)


T = TypeVar("T", Halves, Duplicates)


def write_arrays(arrays: Halves | Duplicates, path: str | Path) -> None:
    """Writes ``halves.npz`` or ``duplicates.npz``, without pickled parts."""
    with atomic(path) as temporary:
        np.savez(temporary, **{field.name: getattr(arrays, field.name) for field in fields(arrays)})


def read_arrays(path: str | Path, of: type[T]) -> T:
    """Reads what :func:`write_arrays` wrote."""
    check_intact(path)
    with np.load(path, allow_pickle=False) as file:
        return of(**{field.name: file[field.name] for field in fields(of)})
