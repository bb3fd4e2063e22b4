"""Tables of hand-computed cases."""

import numpy as np
import pandas as pd
import pytest

from trueshift.contract import ContractError
from trueshift.report import tables
from trueshift.report.conditions import conditions
from trueshift.report.tables import topk_r2, topk_r2_wide, undefined
from trueshift.results import FOLD, RUN, gather, path_labels

NAN = float("nan")


def row(model, value, perturbation="P", *, fold="1", context="c", seed="0", metric="r2_topk", k="20", **more):
    base = {
        "dataset": "d",
        "split": "s",
        "fold": fold,
        "model": model,
        "variant": "default",
        "seed": seed,
        "context": context,
        "perturbation": perturbation,
        "dose": "1",
        "cluster": perturbation,
        "metric": metric,
        "k": k,
        "value": value,
        "reason": "",
        "n_deg": 5,
        "flags": "",
    }
    return base | more


def duplicate(value, perturbation="P", use="condition", **more):
    return row("technical_duplicate", value, perturbation, **more) | {"ceiling_use": use}


def line(table, model="m", metric="r2_topk", k="20", **where):
    where = {"fold": "all", "context": "all", "seed": "all", "model": model, "metric": metric, "k": k} | where
    found = table[np.logical_and.reduce([table[c] == v for c, v in where.items()])]
    assert len(found) == 1, where
    return found.iloc[0]


def tabulate(rows, ceilings=()):
    return topk_r2(pd.DataFrame(rows), pd.DataFrame(list(ceilings)))


def test_columns_in_order():
    assert tabulate([row("m", 0.5)]).columns.tolist() == [
        *["dataset", "split", "fold", "context", "model", "variant", "seed", "metric", "k", "value", "low", "high"],
        *["ci_method", "n_conditions", "n_undefined", "n_no_effect", "n_constant", "floor", "ceiling"],
    ]


def test_seeds_are_averaged_before_conditions():
    # P has two seeds, Q one: the mean over rows would be 0.5, the mean over conditions is (0.3 + 0.9) / 2
    table = tabulate([row("m", 0.2, "P"), row("m", 0.4, "P", seed="1"), row("m", 0.9, "Q")])
    assert line(table).value == pytest.approx(0.6)
    assert line(table).n_conditions == 2
    assert line(table, seed="0").value == pytest.approx((0.2 + 0.9) / 2)
    assert line(table, seed="1").value == pytest.approx(0.4)


def test_folds_are_averaged_inside_a_condition():
    table = tabulate([row("m", 0.2, fold="1"), row("m", 0.6, fold="2"), row("m", 1.0, "Q", fold="2")])
    assert line(table).value == pytest.approx((0.4 + 1.0) / 2)
    assert line(table).n_conditions == 2
    assert line(table, fold="1").value == pytest.approx(0.2)
    assert line(table, fold="2").value == pytest.approx(0.8)
    assert line(table, fold="2").n_conditions == 2


def test_a_condition_held_out_with_two_units_counts_for_each():
    table = tabulate([row("m", 0.2, fold="1", cluster="donor1"), row("m", 0.6, fold="2", cluster="donor2")])
    assert line(table).n_conditions == 2


def test_each_context_over_all_folds():
    rows = [row("m", 0.1, context="a"), row("m", 0.3, context="a", fold="2"), row("m", 0.9, context="b")]
    table = tabulate(rows)
    assert line(table, context="a").value == pytest.approx(0.2)
    assert line(table, context="b").value == pytest.approx(0.9)
    assert line(table).value == pytest.approx((0.2 + 0.9) / 2)


def test_only_the_documented_cuts_and_their_order():
    rows = [
        row("m", 0.1, context=context, fold=fold, seed=seed)
        for context in "ab"
        for fold in ("1", "2", "10")
        for seed in "01"
    ]
    table = tabulate(rows)
    cuts = table[["fold", "context", "seed"]].agg(" ".join, axis=1).tolist()
    assert cuts == [
        *["all all all", "all all 0", "all all 1", "all a all", "all b all"],
        *["1 all all", "2 all all", "10 all all"],
    ]


def test_reasons_are_counted_not_averaged():
    rows = [
        row("m", 0.5, "P"),
        row("m", NAN, "Q", reason="no effect"),
        row("m", NAN, "R", reason="no effect"),
        row("m", NAN, "S", reason="too few controls"),
    ]
    got = line(tabulate(rows))
    assert (got.value, got.n_conditions, got.n_no_effect, got.n_undefined) == (0.5, 1, 2, 1)


