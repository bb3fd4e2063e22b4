from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from profile_scores import score_profiles

from trueshift.contract import CONDITION, ContractError, check_prediction, make_prediction
from trueshift.evaluation.halves import halvings
from trueshift.evaluation.reference import TestCells, truth_statistics
from trueshift.evaluation.registry import METRICS
from trueshift.evaluation.scoring import LABELS, SCORE_COLUMNS, chosen, label, score
from trueshift.evaluation.truth import Truth

SETTINGS = {"metrics": ["r2_topk", "pearson_delta", "mse"], "k": [20, "all"]}


@pytest.fixture(scope="module")
def truth(truth_file: ad.AnnData) -> Truth:
    return truth_statistics(truth_file)


def only(scores: pd.DataFrame, metric: str, k: str = "") -> pd.DataFrame:
    return scores[(scores["metric"] == metric) & (scores["k"] == k)].reset_index(drop=True)


def test_one_row_per_condition_metric_and_k(truth: Truth) -> None:
    scores = score_profiles(truth.mean, truth, SETTINGS)
    assert scores[["metric", "k"]].iloc[:4].to_numpy().tolist() == [
        ["r2_topk", "20"],
        ["r2_topk", "all"],
        ["pearson_delta", ""],
        ["mse", ""],
    ]
    assert len(scores) == 3 * 4
    assert not scores.duplicated(["context", "perturbation", "dose", "metric", "k"]).any()
    for column in ("cluster", "n_deg", "n_cells", "n_controls", "n_seen"):
        assert only(scores, "mse")[column].tolist() == truth.conditions[column].tolist()


def test_each_side_subtracts_its_own_controls(truth: Truth) -> None:
    delta = truth.mean.astype(float) - truth.control_reference
    perfect = score_profiles(truth.control_input + delta, truth, SETTINGS)
    np.testing.assert_allclose(only(perfect, "r2_topk", "all")["value"][[0, 2]], 1)
    still = score_profiles(truth.control_input, truth, SETTINGS)
    np.testing.assert_allclose(only(still, "r2_topk", "20")["value"][[0, 2]], 0, atol=1e-9)
    copied = score_profiles(truth.mean, truth, SETTINGS)
    assert (only(copied, "mse")["value"] == 0).all()
    assert (only(copied, "r2_topk", "all")["value"][[0, 2]] < 1 - 1e-4).all()  # the controls' noise is not shared


def test_no_effect_is_undefined_for_the_headline_only(truth: Truth) -> None:
    scores = score_profiles(truth.mean, truth, {**SETTINGS, "metrics": ["r2_topk", "pearson2_topk", "mae"]})
    assert only(scores, "r2_topk", "20")["reason"].tolist() == ["", "no effect", ""]
    assert only(scores, "r2_topk", "20")["value"].isna().tolist() == [False, True, False]
    assert only(scores, "pearson2_topk", "20")["value"].notna().all()
    assert only(scores, "mae")["value"].notna().all()


def test_k_beyond_the_genes_is_undefined_but_all_always_is(truth: Truth) -> None:
    scores = score_profiles(truth.mean, truth, {"metrics": ["pearson_topk"], "k": [40, "all"]})
    assert set(only(scores, "pearson_topk", "40")["reason"]) == {"fewer than 40 genes"}
    assert only(scores, "pearson_topk", "40")["value"].isna().all()
    assert (only(scores, "pearson_topk", "all")["reason"] == "").all()


def test_too_few_controls_leave_only_the_errors(build_truth: Callable[..., ad.AnnData]) -> None:
    rng = np.random.default_rng(0)
    file = build_truth(
        {("A", "P", "1"): rng.normal(1, 1, (30, 25)), ("B", "P", "1"): rng.normal(1, 1, (30, 25))},
        {"A": (rng.normal(size=(19, 25)), rng.normal(size=(20, 25))), "B": (np.empty((0, 25)), np.empty((0, 25)))},
    )
    truth = truth_statistics(file)
    scores = score_profiles(truth.mean + 1, truth, {**SETTINGS, "k": [20, 40]})
    errors = scores["metric"] == "mse"
    np.testing.assert_allclose(scores.loc[errors, "value"], 1)
    assert (scores.loc[errors, "reason"] == "").all()
    assert set(scores.loc[~errors, "reason"]) == {"too few controls"}
    assert scores.loc[~errors, "value"].isna().all()
    assert set(scores["flags"]) == {"too_few_controls"}


