"""E-distance and MMD² of whole scores against geomloss."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from geomloss import SamplesLoss
from scipy.spatial.distance import pdist

BASE = np.linspace(0.5, 4, 25)
FLOOR = 1e-4


@pytest.fixture(scope="module")
def scored(screen: Callable) -> tuple:
    rates = {"P": BASE + 0.8, "Q": BASE * np.linspace(0.3, 1.5, 25)}
    made = screen(rates, {"P": BASE + 0.5, "Q": BASE}, BASE)
    made = made._replace(predicted={"P": made.predicted["P"][:37], "Q": made.predicted["Q"]})  # n ≠ m
    return made, *made.ours()


def loss(name: str, x: np.ndarray, y: np.ndarray, **settings: float) -> float:
    kernel = SamplesLoss(name, backend="tensorized", **settings)
    return float(kernel(*(torch.from_numpy(a.astype(np.float64)) for a in (x, y))))


def test_e_distance(scored: tuple) -> None:
    """geomloss "energy" is ½ of the E-distance, with means over all pairs (V-statistics): twice it, then each mean
    within a sample of n moves from n² to n(n − 1) pairs. It takes no distance below 1e-4, not even that of a cell to
    itself, which adds 1e-4 / n to such a mean."""
    made, ours, _ = scored
    for label in ("P", "Q"):
        x, y = made.true[label], made.predicted[label]
        within = [2 * pdist(a.astype(np.float64)).sum() / len(a) ** 2 for a in (x, y)]
        expected = 2 * loss("energy", x, y) + sum(FLOOR / len(a) for a in (x, y))
        expected -= sum(w / (len(a) - 1) for w, a in zip(within, (x, y), strict=True))
        assert ours["value", "e_distance"][label] == pytest.approx(expected, abs=1e-8)


def test_mmd2(scored: tuple) -> None:
    """geomloss "gaussian" with blur σ is ½ MMD² with means over all pairs, k = exp(−d²/2σ²): twice it, then each mean
    within a sample of n loses the n pairs of a cell with itself, whose k is 1. σ is the median distance in truth."""
    made, ours, truth = scored
    for i, label in enumerate(("P", "Q")):
        x, y = made.true[label], made.predicted[label]
        sigma = float(truth.conditions["bandwidth"][i])
        assert sigma == pytest.approx(np.median(pdist(x.astype(np.float64))), rel=1e-6)
        expected = 2 * loss("gaussian", x, y, blur=sigma)
        for a in (x, y):
            n = len(a)
            mean = 2 * np.exp(-(pdist(a.astype(np.float64)) ** 2) / (2 * sigma**2)).sum() / (n * (n - 1))
            expected += mean - (mean * (n - 1) + 1) / n
        assert ours["value", "mmd2"][label] == pytest.approx(expected, abs=1e-7)
