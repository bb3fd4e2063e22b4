"""Leaderboards of simulated scores with planted truth."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from trueshift.contract import ContractError
from trueshift.evaluation.registry import METRICS
from trueshift.evaluation.statistics import holm
from trueshift.evaluation.validity import calibrate
from trueshift.report.leaderboard import (
    LEADERBOARD_COLUMNS,
    VERDICT_COLUMNS,
    leaderboard,
    leaderboard_wide,
    rank_sets,
    verdicts,
)
from trueshift.report.tables import topk_r2

NAN = float("nan")
BASELINES = ["no_change", "mean_shift", "additive"]


def rows(model: str, values: Any, **more: Any) -> pd.DataFrame:
    """Rows of one run, one per value; condition i is of unit i. Scores on halves are the same, if not given."""
    values = np.asarray(values, dtype=float)
    names = [f"P{i:02}" for i in range(len(values))]
    base: dict[str, Any] = {
        "dataset": "d",
        "split": "s",
        "fold": "1",
        "model": model,
        "variant": "default",
        "seed": "0",
    }
    base |= {"context": "c", "perturbation": names, "dose": "1", "cluster": names, "metric": "pearson_delta", "k": ""}
    base |= {"value": values, "value_half": values, "reason": np.where(np.isnan(values), "no effect", "")}
    return pd.DataFrame(base | {"n_deg": 5, "flags": ""} | more, index=range(len(values)))


def duplicate(values: Any, **more: Any) -> pd.DataFrame:
    made = rows("technical_duplicate", values, **more).drop(columns=["variant", "seed", "value_half"])
    return made.assign(ceiling_use="condition", n_cells=100)


def board(parts: list[pd.DataFrame], ceilings: list[pd.DataFrame], baselines: Any = BASELINES) -> pd.DataFrame:
    """The leaderboard with the calibration of these floors and ceilings."""
    scores, tops = pd.concat(parts), pd.concat(ceilings)
    calibrations = []
    for (dataset, split), part in scores.groupby(["dataset", "split"]):
        floors = part[part["model"].isin(["no_change", "mean_shift"])]
        here = tops[(tops["dataset"] == dataset) & (tops["split"] == split)]
        calibrations.append(calibrate(floors, here, 0).assign(dataset=str(dataset), split=str(split)))
    return leaderboard(scores, tops, pd.concat(calibrations), baselines)


def floors(n: int, noise: Any = 0.0, **more: Any) -> list[pd.DataFrame]:
    return [rows("no_change", np.zeros(n), **more), rows("mean_shift", np.full(n, 0.2) + noise, **more)]


def line(table: pd.DataFrame, model: str, metric: str = "pearson_delta", k: str = "", **where: str) -> pd.Series:
    where = {"model": model, "metric": metric, "k": k} | where
    found = table[np.logical_and.reduce([table[c] == v for c, v in where.items()])]
    assert len(found) == 1, where
    return found.iloc[0]


def span(table: pd.DataFrame, model: str) -> list[int]:
    return [int(line(table, model)["rank"]), int(line(table, model)["rank_last"])]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- ranks --------------------------------------------------------------------------------------------


@pytest.fixture
def planted(rng: np.random.Generator) -> pd.DataFrame:
    """30 units: good is better than two equal models by .15, these than the floors by about .2."""
    hard = 0.1 * rng.normal(size=30)  # some conditions are harder for all
    parts = floors(30, hard)
    for model, mean in (("good", 0.55), ("same1", 0.4), ("same2", 0.4)):
        parts.append(rows(model, mean + hard + 0.05 * rng.normal(size=30)))
    return board(parts, [duplicate(0.8 + 0.3 * hard)])


def test_planted_order(planted: pd.DataFrame) -> None:
    assert planted.columns.tolist() == LEADERBOARD_COLUMNS
    assert span(planted, "good") == [1, 1]
    assert span(planted, "same1") == span(planted, "same2") == [2, 3]
    assert span(planted, "mean_shift") == [4, 4]
    assert span(planted, "no_change") == [5, 5]
    assert planted.model.tolist()[0] == "good"
    assert planted.model.tolist()[3:] == ["mean_shift", "no_change"]
    assert set(planted.note) == {""}
    assert set(planted.n_units) == {30}


def test_value_and_its_neighbours_are_those_of_the_top_k_table(rng: np.random.Generator) -> None:
    parts = floors(25) + [rows("m", rng.normal(size=25), seed=seed, fold=fold) for seed in "012" for fold in "12"]
    parts += [part.assign(fold="2") for part in floors(25)]
    tops = [duplicate(np.full(25, 5.0)), duplicate(np.full(25, 6.0), fold="2")]
    whole = topk_r2(pd.concat(parts), pd.concat(tops))
    whole = whole[(whole[["fold", "context", "seed"]] == "all").all(axis=1)]
    columns = ["model", "value", "low", "high", "ci_method", "n_conditions", "floor", "ceiling"]
    found = board(parts, tops)[columns].sort_values("model", ignore_index=True)
    pd.testing.assert_frame_equal(found, whole[columns].sort_values("model", ignore_index=True))


def test_identical_models_share_everything(rng: np.random.Generator) -> None:
    values = 0.5 + 0.1 * rng.normal(size=30)
    table = board([*floors(30), rows("a", values), rows("b", values)], [duplicate(np.full(30, 0.9))])
    a, b = line(table, "a"), line(table, "b")
    pd.testing.assert_series_equal(a.drop("model"), b.drop("model"), check_names=False)
    assert [a["rank"], a["rank_last"]] == [1, 2]


def test_rounding_ranks_nobody(rng: np.random.Generator) -> None:
    values = 0.5 + 0.1 * rng.normal(size=30)
    parts = [*floors(30), rows("a", values), rows("additive", values - 1e-7)]
    table = board(parts, [duplicate(np.full(30, 0.9))])
    assert span(table, "a") == span(table, "additive") == [1, 2]
    assert line(table, "a").p == 1
    assert line(table, "a").difference == pytest.approx(1e-7)


def test_five_units_test_nothing_but_give_intervals(rng: np.random.Generator) -> None:
    parts = [*floors(5), rows("m", 0.7 + 0.01 * rng.normal(size=5))]
    table = board(parts, [duplicate(0.9 + 0.01 * rng.normal(size=5))])
    assert table["rank"].tolist() == [1, 1, 1]
    assert table.rank_last.tolist() == [3, 3, 3]
    assert table.note.tolist() == ["not testable: 5 held-out units"] * 3
    assert table[["p", "p_holm"]].isna().all(axis=None)
    assert table.model.tolist() == ["m", "mean_shift", "no_change"]  # by value, though nothing is ranked
    got = line(table, "m")
    assert got.anchored_low < got.anchored < got.anchored_high
    assert got.difference_low < got.difference < got.difference_high


def test_order_of_rows_and_models_does_not_matter(rng: np.random.Generator) -> None:
    parts = [*floors(12), *[rows(m, rng.normal(0.5, 0.2, 12)) for m in "abc"]]
    one = board(parts, [duplicate(np.full(12, 0.9))])
    other = board([part.iloc[::-1] for part in parts[::-1]], [duplicate(np.full(12, 0.9)).iloc[::-1]])
    pd.testing.assert_frame_equal(one, other)


def test_models_are_compared_where_both_have_a_value(rng: np.random.Generator) -> None:
    # "late" has no value in the hard half and so the better mean, but is worse wherever both have one
    hard = np.repeat([0.0, 0.5], 15) + 0.02 * rng.normal(size=30)
    late = np.where(np.arange(30) < 15, NAN, hard - 0.1)
    table = board([*floors(30), rows("m", hard + 0.3), rows("late", late)], [duplicate(np.full(30, 0.9))])
    late_row, m = line(table, "late"), line(table, "m")
    assert (late_row["rank"], m["rank"]) == (2, 1)
    assert late_row.n_units == 15
    assert late_row.note == "value in 15 of 30 conditions"


def test_false_separations_are_rare() -> None:
    """Eight equal models: in at most about 5% of tables is any one put before another."""
    rng = np.random.default_rng(1)
    separated = []
    for _ in range(400):
        clusters = np.repeat(np.arange(10), rng.integers(1, 4, size=10))
        of_units, shared = rng.normal(size=(10, 8))[clusters], rng.normal(size=(len(clusters), 1))
        first, last = rank_sets(shared + of_units + 0.5 * rng.normal(size=of_units.shape), clusters)
        assert ((first >= 1) & (first <= last) & (last <= 8)).all()
        separated.append((first > 1).any())
        assert (first > 1).any() == (last < 8).any()
    assert np.mean(separated) <= 0.07  # .05 and two standard errors of the simulation


def test_rank_sets_hold_the_true_ranks() -> None:
    rng = np.random.default_rng(2)
    truth = np.array([0.0, 0.1, 0.2, 0.5, 1.0])  # ranks 5 to 1
    held, widths = [], []
    for _ in range(200):
        first, last = rank_sets(truth + rng.normal(size=(25, 1)) + 0.4 * rng.normal(size=(25, 5)), np.arange(25))
        ranks = np.arange(5, 0, -1)
        held.append(((first <= ranks) & (ranks <= last)).all())
        widths.append(last - first)
    assert np.mean(held) >= 0.95
    assert np.mean(widths, axis=0)[-1] < 0.1  # the best one is found


def test_rank_sets_by_hand() -> None:
    rng = np.random.default_rng(3)
    values = np.array([0.0, 0.0, 1.0]) + 0.01 * rng.normal(size=(9, 3))
    values[:, 1] = values[:, 0]
    first, last = rank_sets(values, np.arange(9))
    assert (first.tolist(), last.tolist()) == ([2, 2, 1], [3, 3, 1])
    first, last = rank_sets(values[:5], np.arange(5))
    assert (first.tolist(), last.tolist()) == ([1, 1, 1], [3, 3, 3])


# --- what is not ranked -------------------------------------------------------------------------------


def test_a_failing_metric_ranks_nothing(rng: np.random.Generator) -> None:
    parts = [*floors(30), rows("m", np.full(30, 0.9))]
    table = board(parts, [duplicate(0.2 + 0.3 * rng.normal(size=30))])
    reason = table.note[0]
    assert reason.startswith("the duplicate does not beat mean_shift")
    assert set(table.note) == {reason}
    assert not table.passes.any()
    made = ["rank", "rank_last", "anchored", "anchored_low", "difference", "p", "p_holm"]
    assert table[made].isna().all(axis=None)
    assert set(table.best_baseline) == {""}
    assert table.model.tolist() == ["m", "mean_shift", "no_change"]
    assert line(table, "m").value == pytest.approx(0.9)


def test_a_shown_metric_never_ranks(rng: np.random.Generator) -> None:
    shown = {"metric": "r2_centered_topk", "k": "20"}
    parts = [*floors(30, **shown), rows("m", 0.5 + 0.01 * rng.normal(size=30), **shown)]
    table = board(parts, [duplicate(np.full(30, 0.9), **shown)])
    assert table["rank"].isna().all()
    assert set(table.note) == {"shown only, never ranks"}
    assert table.passes.all()
    assert line(table, "m", **shown).anchored == pytest.approx((0.5 - 0.2) / (0.9 - 0.2), abs=0.02)


def test_a_model_without_values_has_no_rank(rng: np.random.Generator) -> None:
    parts = [*floors(30), rows("m", 0.5 + 0.01 * rng.normal(size=30)), rows("none", [NAN] * 30, reason="no cells")]
    table = board(parts, [duplicate(np.full(30, 0.9))])
    assert table.model.tolist()[-1] == "none"
    got = line(table, "none")
    assert (got.note, got.n_units, got.n_conditions) == ("no value: no cells (30)", 0, 0)
    assert pd.isna(got["rank"])
    assert span(table, "no_change") == [3, 3]  # of three


def test_the_only_model_with_a_value_has_no_rank(rng: np.random.Generator) -> None:
    cells = {"metric": "e_distance"}
    parts = [rows("no_change", np.full(30, 3.0), **cells)]
    parts += [rows(model, [NAN] * 30, reason="no cells", **cells) for model in ("mean_shift", "m")]
    parts += [*floors(30), rows("m", 0.5 + 0.01 * rng.normal(size=30))]
    table = board(parts, [duplicate(0.1 * rng.normal(size=30), **cells), duplicate(np.full(30, 0.9))])
    got = line(table, "no_change", "e_distance")
    assert (got.note, got.best_baseline, got.anchored) == ("the only model with a value", "", 0)
    assert pd.isna(got["rank"])
    assert verdicts(table).metric.tolist() == ["pearson_delta"]
    assert leaderboard_wide(table).columns.tolist()[4:] == ["verdict", "pearson_delta"]


def test_small_panels_do_not_count(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    metric = replace(METRICS["pearson_delta"], name="of_a_panel", needs=("panel",))
    monkeypatch.setitem(METRICS, metric.name, metric)
    where = {"metric": metric.name, "context": np.repeat(["big", "small"], [8, 3])}
    parts = [*floors(11, **where), rows("m", [0.5] * 8 + [9.0] * 3, **where)]
    table = board(parts, [duplicate(np.full(11, 0.9), **where)])
    got = line(table, "m", metric.name)
    assert (got.value, got.n_conditions) == (pytest.approx(0.5), 8)
    assert got["rank"] == 1


# --- anchored scores ----------------------------------------------------------------------------------


def test_anchors_are_the_floor_and_the_duplicate(rng: np.random.Generator) -> None:
    r, u = 0.8 + 0.05 * rng.normal(size=(2, 30))
    parts = [*floors(30, 0.05 * rng.normal(size=30)), rows("perfect", np.ones(30)), rows("twin", r), rows("m", u)]
    table = board(parts, [duplicate(r)])
    twin, floor, m = (line(table, model) for model in ("twin", "mean_shift", "m"))
    for got, expected in ((twin, 1), (floor, 0)):
        assert [got.anchored, got.anchored_low, got.anchored_high] == pytest.approx([expected] * 3)
    b = parts[1]["value"].to_numpy()
    assert m.anchored == pytest.approx((u.mean() - b.mean()) / (r.mean() - b.mean()))
    assert line(table, "perfect").anchored > 1.2  # above the duplicate: legal, not clipped
    assert line(table, "no_change").anchored < 0
    taken = rng.integers(30, size=(20_000, 30))
    ratios = (u - b)[taken].mean(axis=1) / (r - b)[taken].mean(axis=1)
    expected = np.quantile(ratios, [0.025, 0.975])
    np.testing.assert_allclose([m.anchored_low, m.anchored_high], expected, atol=0.003)


def test_anchored_scores_use_the_halves(rng: np.random.Generator) -> None:
    parts = [*floors(30, value=NAN), rows("m", np.full(30, 0.1), value_half=0.55)]
    parts = [part.assign(value=part["value"].fillna(0.0)) for part in parts]
    table = board(parts, [duplicate(0.9 + 0.01 * rng.normal(size=30))])
    assert line(table, "m").anchored == pytest.approx((0.55 - 0.2) / (0.9 - 0.2), abs=0.02)


def test_anchored_scores_rest_on_tests_with_model_and_duplicate(rng: np.random.Generator) -> None:
    u = np.append(np.full(30, 0.55), NAN)
    parts = [rows("no_change", np.zeros(31)), rows("mean_shift", [0.2] * 30 + [-9.0]), rows("m", u)]
    parts += [part.assign(fold="2", value_half=part["value_half"] + 5) for part in parts]  # no duplicate there
    table = board(parts, [duplicate(0.9 + 0.01 * rng.normal(size=31))])
    assert line(table, "m").anchored == pytest.approx(0.5, abs=0.02)
    assert line(table, "no_change").anchored == 0  # the other one is the worse floor over all 31


def test_a_floor_that_lacks_a_test_is_none(rng: np.random.Generator) -> None:
    parts = [rows("no_change", np.zeros(30)), rows("mean_shift", [NAN] + [0.2] * 29), rows("m", np.full(30, 0.45))]
    table = board(parts, [duplicate(0.9 + 0.01 * rng.normal(size=30))])
    assert line(table, "m").anchored == pytest.approx(0.5, abs=0.01)
    assert line(table, "mean_shift").anchored == 0  # on its own 29 it is
    # nor is one that lacks only one of the folds of a condition
    parts = [part.assign(fold=fold) for part in [*floors(30), rows("m", np.full(30, 0.45))] for fold in "12"]
    parts[3].loc[0, ["value", "value_half"]] = NAN
    table = board(parts, [duplicate(0.9 + 0.01 * rng.normal(size=30), fold=fold) for fold in "12"])
    assert line(table, "m").anchored == pytest.approx(0.5, abs=0.01)


def test_errors_are_anchored_and_ranked_by_their_direction(rng: np.random.Generator) -> None:
    error = {"metric": "mse"}
    parts = [rows("no_change", np.full(30, 3.0), **error), rows("mean_shift", np.full(30, 2.0), **error)]
    parts += [rows("m", 1.2 + 0.01 * rng.normal(size=30), **error)]
    table = board(parts, [duplicate(1 + 0.01 * rng.normal(size=30), **error)])
    assert table.model.tolist() == ["m", "mean_shift", "no_change"]
    assert table["rank"].tolist() == [1, 2, 3]
    m = line(table, "m", "mse")
    assert m.anchored == pytest.approx(0.8, abs=0.01)
    assert (m.best_baseline, m.difference) == ("mean_shift", pytest.approx(0.8, abs=0.01))  # positive is better
    said = verdicts(table).iloc[0]
    assert [said.best, said.tied_for_first, said.beats_baseline] == ["m"] * 3
    assert m.difference_low < m.difference < m.difference_high


def test_no_range_where_the_duplicate_is_no_better_on_the_conditions_of_a_model(rng: np.random.Generator) -> None:
    # the metric passes over all conditions, but not over the 8 that this model has
    r = np.where(np.arange(30) < 8, 0.2 + 0.1 * np.resize([1, -1], 30), 0.9)
    u = np.where(np.arange(30) < 8, 0.5, NAN)
    table = board([*floors(30), rows("m", u), rows("other", np.full(30, 0.5))], [duplicate(r)])
    m = line(table, "m")
    assert np.isnan([m.anchored, m.anchored_low, m.anchored_high]).all()
    assert "no range" in m.note
    assert m.note == "no range; value in 8 of 30 conditions"
    assert line(table, "other").anchored > 0


# --- baselines and seeds ------------------------------------------------------------------------------


def test_comparison_with_the_best_baseline(rng: np.random.Generator) -> None:
    base = 0.4 + 0.1 * rng.normal(size=12)
    models = {"additive": base, "a": base + 0.1 + 0.05 * rng.normal(size=12), "b": base + 0.05 * rng.normal(size=12)}
    table = board([*floors(12), *[rows(m, v) for m, v in models.items()]], [duplicate(np.full(12, 0.9))])
    assert set(table.best_baseline) == {"additive"}
    p = {m: stats.ttest_rel(v, base).pvalue for m, v in models.items() if m != "additive"}
    p |= {"no_change": stats.ttest_1samp(base, 0).pvalue, "mean_shift": stats.ttest_1samp(base, 0.2).pvalue}
    adjusted = dict(zip(p, holm(np.array(list(p.values()))), strict=True))
    for model in p:
        got = line(table, model)
        assert (got.p, got.p_holm) == (pytest.approx(p[model]), pytest.approx(adjusted[model]))
    got, apart = line(table, "a"), stats.ttest_rel(models["a"], base).confidence_interval()
    assert got.difference == pytest.approx((models["a"] - base).mean())
    assert (got.difference_low, got.difference_high) == (pytest.approx(apart.low), pytest.approx(apart.high))
    assert np.isnan([line(table, "additive").p, line(table, "additive").difference]).all()


def test_a_baseline_that_lacks_conditions_is_not_the_best(rng: np.random.Generator) -> None:
    parts = [*floors(12), rows("additive", [NAN] * 4 + [0.8] * 8), rows("m", 0.5 + 0.1 * rng.normal(size=12))]
    table = board(parts, [duplicate(np.full(12, 0.9))])
    assert set(table.best_baseline) == {"mean_shift"}


def test_without_baselines_there_is_no_comparison(rng: np.random.Generator) -> None:
    table = board([*floors(12), rows("m", np.full(12, 0.5))], [duplicate(np.full(12, 0.9))], [])
    assert set(table.best_baseline) == {""}
    assert table[["difference", "p", "p_holm"]].isna().all(axis=None)
    assert span(table, "m") == [1, 1]


def test_seeds_are_averaged_and_their_spread_is_shown() -> None:
    parts = [*floors(12), rows("m", [0.4] * 11 + [0.6]), rows("m", [0.5] * 12, seed="1")]
    parts += [rows("m", [0.7] * 12, seed="2"), rows("m", [0.1] * 12, variant="small")]
    table = board(parts, [duplicate(np.full(12, 0.9))])
    means = [(0.4 * 11 + 0.6) / 12, 0.5, 0.7]
    got = line(table, "m", variant="default")
    assert (got.n_seeds, got.value, got.seed_sd) == (
        3,
        pytest.approx(np.mean(means)),
        pytest.approx(np.std(means, ddof=1)),
    )
    small = line(table, "m", variant="small")
    assert small.n_seeds == 1
    assert np.isnan(small.seed_sd)


# --- the whole ----------------------------------------------------------------------------------------


def test_order_and_missing_calibration(rng: np.random.Generator) -> None:
    asked = [("mae", ""), ("r2_topk", "all"), ("r2_topk", "20"), ("pearson_delta", "")]
    parts, tops = [], []
    for split in ("t", "s"):
        for metric, k in asked:
            parts += floors(6, metric=metric, k=k, split=split)
            tops.append(duplicate(np.full(6, 0.9), metric=metric, k=k, split=split))
    table = board(parts, tops)
    seen = table[["split", "metric", "k"]].agg(" ".join, axis=1).drop_duplicates().tolist()
    expected = ["r2_topk 20", "r2_topk all", "pearson_delta ", "mae "]
    assert seen == [f"{split} {name}" for split in "st" for name in expected]
    short = calibrate(pd.concat(floors(6)), duplicate(np.full(6, 0.9)), 0).assign(dataset="d", split="s")
    with pytest.raises(ContractError, match=r"d . s . r2_topk . 20; calibrate again"):
        leaderboard(pd.concat(parts), pd.concat(tops), short, BASELINES)
    with pytest.raises(ContractError, match="value_half"):
        leaderboard(parts[0].drop(columns="value_half"), tops[0], short, BASELINES)


@pytest.fixture
def tidy(rng: np.random.Generator) -> pd.DataFrame:
    """Split s: two metrics rank, one fails, one is shown only; split few: 5 units; split noise: nothing passes."""
    parts, tops = [], []
    noise = lambda n: 0.02 * rng.normal(size=n)  # noqa: E731
    for metric, k, top in (("r2_topk", "20", 0.9), ("r2_topk", "50", 0.9), ("pearson_delta", "", 0.9),
                           ("spearman_delta", "", 0.2), ("pearson_topk", "20", 0.9)):  # fmt: skip
        this = {"metric": metric, "k": k}
        parts += [*floors(30, noise(30), **this), rows("m", 0.6 + noise(30), variant="small", **this)]
        parts += [rows("additive", 0.5 + noise(30), **this), rows("n", 0.6 + noise(30), **this)]
        tops.append(duplicate(top + 0.1 * rng.normal(size=30), **this))
    few = {"split": "few"}
    parts += [*floors(5, **few), rows("m", 0.6 + noise(5), variant="small", **few)]
    tops.append(duplicate(0.9 + noise(5), **few))
    effect, nothing = {"split": "noise", "metric": "r2_topk", "k": "20"}, np.full(27, NAN)
    parts += [*[rows(m, nothing, **effect) for m in ("no_change", "mean_shift", "n")]]
    tops.append(duplicate(nothing, **effect))
    for metric in ("pearson_delta", "spearman_delta"):
        this = {"split": "noise", "metric": metric}
        parts += [rows("no_change", np.zeros(27), **this), rows("mean_shift", 0.1 * rng.normal(size=27), **this)]
        parts += [rows("n", 0.1 * rng.normal(size=27), **this)]
        tops.append(duplicate(0.1 * rng.normal(size=27), **this))
    return board(parts, tops)


def test_verdicts(tidy: pd.DataFrame) -> None:
    table = verdicts(tidy)
    assert table.columns.tolist() == VERDICT_COLUMNS
    assert (table.split + " " + table.metric + " " + table.k).tolist() == [
        *["few pearson_delta ", "noise none ", "s r2_topk 20", "s pearson_delta "]
    ]
    few, noise, headline, _ = (row for _, row in table.iterrows())
    assert set(headline.tied_for_first.split(", ")) == {"m small", "n"}
    assert headline.best in ("m small", "n")
    assert (headline.best_baseline, headline.n_units, headline.note) == ("additive", 30, "")
    assert set(headline.beats_baseline.split(", ")) == {"m small", "n"}
    assert (few.tied_for_first, few.beats_baseline) == ("all 3", "")
    assert (few.note, few.n_units) == ("not testable: 5 held-out units", 5)
    assert noise.note == (
        "2 of 3 metrics: the duplicate does not beat no_change; 1 of 3 metrics: undefined in all conditions: no effect"
    )
    assert (noise.best, noise.tied_for_first, noise.beats_baseline) == ("", "", "")
    assert pd.isna(noise.n_units)


def test_wide(tidy: pd.DataFrame) -> None:
    table = leaderboard_wide(tidy)
    assert table.columns.tolist() == ["dataset", "split", "model", "variant", "verdict", "r2_top20", "pearson_delta"]
    s = table[table.split == "s"]
    assert s.model.tolist()[2:] == ["additive", "mean_shift", "no_change"]
    got = line(tidy, "additive", "r2_topk", "20", split="s")
    text = f"3 | {got.anchored:.2f} [{got.anchored_low:.2f}, {got.anchored_high:.2f}]"
    assert s.r2_top20.iloc[2] == text
    assert s.r2_top20.iloc[0].startswith("1-2 | 0.5")
    assert s.verdict.iloc[0] == "first or tied in 2 of 2, beats the best baseline in 2"
    assert s.verdict.iloc[4] == "first or tied in 0 of 2, beats the best baseline in 0"
    few = table[table.split == "few"]
    assert few.verdict.unique().tolist() == ["not testable: 5 held-out units"]
    assert few.r2_top20.unique().tolist() == [""]
    assert few.pearson_delta.iloc[0].startswith("1-3 | 0.5")


def test_a_split_of_noise_says_so_instead_of_ranking(tidy: pd.DataFrame) -> None:
    noise = leaderboard_wide(tidy).query("split == 'noise'")
    assert noise.model.tolist() == ["–"]
    said = "no metric passes: nothing here can rank models; 2 of 3 metrics: the duplicate does not beat no_change"
    assert noise.verdict.tolist() == [said]
    assert (noise[["variant", "r2_top20", "pearson_delta"]] == "").all(axis=None)
    assert tidy[tidy.split == "noise"]["rank"].isna().all()


def test_reading_forms_are_the_same_after_a_csv(tidy: pd.DataFrame, tmp_path: Any) -> None:
    tidy.to_csv(tmp_path / "t.csv", index=False)
    again = pd.read_csv(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(leaderboard_wide(again), leaderboard_wide(tidy))
    pd.testing.assert_frame_equal(verdicts(again), verdicts(tidy))


def test_only_shown_metrics() -> None:
    shown = {"metric": "r2_centered_topk", "k": "50"}
    table = board(floors(12, **shown), [duplicate(np.full(12, 0.9), **shown)])
    assert verdicts(table).note.tolist() == ["none that may rank was scored"]
    assert leaderboard_wide(table).model.tolist() == ["–"]