def test_constant_predictions_are_flagged_row_by_row(truth: Truth) -> None:
    scores = score_profiles(truth.control_input, truth, SETTINGS)
    correlations = only(scores, "pearson_delta")
    assert (correlations["value"] == 0).all()
    assert correlations["flags"].tolist() == ["constant_prediction"] * 2 + ["few_controls;constant_prediction"]
    assert only(scores, "mse")["flags"].tolist() == ["", "", "few_controls"]


def test_cells_are_averaged_and_conditions_matched_by_name(truth: Truth, truth_file: ad.AnnData) -> None:
    query = ad.AnnData(
        np.zeros((0, 30), np.float32), var=truth_file.var, uns={"conditions": truth_file.uns["conditions"]}
    )
    profile = make_prediction(query, truth.mean + 0.1)
    expected = score(profile, truth_file, truth, SETTINGS)
    assert expected.columns.tolist() == SCORE_COLUMNS
    assert expected["value_half"].isna().all()  # no halves were given
    np.testing.assert_allclose(only(expected, "mse")["value"], 0.01, rtol=1e-4)
    cells = np.repeat(truth.mean + 0.1, 2, axis=0)
    cells[::2] += 0.5
    cells[1::2] -= 0.5
    predicted = make_prediction(query, cells, np.repeat(np.arange(3), 2))
    from_cells = score(predicted, truth_file, truth, SETTINGS)
    pd.testing.assert_frame_equal(from_cells, expected, rtol=1e-4)
    pd.testing.assert_frame_equal(score(profile[[2, 0, 1]], truth_file, truth, SETTINGS), expected)
    with pytest.raises(ContractError, match=r"B \| P \| 1 was asked for"):
        score(profile[:2], truth_file, truth, SETTINGS)
    with pytest.raises(ContractError, match="genes are not those"):
        score(profile[:, ::-1], truth_file, truth, SETTINGS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ["r2_topkk"], "k": [20]}, "metrics: r2_topkk is unknown; did you mean r2_topk?"),
        ({"metrics": ["mse"], "k": ["al"]}, "k: al is unknown; did you mean all?"),
        ({"metrics": ["mse"], "k": [90]}, "k: 90 is unknown; did you mean 80?"),
        ({"metrics": ["mse"], "k": [0]}, "k: 0 is unknown; did you mean 20?"),
        ({"metrics": [], "k": [20]}, "metrics: names none"),
        ({"metrics": ["r2_topk"]}, "k: is empty"),
    ],
)
def test_unknown_settings_are_refused_with_the_nearest_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError) as error:
        chosen(settings)
    assert message in str(error.value)


def test_errors_need_no_k() -> None:
    assert [(metric.name, k) for metric, k in chosen({"metrics": ["mse", "mae", "mse"]})] == [("mse", ""), ("mae", "")]


def test_labels_go_in_front_and_must_be_complete(truth: Truth) -> None:
    scores = score_profiles(truth.mean, truth, SETTINGS)
    labels: dict[str, Any] = {"dataset": "d", "split": "s", "fold": 1, "model": "m", "variant": "default", "seed": 0}
    labelled = label(scores, labels)
    assert labelled.columns.tolist() == [*LABELS, *scores.columns]
    assert labelled[["fold", "seed"]].drop_duplicates().to_numpy().tolist() == [["1", "0"]]
    for wrong in ({k: v for k, v in labels.items() if k != "seed"}, {**labels, "sead": 1}):
        with pytest.raises(ContractError, match=r"sea?e?d is missing or unknown"):
            label(scores, wrong)


