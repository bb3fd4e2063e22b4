"""Calibration of cases with known truth."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from trueshift.contract import ContractError
from trueshift.evaluation.registry import METRICS
from trueshift.evaluation.validity import CALIBRATION_COLUMNS, SUMMARY_COLUMNS, calibrate, passing, summary

NAN = float("nan")


def rows(model: str, values: Any, **more: Any) -> pd.DataFrame:
    """Rows of one model as both files have them, one per value; condition i is of unit i and has 100 test cells."""
    values = np.asarray(values, dtype=float)
    names = [f"P{i}" for i in range(len(values))]
    base: dict[str, Any] = {
        "fold": "1",
        "model": model,
        "variant": "default",
        "seed": "0",
        "context": "c",
        "perturbation": names,
    }
    base |= {"dose": "1", "cluster": names, "metric": "pearson_delta", "k": "", "value": values, "value_half": values}
    base |= {"reason": np.where(np.isnan(values), "no effect", ""), "ceiling_use": "condition", "n_cells": 100}
    return pd.DataFrame(base | more, index=range(len(values)))


def both_floors(values: Any, **more: Any) -> list[pd.DataFrame]:
    return [rows(floor, values, **more) for floor in ("no_change", "mean_shift")]


def duplicate(values: Any, **more: Any) -> pd.DataFrame:
    return rows("technical_duplicate", values, **more).drop(columns=["variant", "seed", "value_half"])


def run(floors: Sequence[pd.DataFrame], ceilings: Sequence[pd.DataFrame] = (), seed: int = 0) -> pd.DataFrame:
    return calibrate(pd.concat(floors), pd.concat(ceilings) if ceilings else pd.DataFrame(), seed)


def line(table: pd.DataFrame, floor: str = "no_change", metric: str = "pearson_delta", k: str = "") -> pd.Series:
    found = table[(table.floor == floor) & (table.metric == metric) & (table.k == k)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 30))


# --- numbers ------------------------------------------------------------------------------------------


def test_a_metric_that_sees_the_effect_passes(noise: np.ndarray) -> None:
    floors = [rows("no_change", np.zeros(30)), rows("mean_shift", 0.2 + 0.05 * noise[0])]
    table = run(floors, [duplicate(0.8 + 0.05 * noise[1])])
    assert table.columns.tolist() == CALIBRATION_COLUMNS
    assert table.floor.tolist() == ["no_change", "mean_shift"]
    assert table.passes.tolist() == [True, True]
    assert set(table.reason) == {""}
    assert passing(table) == {("pearson_delta", ""): ""}
    got = line(table, "mean_shift")
    b, r = 0.2 + 0.05 * noise[0], 0.8 + 0.05 * noise[1]
    assert (got.n_conditions, got.n_alone, got.n_clusters, got.optimum) == (30, 30, 30, 1)
    assert (got.negative, got.positive) == (pytest.approx(b.mean()), pytest.approx(r.mean()))
    assert got.drf == pytest.approx((b.mean() - r.mean()) / (b.mean() - 1))  # not the mean of the ratios
    assert got.drf_low < got.drf < got.drf_high
    assert got.bds == 1
    expected = stats.binomtest(30, 30).proportion_ci(method="wilson")
    assert (got.bds_low, got.bds_high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert np.isnan(got.interpolated)


def test_interval_of_drf_resamples_floor_and_duplicate_together(noise: np.ndarray) -> None:
    b = 0.2 + 0.1 * noise[0]
    r = 0.7 + 0.5 * (b - 0.2) + 0.1 * noise[1]
    got = line(run(both_floors(b), [duplicate(r)]))
    rng = np.random.default_rng(1)
    taken = rng.integers(30, size=(20_000, 30))
    drf = (b - r)[taken].mean(axis=1) / (b - 1)[taken].mean(axis=1)
    np.testing.assert_allclose((got.drf_low, got.drf_high), np.quantile(drf, [0.025, 0.975]), atol=0.005)
    gain = (r - b)[taken].mean(axis=1)
    assert got.gain_low == pytest.approx(np.quantile(gain, 0.025), abs=0.005)


def test_errors_are_better_when_lower(noise: np.ndarray) -> None:
    error = {"metric": "mse"}
    table = run(both_floors(2 + 0.1 * noise[0], **error), [duplicate(0.5 + 0.1 * noise[1], **error)])
    got = line(table, metric="mse")
    assert got.optimum == 0
    assert got.drf == pytest.approx(1 - (0.5 + 0.1 * noise[1]).mean() / (2 + 0.1 * noise[0]).mean())
    assert (got.bds, got.passes) == (1, True)
    assert 1.3 < got.gain_low < 1.6
    worse = line(
        run(both_floors(0.5 + 0.1 * noise[0], **error), [duplicate(2 + 0.1 * noise[1], **error)]), metric="mse"
    )
    assert (worse.bds, worse.passes) == (0, False)
    assert worse.drf == pytest.approx(-3, abs=0.3)  # never clipped


def test_small_conditions_count_in_means_only() -> None:
    use = ["condition"] * 10 + ["mean"] * 10
    table = run(both_floors(np.zeros(20)), [duplicate([0.5] * 10 + [-0.1] * 10, ceiling_use=use)])
    got = line(table)
    assert (got.n_conditions, got.n_alone, got.bds) == (20, 10, 1)
    assert got.positive == pytest.approx(0.2)
    assert got.bds_low == pytest.approx(stats.binomtest(10, 10).proportion_ci(method="wilson").low)


def test_conditions_of_one_unit_are_no_more_evidence() -> None:
    units = {"cluster": np.repeat([f"u{i}" for i in range(6)], 4)}
    values = np.tile([0.5, 0.5, 0.5, -0.1], 6)
    got = line(run(both_floors(np.zeros(24), **units), [duplicate(values, **units)]))
    assert (got.n_conditions, got.n_clusters, got.bds) == (24, 6, 0.75)
    half_width = (got.bds_high - got.bds_low) / 2
    assert half_width > 1.5 * np.ptp(stats.binomtest(18, 24).proportion_ci(method="wilson")) / 2
    # every unit has the same mean, so DRF is certain, but 6 units cannot show that .75 is above a half
    assert got.drf_low == pytest.approx(got.drf)
    assert got.reason == f"the duplicate does not beat no_change (BDS 0.75 [{got.bds_low:.2f}, {got.bds_high:.2f}])"


def test_a_tie_is_no_win() -> None:
    assert line(run(both_floors(np.zeros(8)), [duplicate([0.5] * 6 + [0.0] * 2)])).bds == 0.75


def test_seeds_then_folds_are_averaged(noise: np.ndarray) -> None:
    floors = both_floors([0.1] * 6, seed="0") + both_floors([0.3] * 6, seed="1")
    floors += both_floors([0.6] * 6, fold="2") + both_floors([9.0] * 6, fold="3")  # fold 3 has no duplicate
    ceilings = [duplicate([0.8] * 6), duplicate([0.6] * 6, fold="2", ceiling_use="mean")]
    got = line(run(floors, ceilings))
    assert got.negative == pytest.approx((0.2 + 0.6) / 2)
    assert got.positive == pytest.approx(0.7)
    assert (got.n_conditions, got.n_alone) == (6, 0)  # too small in one of its folds: not on its own
    assert got.reason == "no condition with a duplicate of its own (60 test cells)"


def test_only_conditions_with_both_count() -> None:
    b = np.array([0.1] * 6 + [NAN] + [0.1])
    r = np.array([0.8] * 6 + [0.8] + [NAN])
    got = line(run(both_floors(b), [duplicate(r)]))
    assert (got.n_conditions, got.negative, got.positive) == (6, pytest.approx(0.1), pytest.approx(0.8))


def test_the_floor_is_that_on_halves() -> None:
    floors = both_floors([0.1] * 6, value=[0.9] * 6)
    assert line(run(floors, [duplicate([0.8] * 6)])).negative == pytest.approx(0.1)


def test_interpolated_duplicate_is_a_mean_beside() -> None:
    mixed = duplicate([0.9] * 5 + [NAN]).assign(model="interpolated_duplicate")
    got = line(run(both_floors([0.1] * 6), [duplicate([0.8] * 6), mixed]))
    assert (got.positive, got.interpolated) == (pytest.approx(0.8), pytest.approx(0.9))


# --- reasons ------------------------------------------------------------------------------------------


def test_no_effect_anywhere() -> None:
    effect = {"metric": "r2_topk", "k": "20"}
    nothing = [NAN] * 21
    reason = ["no effect"] * 19 + ["too few controls"] * 2
    table = run(both_floors(nothing, reason=reason, **effect), [duplicate(nothing, **effect)])
    got = line(table, metric="r2_topk", k="20")
    assert (got.passes, got.n_conditions) == (False, 0)
    assert got.reason == "undefined in all conditions: no effect (19), too few controls (2)"
    assert passing(table) == {("r2_topk", "20"): got.reason}  # said once, though both floors have it
    assert np.isnan(got[["negative", "positive", "drf", "bds", "gain_low"]].astype(float)).all()


@pytest.mark.parametrize("columns", [[], ["model", "fold", "context", "perturbation", "dose", "metric", "k", "value"]])
def test_no_duplicate_at_all(columns: list[str]) -> None:
    table = calibrate(pd.concat(both_floors([0.1] * 9)), pd.DataFrame(columns=columns), 0)
    assert table.passes.tolist() == [False, False]
    assert set(table.reason) == {"no condition with a technical duplicate (20 test cells)"}


def test_duplicate_undefined() -> None:
    halves = "not on halves"
    table = run(both_floors([0.1] * 9), [duplicate([NAN] * 9, reason=halves)])
    assert set(table.reason) == {"the technical duplicate is undefined: not on halves (9)"}
    table = run(both_floors([0.1] * 9, value_half=NAN), [duplicate([0.5] * 9)])
    assert line(table).reason == "no_change is undefined on the halves of the technical duplicate"


def test_a_floor_without_cells_leaves_it_to_the_other() -> None:
    cells = {"metric": "e_distance"}
    good, ceiling = rows("no_change", [12.0] * 9, **cells), duplicate(np.linspace(0, 0.2, 9), **cells)
    profile = rows("mean_shift", [NAN] * 9, reason="no cells", **cells)
    table = run([good, profile], [ceiling])
    assert table.passes.isna().tolist() == [False, True]
    assert line(table, "mean_shift", "e_distance").reason == "no floor: no cells"
    assert passing(table) == {("e_distance", ""): ""}
    neither = run([profile, profile.assign(model="no_change")], [ceiling])
    assert passing(neither) == {("e_distance", ""): "no floor: no cells"}


def test_a_floor_that_did_not_run_is_not_beaten() -> None:
    table = run([rows("no_change", [0.1] * 9)], [duplicate([0.8] * 9)])
    assert passing(table) == {("pearson_delta", ""): "mean_shift was not scored"}


def test_few_units_have_no_interval() -> None:
    units = {"cluster": np.repeat(["u", "v", "w"], 7)}
    got = line(run(both_floors([0.1] * 21, **units), [duplicate([0.8] * 21, **units)]))
    assert (got.passes, got.reason) == (False, "3 held-out units: no interval below 5")
    assert (got.bds, got.n_conditions) == (1, 21)
    assert np.isnan([got.drf_low, got.gain_low]).all()


def test_both_floors_must_be_beaten(noise: np.ndarray) -> None:
    floors = [rows("no_change", np.zeros(30)), rows("mean_shift", 0.5 + 0.1 * noise[0])]
    table = run(floors, [duplicate(0.5 + 0.1 * noise[1])])
    assert table.passes.tolist() == [True, False]
    got = line(table, "mean_shift")
    assert got.reason.startswith("the duplicate does not beat mean_shift (BDS 0.")
    assert passing(table) == {("pearson_delta", ""): got.reason}


def test_a_few_disasters_undo_many_small_wins() -> None:
    r = np.array([0.2] * 18 + [-1.0] * 3)
    got = line(run(both_floors(np.full(21, 0.1)), [duplicate(r)]))
    assert got.bds_low > 0.5
    assert got.drf == pytest.approx((0.1 * 18 - 1.1 * 3) / 21 / 0.9)
    span = f"{got.drf:.2f} [{got.drf_low:.2f}, {got.drf_high:.2f}]"
    assert got.reason == f"the duplicate does not beat no_change (DRF {span})"


def test_a_gain_in_few_units_is_uncertain_even_where_the_duplicate_is_near_perfect() -> None:
    b = np.array([0.6, 0.97, 0.97, 0.97, 0.97])
    got = line(run(both_floors(b), [duplicate(0.99 + 0.01 * (b - 0.6))]))
    assert (got.bds, got.drf_low > 0, got.passes) == (1, True, True)
    assert got.gain_low < 0  # so that nothing is anchored in it


def test_a_perfect_floor_leaves_nothing_to_beat() -> None:
    got = line(run(both_floors(np.ones(9)), [duplicate(np.ones(9))]))
    assert (got.passes, got.bds) == (False, 0)
    assert np.isnan(got.drf)


# --- panels -------------------------------------------------------------------------------------------


def test_small_panels_are_undefined(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = replace(METRICS["pearson_delta"], name="of_a_panel", needs=("panel",))
    monkeypatch.setitem(METRICS, metric.name, metric)
    where = {"context": ["a"] * 6 + ["b"] * 4, "metric": metric.name}
    values = [0.1] * 6 + [0.9] * 4
    table = run(both_floors(values, **where), [duplicate([0.8] * 10, **where)])
    got = line(table, metric="of_a_panel")
    assert (got.n_conditions, got.negative) == (6, pytest.approx(0.1))
    everywhere = where | {"context": ["a"] * 4 + ["b"] * 4 + ["c"] * 2}
    table = run(both_floors(values, **everywhere), [duplicate([0.8] * 10, **everywhere)])
    expected = "undefined in all conditions: panel of fewer than 5 conditions (10)"
    assert passing(table) == {("of_a_panel", ""): expected}
    # the halves can have a smaller panel than the test: there the duplicate is undefined
    table = run(both_floors(values, **where), [duplicate([0.8] * 10, **where).iloc[2:]])
    assert line(table, metric="of_a_panel").n_conditions == 0


def test_panels_do_not_matter_to_other_metrics() -> None:
    where = {"context": ["a"] * 6 + ["b"] * 4}
    assert line(run(both_floors([0.1] * 10, **where), [duplicate([0.8] * 10, **where)])).n_conditions == 10


# --- the whole ----------------------------------------------------------------------------------------


def test_order_is_that_of_the_registry() -> None:
    asked = [("mae", ""), ("r2_topk", "all"), ("r2_topk", "100"), ("r2_topk", "20"), ("pearson_delta", "")]
    frames = [both_floors([0.1] * 6, metric=metric, k=k) for metric, k in asked]
    table = run([part for pair in frames for part in pair])
    expected = ["r2_topk 20", "r2_topk 100", "r2_topk all", "pearson_delta ", "mae "]
    assert (table.metric + " " + table.k).drop_duplicates().tolist() == expected
    with pytest.raises(ContractError, match="unheard_of"):
        run(both_floors([0.1] * 6, metric="unheard_of"))
    with pytest.raises(ContractError, match="value_half"):
        calibrate(rows("no_change", [0.1]).drop(columns="value_half"), pd.DataFrame(), 0)


def test_order_of_rows_does_not_matter(noise: np.ndarray) -> None:
    floors = pd.concat(both_floors(0.1 * noise[0][:12]))
    ceilings = duplicate(0.5 + 0.1 * noise[1][:12])
    shuffled = calibrate(floors.sample(frac=1, random_state=1), ceilings.sample(frac=1, random_state=2), 0)
    pd.testing.assert_frame_equal(calibrate(floors, ceilings, 0), shuffled)


@pytest.mark.slow
def test_noise_rarely_passes() -> None:
    """A metric that cannot tell the duplicate from the floors: both are draws from one distribution."""
    rng = np.random.default_rng(3)
    passed = []
    for i in range(150):
        units = {"cluster": np.repeat([f"u{j}" for j in range(15)], 2)}
        shared, r, *b = rng.normal(0, 0.2, size=(4, 30))
        floors = [rows(name, shared + x, **units) for name, x in zip(("no_change", "mean_shift"), b, strict=True)]
        passed.append(passing(run(floors, [duplicate(shared + r, **units)], seed=i)))
    assert np.mean([reasons["pearson_delta", ""] == "" for reasons in passed]) <= 0.05


def test_summary_reads(noise: np.ndarray, tmp_path: Path) -> None:
    parts = []
    for metric, k in (("r2_topk", "20"), ("r2_centered_topk", "20"), ("pearson_delta", "")):
        this = {"metric": metric, "k": k}
        parts.append([rows("no_change", np.zeros(30), **this), rows("mean_shift", 0.2 + 0.05 * noise[0], **this)])
    ceilings = [duplicate(0.8 + 0.05 * noise[1], metric="r2_topk", k="20")]
    ceilings += [duplicate(0.8 + 0.05 * noise[1], metric="r2_centered_topk", k="20")]
    ceilings += [duplicate(0.2 + 0.05 * noise[2])]
    run([part for pair in parts for part in pair], ceilings).to_parquet(tmp_path / "calibration.parquet")
    calibration = pd.read_parquet(tmp_path / "calibration.parquet").assign(dataset="d", split="s")
    table = summary(calibration)
    assert table.columns.tolist() == SUMMARY_COLUMNS
    assert table.metric.tolist() == ["r2_topk", "r2_centered_topk", "pearson_delta"]
    assert table.passes.tolist() == ["yes", "yes", "no"]
    assert table.ranks.tolist() == ["yes", "never", "no"]
    assert table.floor_model.tolist() == ["mean_shift"] * 3
    assert table.floor[0] == float(f"{(0.2 + 0.05 * noise[0]).mean():.3g}")
    got = line(calibration, "mean_shift", "r2_topk", "20")
    assert table.drf[0] == f"{got.drf:.2f} [{got.drf_low:.2f}, {got.drf_high:.2f}]"
    assert table.bds[0] == f"1.00 [{got.bds_low:.2f}, 1.00]"
    assert (table.n_conditions[0], table.n_units[0]) == (30, 30)
    assert table.why.tolist()[:2] == ["", ""]
    assert table.why[2].startswith("the duplicate does not beat mean_shift")


def test_summary_of_what_is_undefined_has_empty_fields() -> None:
    floors = both_floors([NAN] * 21, metric="r2_topk", k="20") + both_floors([2.0] * 21, metric="mse")
    other = rows("mean_shift", [3.0] * 21, metric="mse")
    floors = [f for f in floors if not (f.metric[0] == "mse" and f.model[0] == "mean_shift")] + [other]
    table = summary(run(floors, [duplicate([0.5] * 21, metric="mse")]).assign(dataset="d", split="s"))
    first = table.iloc[0]
    assert (first.drf, first.bds, first.floor_model, first.n_conditions) == ("", "", "", 0)
    assert np.isnan([first.floor, first.ceiling]).all()
    assert first.why == "undefined in all conditions: no effect (21)"
    assert (table.floor[1], table.floor_model[1]) == (2.0, "no_change")  # the lower error is the harder floor
