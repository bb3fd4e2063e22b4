"""Bulk profiles on the truth side: few controls suffice, pairs have their own, and few replicates are not tested."""

from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from trueshift.contract import make_prediction
from trueshift.evaluation.reference import truth_statistics
from trueshift.evaluation.scoring import score

SETTINGS = {"metrics": ["r2_topk", "pearson_delta", "legacy_r2_topk", "mse", "de_recall", "e_distance"], "k": ["all"]}


def profiles(build: Callable[..., ad.AnnData], tests: dict, controls: dict) -> ad.AnnData:
    truth = build(tests, controls)
    truth.uns["trueshift"]["kind"] = "profile"
    return truth


def paired(build: Callable[..., ad.AnnData], seen: bool) -> tuple[ad.AnnData, np.ndarray]:
    """Line A: conditions P and Q, each with an own control, and one reference control; line B: P and its control."""
    rng = np.random.default_rng(1)
    values = rng.normal(8, 1, (7, 6)).astype(np.float32)
    tests = {("A", "P", "1"): values[:1], ("A", "Q", "1"): values[1:2], ("B", "P", "1"): values[2:3]}
    truth = profiles(build, tests, {"A": (values[3:5], values[5:6]), "B": (values[6:7], values[:0])})
    own = truth.obs_names[truth.obs["role"] == "control_input"]
    truth.uns["conditions"] = truth.uns["conditions"].assign(control_id=list(own), context_seen=seen)
    return truth, values