def test_without_any_defined_value_the_row_stays():
    got = line(tabulate([row("m", NAN, reason="no effect"), row("no_change", NAN, reason="no effect")]))
    assert np.isnan([got.value, got.low, got.high, got.floor, got.ceiling]).all()
    assert (got.n_conditions, got.n_no_effect, got.n_undefined) == (0, 1, 0)
    assert got.ci_method.startswith("none")


def test_constant_predictions_are_counted_once_per_condition():
    mark = {"metric": "pearson_topk", "flags": "few_controls;constant_prediction"}
    rows = [row("m", 0.0, "P", seed=seed, **mark) for seed in "01"]
    rows += [row("m", 0.5, "Q", metric="pearson_topk", flags="few_controls")]
    got = line(tabulate(rows), metric="pearson_topk")
    assert (got.n_constant, got.n_conditions) == (1, 2)


# --- floor and ceiling --------------------------------------------------------------------------------


def test_floor_is_the_better_baseline_on_the_conditions_of_the_model():
    rows = [row("m", 0.5, "P"), row("m", NAN, "Q", reason="diverged")]
    rows += [row("no_change", 0.0, "P"), row("no_change", 0.0, "Q")]
    rows += [row("mean_shift", 0.3, "P"), row("mean_shift", 0.9, "Q")]
    table = tabulate(rows)
    assert line(table).floor == pytest.approx(0.3)  # only P: not (0.3 + 0.9) / 2
    assert line(table, "no_change").floor == pytest.approx(0.6)
    rows[4]["value"] = -2.0
    assert line(tabulate(rows)).floor == 0.0  # now no_change is the better one


def test_floor_averages_the_seeds_of_a_baseline():
    rows = [row("m", 0.5), row("mean_shift", 0.2), row("mean_shift", 0.4, seed="1")]
    assert line(tabulate(rows)).floor == pytest.approx(0.3)


def test_a_baseline_that_lacks_a_condition_is_no_floor():
    rows = [row("m", 0.5, "P"), row("m", 0.5, "Q"), row("mean_shift", 0.9, "P")]
    assert np.isnan(line(tabulate(rows)).floor)
    rows += [row("no_change", 0.0, "P"), row("no_change", 0.0, "Q")]
    assert line(tabulate(rows)).floor == 0.0


def test_a_baseline_that_lacks_a_fold_is_no_floor_over_all_folds():
    rows = [row("m", 0.5, fold="1"), row("m", 0.5, fold="2"), row("no_change", 0.1, fold="1")]
    table = tabulate(rows)
    assert line(table, fold="1").floor == pytest.approx(0.1)
    assert np.isnan(line(table).floor)
    assert np.isnan(line(table, fold="2").floor)


def test_floor_and_ceiling_are_of_the_same_metric_and_k():
    rows = [row("m", 0.5, k=k, metric=metric) for k in ("20", "all") for metric in ("r2_topk", "pearson_topk")]
    rows += [row("mean_shift", 0.1, k="all", metric="pearson_topk")]
    table = tabulate(rows, [duplicate(0.8, k="all", metric="pearson_topk")])
    got = line(table, k="all", metric="pearson_topk")
    assert (got.floor, got.ceiling) == (0.1, 0.8)
    assert table[(table.model == "m")][["floor", "ceiling"]].notna().all(axis=1).sum() == 4  # its four cuts, no other


def test_ceiling_is_the_duplicate_on_the_defined_conditions_that_have_one():
    rows = [row("m", 0.5, "P"), row("m", 0.5, "Q"), row("m", 0.5, "R"), row("m", NAN, "S", reason="diverged")]
    ceilings = [duplicate(0.8, "P"), duplicate(0.9, "Q", "mean"), duplicate(0.1, "S"), duplicate(0.1, "T")]
    assert line(tabulate(rows, ceilings)).ceiling == pytest.approx(0.85)
    assert np.isnan(line(tabulate(rows)).ceiling)


def test_a_small_duplicate_does_not_speak_for_a_single_condition():
    rows = [row("m", 0.5, "P", context="a"), row("m", 0.5, "Q", context="b")]
    table = tabulate(rows, [duplicate(0.8, "P", context="a"), duplicate(0.6, "Q", "mean", context="b")])
    assert line(table).ceiling == pytest.approx(0.7)
    assert line(table, context="a").ceiling == pytest.approx(0.8)
    assert np.isnan(line(table, context="b").ceiling)


def test_halvings_in_rows_of_their_own_are_averaged():
    table = tabulate([row("m", 0.5)], [duplicate(0.6, halving=0), duplicate(0.8, halving=1)])
    assert line(table).ceiling == pytest.approx(0.7)


