from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from trueshift.evaluation.calibration import CEILING_COLUMNS, duplicate_ceiling, half, score_duplicate
from trueshift.evaluation.reference import truth_statistics
from trueshift.evaluation.scoring import score_profiles

SETTINGS = {"metrics": ["r2_topk", "pearson_delta", "mse"], "k": [20], "duplicate_halvings": 10, "seed": 0}


@pytest.fixture(scope="module")
def ceiling(truth_file: ad.AnnData) -> pd.DataFrame:
    return duplicate_ceiling(truth_file, truth_statistics(truth_file), SETTINGS)


def test_rows_and_use(ceiling: pd.DataFrame) -> None:
    assert ceiling.columns.tolist() == CEILING_COLUMNS
    assert set(ceiling["model"]) == {"technical_duplicate"}
    use = ceiling.groupby(["context", "perturbation"])["ceiling_use"].unique().map(list).to_dict()
    assert use == {("A", "P"): ["condition"], ("A", "Q"): ["mean"]}  # B, P has 15 cells: no ceiling
    assert ceiling.groupby(["context", "perturbation"]).size().tolist() == [3, 3]
    assert set(ceiling["n_cells"]) == {80, 30}


def test_a_real_effect_is_almost_reproduced(ceiling: pd.DataFrame) -> None:
    value = ceiling.set_index(["perturbation", "metric"])["value"]
    assert 0.8 < value["P", "r2_topk"] < 1
    assert value["P", "pearson_delta"] > 0.9
    assert abs(value["Q", "pearson_delta"]) < 0.5


def test_whether_there_is_an_effect_is_decided_on_all_cells(ceiling: pd.DataFrame) -> None:
    headline = ceiling[ceiling["metric"] == "r2_topk"].set_index("perturbation")
    assert headline["reason"].to_dict() == {"P": "", "Q": "no effect"}
    assert headline["n_halvings"].to_dict() == {"P": 10, "Q": 0}
    assert np.isnan(headline.loc["Q", "value"])


def test_same_seed_same_numbers_and_halvings_differ(truth_file: ad.AnnData, ceiling: pd.DataFrame) -> None:
    statistics = truth_statistics(truth_file)
    pd.testing.assert_frame_equal(duplicate_ceiling(truth_file, statistics, SETTINGS), ceiling)
    other = duplicate_ceiling(truth_file, statistics, {**SETTINGS, "seed": 1})
    assert (other["value"] != ceiling["value"]).sum() >= 5


def test_the_mean_is_over_halvings(truth_file: ad.AnnData) -> None:
    file = truth_file[truth_file.obs["context"] == "A"].copy()
    file.uns["conditions"] = file.uns["conditions"].iloc[:2]
    statistics = truth_statistics(file)
    frames = [
        score_duplicate(file, statistics.conditions, half(file, np.random.default_rng([0, h])), SETTINGS)
        for h in range(3)
    ]
    expected = np.mean([frame["value"] for frame in frames], axis=0)
    found = duplicate_ceiling(file, statistics, {**SETTINGS, "duplicate_halvings": 3})
    np.testing.assert_allclose(found["value"], expected)
    assert len({frame["value"].iloc[-1] for frame in frames}) == 3


def test_half_takes_half_of_each_condition(truth_file: ad.AnnData) -> None:
    mask = half(truth_file, np.random.default_rng(0))
    taken = truth_file.obs[mask].groupby(["context", "perturbation"]).size().to_dict()
    assert taken == {("A", "P"): 40, ("A", "Q"): 15, ("B", "P"): 7}
    assert set(truth_file.obs.loc[mask, "role"]) == {"test"}


def test_halves_meet_different_controls(truth_file: ad.AnnData) -> None:
    file = truth_file[truth_file.obs["context"] == "A"].copy()
    file.uns["conditions"] = file.uns["conditions"].iloc[:2]
    statistics = truth_statistics(file)
    mask = half(file, np.random.default_rng(0))
    truth_b = truth_statistics(file[~mask])
    a = np.stack([np.asarray(file[mask & (file.obs["perturbation"] == p)].X.mean(axis=0)).ravel() for p in "PQ"])
    expected = score_profiles(a, truth_b, SETTINGS)["value"]
    found = score_duplicate(file, truth_b.conditions, mask, SETTINGS)["value"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not statistics.conditions["n_cells"].equals(truth_b.conditions["n_cells"])


def test_no_condition_with_enough_cells_gives_an_empty_table(build_truth: Callable[..., ad.AnnData]) -> None:
    cells = np.random.default_rng(0).normal(size=(60, 5))
    file = build_truth({("A", "P", "1"): cells[:19]}, {"A": (cells[20:40], cells[40:])})
    ceiling = duplicate_ceiling(file, truth_statistics(file), SETTINGS)
    assert ceiling.empty
    assert ceiling.columns.tolist() == CEILING_COLUMNS
