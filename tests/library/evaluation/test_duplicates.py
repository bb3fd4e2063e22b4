from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from profile_scores import score_profiles

from trueshift.evaluation.duplicates import CEILING_COLUMNS, ceiling, interpolated
from trueshift.evaluation.halves import halvings
from trueshift.evaluation.predicted import Predicted
from trueshift.evaluation.reference import TestCells, truth_statistics

SETTINGS = {"metrics": ["r2_topk", "pearson_delta", "mse"], "k": [20], "duplicate_halvings": 10, "seed": 0}


def table_of(file: ad.AnnData, settings: dict[str, Any]) -> pd.DataFrame:
    truth = truth_statistics(file)
    return ceiling(truth, *halvings(TestCells(file), truth, settings), settings)


@pytest.fixture(scope="module")
def table(truth_file: ad.AnnData) -> pd.DataFrame:
    return table_of(truth_file, SETTINGS)


def test_rows_and_use(table: pd.DataFrame) -> None:
    assert table.columns.tolist() == CEILING_COLUMNS
    assert set(table["model"]) == {"technical_duplicate"}
    use = table.groupby(["context", "perturbation"])["ceiling_use"].unique().map(list).to_dict()
    assert use == {("A", "P"): ["condition"], ("A", "Q"): ["mean"]}  # B, P has 15 cells: no ceiling
    assert table.groupby(["context", "perturbation"]).size().tolist() == [3, 3]
    assert set(table["n_cells"]) == {80, 30}


def test_a_real_effect_is_almost_reproduced(table: pd.DataFrame) -> None:
    value = table.set_index(["perturbation", "metric"])["value"]
    assert 0.8 < value["P", "r2_topk"] < 1
    assert value["P", "pearson_delta"] > 0.9
    assert abs(value["Q", "pearson_delta"]) < 0.5


def test_whether_there_is_an_effect_is_decided_on_all_cells(table: pd.DataFrame) -> None:
    headline = table[table["metric"] == "r2_topk"].set_index("perturbation")
    assert headline["reason"].to_dict() == {"P": "", "Q": "no effect"}
    assert headline["n_halvings"].to_dict() == {"P": 10, "Q": 0}
    assert np.isnan(headline.loc["Q", "value"])


def test_same_seed_same_numbers_and_halvings_differ(truth_file: ad.AnnData, table: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(table_of(truth_file, SETTINGS), table)
    other = table_of(truth_file, {**SETTINGS, "seed": 1})
    assert (other["value"] != table["value"]).sum() >= 5


def test_the_mean_is_over_halvings_of_a_against_b(truth_file: ad.AnnData) -> None:
    """The same numbers from files that hold half B only."""
    settings = {**SETTINGS, "duplicate_halvings": 3}
    truth, test = truth_statistics(truth_file), TestCells(truth_file)
    halves, duplicates = halvings(test, truth, settings)
    values = []
    for halving in range(3):
        file = truth_file[~halves.in_a[halving] & ~truth_file.obs["perturbation"].isin(["none"])].copy()
        half_b = truth_statistics(file).take(halves.conditions)
        a = [truth_file[test.of(i)[halves.in_a[halving, test.of(i)]]].X.mean(axis=0) for i in halves.conditions]
        x_hat = np.concatenate([np.asarray(mean) for mean in a])
        np.testing.assert_allclose(duplicates.mean[halving], x_hat, atol=1e-6)
        known = halves.truth(halving, truth).conditions
        assert known["n_deg"].tolist() == truth.conditions["n_deg"].tolist()[:2]
        half_b.conditions["n_deg"] = known["n_deg"]
        values.append(score_profiles(x_hat, half_b, settings)["value"])
    np.testing.assert_allclose(
        ceiling(truth, halves, duplicates, settings)["value"], np.mean(values, axis=0), rtol=1e-5
    )


def test_cell_metrics_of_the_duplicate_are_near_their_optimum(truth_file: ad.AnnData) -> None:
    settings = {**SETTINGS, "metrics": ["e_distance", "mmd2", "de_recall"]}
    value = table_of(truth_file, settings).set_index(["perturbation", "metric"])["value"]
    assert abs(value["P", "e_distance"]) < 0.2
    assert abs(value["P", "mmd2"]) < 0.02
    assert value["P", "de_recall"] > 0.8


def test_the_interpolated_duplicate_follows_half_a_only_where_it_shows_an_effect(truth_file: ad.AnnData) -> None:
    settings = {**SETTINGS, "interpolated_duplicate": True}
    value = table_of(truth_file, settings).set_index(["model", "perturbation", "metric"])["value"]
    # without a mean effect to fall back on, genes that do not react are pulled to the controls
    assert value["interpolated_duplicate", "Q", "mse"] < value["technical_duplicate", "Q", "mse"]
    assert value["interpolated_duplicate", "P", "r2_topk"] > 0.8

    truth = truth_statistics(truth_file)
    halves, duplicates = halvings(TestCells(truth_file), truth, settings)
    half_b = halves.truth(0, truth)
    sure = duplicates.test(0)._replace(p_adjusted=np.zeros(duplicates.mean[0].shape))
    np.testing.assert_allclose(interpolated(half_b, Predicted(duplicates.mean[0], test=sure)), duplicates.mean[0])


def test_no_condition_with_enough_cells_gives_an_empty_table(build_truth: Callable[..., ad.AnnData]) -> None:
    cells = np.random.default_rng(0).normal(size=(60, 5))
    file = build_truth({("A", "P", "1"): cells[:19]}, {"A": (cells[20:40], cells[40:])})
    table = table_of(file, SETTINGS)
    assert table.empty
    assert table.columns.tolist() == CEILING_COLUMNS