def test_untested_conditions_keep_the_headline(truth: Truth) -> None:
    untested = replace(truth, conditions=truth.conditions.assign(n_deg=pd.array([pd.NA] * 3, dtype="Int32")))
    scores = score_profiles(truth.mean, untested, SETTINGS)
    assert only(scores, "r2_topk", "20")["value"].notna().all()


def test_halves_are_scored_beside_the_whole(truth: Truth, truth_file: ad.AnnData) -> None:
    settings = {"metrics": ["mse", "r2_topk"], "k": [20], "duplicate_halvings": 3, "seed": 0}
    halves, _ = halvings(TestCells(truth_file), truth, settings)
    query = ad.AnnData(
        np.zeros((0, 30), np.float32), var=truth_file.var, uns={"conditions": truth_file.uns["conditions"]}
    )
    scores = score(make_prediction(query, truth.mean + 0.1), truth_file, truth, settings, halves)
    expected = [np.mean((halves.mean[h] - truth.mean[halves.conditions] - 0.1) ** 2, axis=1) for h in range(3)]
    mse = only(scores, "mse")
    np.testing.assert_allclose(mse["value_half"][:2], np.mean(expected, axis=0), rtol=1e-5)
    assert mse["n_halvings"].tolist() == [3, 3, 0]  # the last has 15 cells
    headline = only(scores, "r2_topk", "20")
    assert headline["n_halvings"].tolist() == [3, 0, 0]  # the second has no effect
    whole = score(make_prediction(query, truth.mean + 0.1), truth_file, truth, settings)
    pd.testing.assert_series_equal(scores["value"], whole["value"])


def test_metrics_of_cells_need_cells(truth: Truth, truth_file: ad.AnnData) -> None:
    settings = {"metrics": ["e_distance", "de_recall"]}
    query = ad.AnnData(
        np.zeros((0, 30), np.float32), var=truth_file.var, uns={"conditions": truth_file.uns["conditions"]}
    )
    profile = make_prediction(query, truth.control_input)
    assert set(score(profile, truth_file, truth, settings)["reason"]) == {"no cells"}
    profile.uns["trueshift"]["cells"] = "control_input"
    scores = score(profile, truth_file, truth, settings)
    assert (only(scores, "e_distance")["value"] > 0.2).tolist() == [True, False, True]
    assert only(scores, "de_recall")["value"].iloc[0] == 0  # controls differ from themselves in nothing
    test = TestCells(truth_file)
    cells = np.concatenate([test.cells(i) for i in range(3)])
    codes = np.repeat(np.arange(3), [len(test.of(i)) for i in range(3)])
    copied = score(make_prediction(query, cells, codes), truth_file, truth, settings)
    assert (only(copied, "e_distance")["value"] < 0).all()  # U-statistics: the same cells are nearer than chance
    assert only(copied, "de_recall")["value"].iloc[0] > 0.8


def test_a_prediction_without_rows_has_no_value_in_any_metric(truth: Truth, truth_file: ad.AnnData) -> None:
    settings = {"metrics": list(METRICS), "k": ["20", "all"], "duplicate_halvings": 2, "seed": 0}
    halves, _ = halvings(TestCells(truth_file), truth, settings)
    conditions = truth_file.uns["conditions"]
    asking = ad.AnnData(np.zeros((0, 30), np.float32), var=truth_file.var, uns={"conditions": conditions.iloc[:0]})
    prediction = make_prediction(asking, np.zeros((0, 30)))
    prediction.uns["unanswered"] = conditions[CONDITION].assign(reason="no features")
    check_prediction(prediction, truth_file, "prediction")
    scores = score(prediction, truth_file, truth, settings, halves)
    assert set(scores["metric"]) == set(METRICS) and len(scores.drop_duplicates(CONDITION)) == 3
    assert scores["value"].isna().all() and scores["value_half"].isna().all()
    assert scores["reason"].eq("no features").all()