def test_pairs_subtract_their_own_control_and_truth_those_of_others(build_truth: Callable[..., ad.AnnData]) -> None:
    truth, x = paired(build_truth, seen=True)
    known = truth_statistics(truth)
    np.testing.assert_array_equal(known.control_input, x[[3, 4, 6]])
    np.testing.assert_array_equal(known.control_reference[:2], x[[5, 5]])
    assert np.isnan(known.control_reference[2]).all()
    assert known.conditions["flags"].tolist() == [
        "few_controls;one_profile;paired",
        "few_controls;one_profile;paired",
        "too_few_controls;one_profile;paired",
    ]

    truth, x = paired(build_truth, seen=False)
    known = truth_statistics(truth)
    np.testing.assert_allclose(known.control_reference[0], x[[4, 5]].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(known.control_reference[1], x[[3, 5]].mean(axis=0), rtol=1e-6)
    assert np.isnan(known.control_reference[2]).all(), "no other control exists"


def test_pairs_are_scored_by_hand(build_truth: Callable[..., ad.AnnData]) -> None:
    truth, x = paired(build_truth, seen=True)
    predicted = x[[3, 4, 6]] + np.float32(0.3) * np.arange(6, dtype=np.float32)
    scores = score(make_prediction(truth, predicted), truth, truth_statistics(truth), SETTINGS)
    table = scores.set_index(["context", "perturbation", "metric"])
    for i, key in enumerate((("A", "P"), ("A", "Q"))):
        delta, delta_hat = x[i].astype(float) - x[5], predicted[i].astype(float) - x[3 + i]
        expected = 1 - ((delta - delta_hat) ** 2).sum() / (delta**2).sum()
        assert table.loc[(*key, "r2_topk"), "value"] == pytest.approx(expected, rel=1e-5)
        legacy = np.corrcoef(x[i].astype(float) - x[3 + i], delta_hat)[0, 1] ** 2
        assert table.loc[(*key, "legacy_r2_topk"), "value"] == pytest.approx(legacy, rel=1e-4), "own control, shared"
    alone = table.loc[("B", "P")]
    assert alone.loc[["r2_topk", "pearson_delta"], "reason"].eq("too few controls").all()
    assert alone.loc[["legacy_r2_topk", "mse"], "value"].notna().all(), "what needs no other control remains"
    assert table.xs("de_recall", level="metric")["value"].isna().all()


def test_few_profiles_are_not_tested_and_many_are(build_truth: Callable[..., ad.AnnData]) -> None:
    rng = np.random.default_rng(2)
    level = np.linspace(6, 12, 30)
    shift = np.where(np.arange(30) < 5, 3.0, 0.0)

    def draw(n: int, moved: float = 0) -> np.ndarray:
        return (level + moved * shift + rng.normal(0, 0.2, (n, 30))).astype(np.float32)

    tests = {("A", "few", "1"): draw(4, 1), ("A", "many", "1"): draw(8, 1), ("A", "none", "1"): draw(8)}
    known = truth_statistics(profiles(build_truth, tests, {"A": (draw(13), draw(13))}))
    assert known.conditions["flags"].eq("").all(), "26 control wells are enough"
    n_deg = known.conditions.set_index("perturbation")["n_deg"]
    assert pd.isna(n_deg["few"]) and n_deg["many"] == 5 and n_deg["none"] == 0
    assert set(known.order[0, :5]) == set(range(5)), "without a test by |δ|"
    truth = profiles(build_truth, tests, {"A": (draw(13), draw(13))})
    scores = score(make_prediction(truth, np.tile(draw(1, 1), (3, 1))), truth, truth_statistics(truth), SETTINGS)
    r2 = scores[scores["metric"] == "r2_topk"].set_index("perturbation")
    assert r2.loc[["few", "many"], "value"].gt(0.5).all()
    assert r2.loc["none", "reason"] == "no effect"


def test_predictions_from_several_controls_are_no_sample_of_cells(build_truth: Callable[..., ad.AnnData]) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(8, 1, (40, 6)).astype(np.float32)
    truth = profiles(build_truth, {("A", "P", "1"): x[:10]}, {"A": (x[10:25], x[25:])})
    moved = truth[truth.obs["role"] == "control_input"].X.toarray() + 1
    known = truth_statistics(truth)
    cells = score(make_prediction(truth, moved, np.zeros(len(moved), dtype=int)), truth, known, SETTINGS)
    profile = score(make_prediction(truth, moved.mean(axis=0, keepdims=True)), truth, known, SETTINGS)
    assert cells["value"].notna().sum() == profile["value"].notna().sum() == 3  # and no effect, as drawn
    np.testing.assert_allclose(cells["value"], profile["value"], rtol=1e-5)
    assert cells.set_index("metric").loc[["de_recall", "e_distance"], "reason"].eq("no cells").all()


@pytest.mark.parametrize("output", ["profile", "cells"])
def test_conditions_left_unanswered_are_undefined_with_the_reason(
    build_truth: Callable[..., ad.AnnData], output: str
) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(2, 1, (260, 12)).clip(0).astype(np.float32)
    keys = [("A", "P", "1"), ("A", "Q", "1"), ("A", "R", "1"), ("B", "P", "1")]
    tests = {key: x[40 * i : 40 * i + 40] + i for i, key in enumerate(keys)}
    halves = (x[160:210], x[210:])
    truth = build_truth(tests, {"A": halves, "B": halves})
    known = truth_statistics(truth)
    settings = {"metrics": [*SETTINGS["metrics"], "pds_l1", "de_pr_auc", "weighted_r2"], "k": ["all"]}
    if output == "profile":
        values, rows = np.stack([cells.mean(axis=0) for cells in tests.values()]), None
    else:
        values, rows = np.concatenate([cells[::-2] for cells in tests.values()]), np.repeat(np.arange(4), 20)
    prediction = make_prediction(truth, values, rows)
    whole = score(prediction, truth, known, settings)
    gone = [keys[1], keys[3]]  # one of context A, all of context B
    answered = ~prediction.obs[["context", "perturbation", "dose"]].apply(tuple, axis=1).isin(gone)
    part = prediction[answered].copy()
    part.uns["unanswered"] = pd.DataFrame(
        [(*key, "no features") for key in gone], columns=["context", "perturbation", "dose", "reason"]
    )
    scores = score(part, truth, known, settings)
    left = scores[["context", "perturbation", "dose"]].apply(tuple, axis=1).isin(gone)
    assert left.sum() == len(scores) / 2
    assert scores.loc[left, "value"].isna().all() and scores.loc[left, "reason"].eq("no features").all()
    pd.testing.assert_frame_equal(scores[~left], whole[~left])