# --- intervals ----------------------------------------------------------------------------------------


def test_interval_is_by_cluster_of_seed_averages(monkeypatch):
    seen = []

    def interval(values, clusters, seed):
        seen.append(dict(zip(clusters.tolist(), values.tolist(), strict=True)))
        return -1.0, 1.0, "test"

    monkeypatch.setattr(tables, "interval", interval)
    rows = [
        row("m", 0.2, "P"),
        row("m", 0.4, "P", seed="1"),
        row("m", 0.9, "Q"),
        row("m", NAN, "R", reason="no effect"),
    ]
    got = line(tabulate(rows))
    assert (got.low, got.high, got.ci_method) == (-1.0, 1.0, "test")
    assert seen[0] == pytest.approx({"P": 0.3, "Q": 0.9})


def test_interval_of_equal_clusters_is_the_t_interval_of_their_means():
    values = [0.1, 0.4, 0.5, 0.2, 0.9, 0.3]
    rows = [row("m", v + e, f"P{i}", context=c) for i, v in enumerate(values) for c, e in (("a", -0.05), ("b", 0.05))]
    got = line(tabulate(rows))
    from scipy import stats

    low, high = stats.t.interval(0.95, 5, loc=np.mean(values), scale=stats.sem(values))
    assert (got.low, got.high) == pytest.approx((low, high))
    assert got.n_conditions == 12


def test_few_clusters_have_no_interval():
    got = line(tabulate([row("m", 0.1 * i, f"P{i}") for i in range(4)]))
    assert np.isnan([got.low, got.high]).all()
    assert got.ci_method.startswith("none")


# --- robustness ---------------------------------------------------------------------------------------


def test_order_of_rows_does_not_matter():
    rng = np.random.default_rng(0)
    rows = [
        row(m, rng.normal(), p, fold=f, k=k)
        for m in ("no_change", "x")
        for p in "PQR"
        for f in "12"
        for k in ("20", "all")
    ]
    scores, ceilings = pd.DataFrame(rows), pd.DataFrame([duplicate(0.9, p, fold=f) for p in "PQR" for f in "12"])
    shuffled = topk_r2(scores.sample(frac=1, random_state=1), ceilings.sample(frac=1, random_state=2))
    pd.testing.assert_frame_equal(topk_r2(scores, ceilings), shuffled)


def test_every_metric_is_there_and_the_headline_comes_first():
    rows = [row("m", 0.5, metric="mse", k=""), row("m", 0.5), row("m", 0.5, metric="legacy_r2_top20", k="")]
    assert tabulate(rows).metric.unique().tolist() == ["r2_topk", "legacy_r2_top20", "mse"]


def test_the_floor_of_an_error_is_the_lower_one():
    models = {"m": 0.5, "no_change": 0.3, "mean_shift": 0.2}
    errors = tabulate([row(name, value, metric="mse", k="") for name, value in models.items()])
    assert set(errors.floor) == {0.2}
    assert set(tabulate([row(name, value) for name, value in models.items()]).floor) == {0.3}


def test_the_same_file_twice_is_refused():
    with pytest.raises(ContractError, match=r"P.*twice"):
        tabulate([row("m", 0.5), row("m", 0.5)])


def test_a_missing_column_is_named():
    with pytest.raises(ContractError, match="scores: the column cluster"):
        topk_r2(pd.DataFrame([row("m", 0.5)]).drop(columns="cluster"), pd.DataFrame())


# --- reading form -------------------------------------------------------------------------------------


def wide_rows():
    rows = [row("low", 0.1 * i, f"P{i}", k=k) for i in range(6) for k in ("20", "100", "all")]
    rows += [row("high", 0.1 * i + 0.3, f"P{i}", k=k) for i in range(6) for k in ("20", "100", "all")]
    rows += [row("none", NAN, f"P{i}", k=k, reason="no effect") for i in range(6) for k in ("20", "100", "all")]
    rows += [row("odd", NAN, f"P{i}", k=k, reason="diverged") for i in range(6) for k in ("20", "100", "all")]
    return rows


