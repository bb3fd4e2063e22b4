"""A constant must not win where nothing happens.

No perturbation has an effect. The prediction is the same for all conditions: the mean of treated training cells.
Subtracting one control mean from both truth and prediction puts its noise into both, and choosing the top genes
sharpens it. With a control mean of its own on each side, nothing is left to correlate.

10,716 genes, 100 conditions, each with its own draw of 50 + 50 controls and 50 treated cells; Poisson counts, rates
with a between-gene log-SD of .4. Made ten contexts at a time: about 400 MB at most, 20 s of computing.
"""

from collections.abc import Callable
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from profile_scores import score_profiles

from trueshift.evaluation.metrics.topk import pearson2_topk, pearson_topk, r2_topk
from trueshift.evaluation.pair import Pair
from trueshift.evaluation.reference import truth_statistics
from trueshift.evaluation.truth import Truth

pytestmark = pytest.mark.slow
GENES, CONTEXTS, BLOCKS, CELLS = 10_716, 10, 10, 50


class Block(NamedTuple):
    truth: Truth
    constant: np.ndarray


@pytest.fixture(scope="module")
def blocks(build_truth: Callable[..., ad.AnnData]) -> list[Block]:
    rng = np.random.default_rng(7)
    rate = np.exp(rng.normal(0.5, 0.4, size=GENES))
    genes = [f"g{i}" for i in range(GENES)]

    log1p = np.log1p(np.arange(1000, dtype=np.float32))  # looked up: counts are small

    def cells(n: int) -> np.ndarray:
        return log1p[rng.poisson(rate, size=(n, GENES))]

    treated_mean = np.mean([cells(100).mean(axis=0) for _ in range(5)], axis=0)
    made = []
    for _ in range(BLOCKS):
        names = [f"line{i}" for i in range(CONTEXTS)]
        file = build_truth(
            {(name, "P", "1"): cells(CELLS) for name in names},
            {name: (cells(CELLS), cells(CELLS)) for name in names},
            genes=genes,
            dense=True,
        )
        truth = truth_statistics(file)
        made.append(Block(truth, np.broadcast_to(treated_mean, truth.mean.shape)))
    return made


def mean_over_conditions(
    metric: Callable[..., object], blocks: list[Block], pair: Callable[[Truth, np.ndarray], Pair]
) -> float:
    return float(np.mean([metric(pair(*block), 20).value for block in blocks]))  # type: ignore[attr-defined]


def shared_control(truth: Truth, x_hat: np.ndarray) -> Pair:
    """The field's form: one control mean, seen by the model, subtracted from both; genes by |difference|."""
    control = truth.control_input
    order = np.argsort(-np.abs(truth.mean - control), axis=1)
    return Pair.of(truth.mean, x_hat, control, control, order)


def shared_reference(truth: Truth, x_hat: np.ndarray) -> Pair:
    """Controls held back from the model, but subtracted from both sides; genes by the truth's tests."""
    return Pair.of(truth.mean, x_hat, truth.control_reference, truth.control_reference, truth.order)


def ours(truth: Truth, x_hat: np.ndarray) -> Pair:
    return Pair.of(truth.mean, x_hat, truth.control_reference, truth.control_input, truth.order)


def test_shared_controls_let_a_constant_win(blocks: list[Block]) -> None:
    assert mean_over_conditions(pearson2_topk, blocks, shared_control) >= 0.8
    assert mean_over_conditions(pearson2_topk, blocks, shared_reference) >= 0.5


def test_split_controls_do_not(blocks: list[Block]) -> None:
    assert mean_over_conditions(r2_topk, blocks, ours) <= 0.05
    assert abs(mean_over_conditions(pearson_topk, blocks, ours)) <= 0.1
    assert mean_over_conditions(pearson2_topk, blocks, ours) <= 0.15


def test_the_score_reports_the_same_and_counts_conditions_without_effect(blocks: list[Block]) -> None:
    settings = {"metrics": ["r2_topk", "pearson_topk", "pearson2_topk"], "k": [20]}
    scores = pd.concat([score_profiles(block.constant, block.truth, settings) for block in blocks])
    assert len(scores) == 3 * BLOCKS * CONTEXTS
    means = scores.groupby("metric")["value"].mean()
    assert abs(means["pearson_topk"]) <= 0.1
    assert means["pearson2_topk"] <= 0.15
    headline = scores[scores["metric"] == "r2_topk"]
    assert (headline["reason"] == "no effect").sum() == (headline["n_deg"] == 0).sum() >= 90