def test_wide_sorts_by_value_and_prints_intervals():
    table = tabulate([*wide_rows(), *[row("no_change", 0.0, f"P{i}") for i in range(6)]])
    wide = topk_r2_wide(table)
    assert wide.model.tolist() == ["high", "low", "no_change", "none", "odd"]
    assert wide.columns.tolist() == [
        *["dataset", "split", "model", "variant", "r2_top20", "r2_top100", "r2_topall"],
        *["floor_top20", "floor_top100", "floor_topall", "ceiling_top20", "ceiling_top100", "ceiling_topall"],
        *["n_conditions", "n_undefined", "n_no_effect"],
    ]
    low = line(table, "low")
    assert wide.r2_top20[1] == f"0.250 [{low.low:.3f}, {low.high:.3f}]"
    assert wide.r2_top20.tolist()[3:] == ["no effect", "undefined"]
    assert wide.n_no_effect.tolist() == [0, 0, 0, 6, 0]
    assert wide.floor_top20[0] == 0.0
    assert np.isnan(wide.floor_top100[0])


def test_wide_without_interval_prints_the_value_alone():
    assert topk_r2_wide(tabulate([row("m", -0.25)])).r2_top20.tolist() == ["-0.250"]


@pytest.mark.parametrize("extra", [[], [row("m", 0.5, metric="legacy_r2_top20", k="")]])
def test_wide_is_the_same_after_a_csv(tmp_path, extra):
    table = tabulate([*(r for r in wide_rows() if r["k"] != "all" or not extra), *extra])
    table.to_csv(tmp_path / "t.csv", index=False)
    pd.testing.assert_frame_equal(topk_r2_wide(pd.read_csv(tmp_path / "t.csv")), topk_r2_wide(table))


# --- undefined, conditions ----------------------------------------------------------------------


def test_undefined_counts_reasons_over_folds_but_not_seeds():
    rows = [row("m", NAN, p, seed=s, fold=f, reason="no effect") for p in "PQ" for s in "01" for f in "12"]
    rows += [row("m", NAN, "R", metric="mse", k="", reason="other"), row("m", 0.5, "S")]
    table = undefined(pd.DataFrame(rows))
    assert table.columns.tolist() == ["dataset", "split", "model", "variant", "metric", "k", "reason", "n"]
    assert table[["metric", "k", "reason", "n"]].values.tolist() == [
        ["r2_topk", "20", "no effect", 4],
        ["mse", "", "other", 1],
    ]


def test_conditions_are_sorted_and_keep_missing_tests():
    base = {"dataset": "d", "split": "s", "context": "c", "perturbation": "P", "modality": "KO", "cluster": "P"}
    numbers = {"n_cells": 9, "n_controls": 80, "n_seen": 1, "flags": "few_controls"}
    parts = [
        pd.DataFrame([base | numbers | {"fold": fold, "dose": dose, "n_deg": n_deg}])
        for fold, dose, n_deg in (("10", "1", 3), ("2", "10", None), ("2", "5", 0))
    ]
    table = conditions(pd.concat(parts).astype({"n_deg": "Int32"}))
    assert table.columns.tolist() == [
        *["dataset", "split", "fold", "context", "perturbation", "dose"],
        *["n_cells", "n_deg", "n_controls", "n_seen", "flags"],
    ]
    assert table.fold.tolist() == ["2", "2", "10"]
    assert table.dose.tolist() == ["5", "10", "1"]
    assert table.n_deg.isna().tolist() == [False, True, False]


def test_labels_come_from_the_path():
    assert path_labels("results/d/s/f/ceiling.parquet", FOLD) == {"dataset": "d", "split": "s", "fold": "f"}
    assert path_labels("/tmp/results/d/s/f/m/v/seed12/train_cost.json", RUN) == {
        "dataset": "d", "split": "s", "fold": "f", "model": "m", "variant": "v", "seed": "12",
    }  # fmt: skip
    assert path_labels("file", ()) == {}


@pytest.mark.parametrize("path", ["d/s/f/m/v/0/train_cost.json", "m/v/seed0/train_cost.json"])
def test_a_path_without_labels_is_an_error(path):
    with pytest.raises(ContractError, match=r"\{dataset\}/.*/seed\{n\}/file"):
        path_labels(path, RUN)


def test_gather_takes_labels_and_skips_empty_parts(tmp_path):
    for fold, n in (("1", 0), ("2", 2)):
        (tmp_path / "d/s" / fold).mkdir(parents=True)
        pd.DataFrame({"x": [1] * n}).to_parquet(tmp_path / "d/s" / fold / "t.parquet")
    table = gather([tmp_path / "d/s/1/t.parquet", tmp_path / "d/s/2/t.parquet"], FOLD)
    assert table.to_dict("list") == {"x": [1, 1], "dataset": ["d"] * 2, "split": ["s"] * 2, "fold": ["2"] * 2}
    assert gather([]).empty
