"""The whole DAG on tiny data, and what a user sees of it: tables, targets, errors, what an edit reruns."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

FOLD = "results/mini/new_context/one"
TABLES = ("topk_r2", "topk_r2_wide", "undefined", "conditions", "exclusions", "cost", "leaks", "features")
TABLES += ("calibration", "leaderboard", "leaderboard_wide", "verdicts", "topk_r2_results", "topk_r2_honest")
TIDY = (
    "dataset split fold context model variant seed metric k value low high ci_method"
    " n_conditions n_undefined n_no_effect n_constant floor ceiling"
)


def scores(project, chain):
    return pd.read_parquet(project.folder / f"results/mini/{chain}/scores.parquet")


def test_everything_is_there_and_nothing_is_left_to_do(finished):
    for table in TABLES:
        assert len(pd.read_csv(finished.folder / f"results/tables/{table}.csv")) or table == "undefined"
    for figure in ("topk_r2", "leaderboard", "agreement", "conditions", "cost", "two_orders", "qc/mini"):
        content = (finished.folder / f"results/figures/{figure}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
    shown = finished.snakemake("-n").stdout
    assert "Nothing to be done" in shown
    assert "scgen cannot predict combinations it never saw: mini/new_combination" in shown.split("left out:")[1]


def test_what_is_removed_after_use_is_made_again_when_its_source_changes(finished):
    left = {path.name for path in (finished.folder / "results/mini").glob("*.h5ad")}
    assert left == {"normalized.h5ad"}
    more = finished.folder / "changed.yaml"
    more.write_text(json.dumps({"datasets": {"mini": {"source": {"seed": 4}}}}))
    jobs = finished.planned(f"{FOLD}/train.h5ad", "--cores", "2", more=more)
    assert {"import_data", "qc", "normalize", "partition"} <= set(jobs)


def test_the_tidy_table_has_floors_ceilings_and_every_model(finished):
    table = pd.read_csv(finished.folder / "results/tables/topk_r2.csv", dtype={"k": str, "seed": str})
    assert list(table.columns) == TIDY.split()
    whole = table.query("fold == 'all' and context == 'all' and seed == 'all' and metric == 'r2_topk' and k == '20'")
    new_context = whole[whole["split"] == "new_context"].set_index("model")
    ran = {"no_change", "mean_shift", "perturbation_mean", "ridge_control", "additive", "scgen", "state"}
    assert set(new_context.index) == ran
    assert new_context.loc["no_change", "value"] == pytest.approx(0, abs=1e-6)
    assert new_context["floor"].nunique() == 1
    assert new_context["floor"].iloc[0] == pytest.approx(max(new_context.loc[["no_change", "mean_shift"], "value"]))
    assert (new_context["ceiling"] > new_context["floor"]).all()
    assert (table["seed"] == "1").any(), "models that are not deterministic run every seed"
    assert set(table.loc[table["seed"] == "1", "model"]) == {"scgen", "state"}


def test_too_few_held_out_units_rank_nothing_and_the_tables_say_so(finished):
    verdicts = pd.read_csv(finished.folder / "results/tables/verdicts.csv", keep_default_na=False).set_index("split")
    assert verdicts["metric"].to_dict() == {"new_combination": "none", "new_context": "none"}
    assert "1 held-out unit: no interval below 5" in verdicts.loc["new_context", "note"]
    board = pd.read_csv(finished.folder / "results/tables/leaderboard.csv")
    assert board["rank"].isna().all()
    assert board["value"].notna().any()
    calibration = pd.read_csv(finished.folder / "results/tables/calibration.csv")
    assert set(calibration["passes"]) == {"no"}
    cells = board[(board["metric"] == "e_distance") & board["value"].notna()]
    assert set(cells["model"]) == {"no_change", "scgen", "state"}, "the others predict profiles"


def test_floors_and_models_are_scored_on_the_halves_of_the_ceiling(finished):
    ceiling = pd.read_parquet(finished.folder / f"{FOLD}/ceiling.parquet").query("metric == 'mse'")
    found = scores(finished, "new_context/one/no_change/default/seed0").query("metric == 'mse'")
    assert len(ceiling) == len(found) > 0
    assert set(found["n_halvings"]) == {2}
    both = found.merge(ceiling, on=["context", "perturbation", "dose"], suffixes=("", "_duplicate"))
    assert (both["value_half"] > both["value_duplicate"]).mean() > 0.5


def test_the_leak_audit_counts_both_sides(finished):
    leaks = pd.read_csv(finished.folder / "results/tables/leaks.csv").set_index(["split", "unit"])
    assert leaks.loc[("new_context", "context"), ["promised", "n_both", "verdict"]].tolist() == ["held out", 0, "ok"]
    assert leaks.loc[("new_context", "perturbation"), "n_both"] > 0
    assert leaks.loc[("new_combination", "component"), "n_both"] > 0
    assert "leak" not in set(leaks["verdict"])


def test_what_others_predicted_is_scored_like_ours(finished):
    ours = finished.folder / f"{FOLD}/state/tiny/seed0"
    entry = {"path": str(ours / "prediction.h5ad"), "dataset": "mini", "split": "new_context"}
    more = finished.folder / "others.yaml"
    more.write_text(json.dumps({"run": {"predictions": ["theirs"]}, "predictions": {"theirs": entry}}))
    target = f"{FOLD}/theirs/external/seed0/scores.parquet"
    jobs = finished.planned(target, "--cores", "2", more=more)
    assert jobs == {"adopt": 1, "score": 1, "total": 2}
    planned = finished.planned("--cores", "2", more=more)
    assert "train" not in planned
    assert {"leaderboard", "topk_r2"} <= set(planned)
    finished.snakemake(target, "--cores", "2", more=more)
    theirs = scores(finished, "new_context/one/theirs/external/seed0")
    columns = ["metric", "k", "value", "value_half"]
    pd.testing.assert_frame_equal(theirs[columns], scores(finished, "new_context/one/state/tiny/seed0")[columns])
    wrong = finished.snakemake(target.replace("new_context/one", "new_combination/pairs"), "-n", check=False, more=more)
    assert "prediction theirs is for split new_context, not new_combination" in wrong.stdout


def test_effects_are_drawn_for_any_prediction(finished):
    target = f"{FOLD}/additive/default/seed0/scatter.png"
    assert finished.planned(target, "--cores", "2") == {"scatter": 1, "total": 1}
    finished.snakemake(target, "--cores", "2")
    assert (finished.folder / target).read_bytes().startswith(b"\x89PNG")


def test_the_fields_table_is_gathered_from_the_scores_and_dated_by_them(finished):
    table = pd.read_csv(finished.folder / "results/tables/topk_r2_results.csv")
    row = table.query("split == 'new_context' and model == 'state' and seed == 1").squeeze()
    chain = "new_context/one/state/tiny/seed1"
    found = scores(finished, chain).query("metric == 'legacy_r2_topk' and k == '20'")
    assert row["r2_top20"] == pytest.approx(np.average(found["value"], weights=found["n_cells"]))
    written = (finished.folder / f"results/mini/{chain}/scores.parquet").stat().st_mtime
    assert pd.Timestamp(row["timestamp"]).timestamp() == int(written)
    assert table["r2_top80"].isna().all(), "there are 60 genes"
    headline = pd.read_csv(finished.folder / "results/tables/topk_r2.csv", dtype=str)
    headline = headline.query("metric == 'r2_topk' and k == '20' and fold == 'one' and seed == 'all'")
    honest = pd.read_csv(finished.folder / "results/tables/topk_r2_honest.csv").query("split == 'new_context'")
    both = honest.groupby("model")["r2_top20"].mean(), headline.set_index("model")["value"].astype(float)
    pd.testing.assert_series_equal(*(side.sort_index() for side in both), check_names=False)


def test_a_prediction_and_its_truth_are_exported_for_any_model(finished):
    target = f"{FOLD}/state/tiny/seed0/prediction.npz"
    assert finished.planned(target, "--cores", "2") == {"export": 1, "total": 1}
    finished.snakemake(target, "--cores", "2")
    truth = ad.read_h5ad(finished.folder / f"{FOLD}/truth.h5ad")
    with np.load(finished.folder / target, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["treated_test"], truth[file["sample_ids"], file["gene_names"]].X.toarray())
        assert set(file["sample_ids"]) == set(truth.obs_names[truth.obs["role"] == "test"])


def test_each_exclusion_has_its_reason(finished):
    table = pd.read_csv(finished.folder / "results/tables/exclusions.csv")
    left_out = table.set_index(["split", "model"])["reason"]
    assert "never saw" in left_out["new_combination", "perturbation_mean"]
    assert "never saw" in left_out["new_combination", "scgen"]
    assert "new_context" not in left_out


def test_costs_are_measured(finished):
    table = pd.read_csv(finished.folder / "results/tables/cost.csv")
    assert (table["seconds"] > 0).all()
    models = table[table["rule"].isin(["train", "predict"])]
    assert (models["computing_seconds"] > 0).all() and (models["peak_rss_mb"] > 50).all()
    assert set(models["device"]) == {"cpu"} or models["gpu_peak_mb"].max() > 0
    ran = {"import_data", "qc", "normalize", "split", "select_genes", "partition", "pair", "reference", "ceiling"}
    ran |= {"train", "predict", "score", "calibrate", "topk_r2", "leaderboard", "calibration", "conditions", "leaks"}
    assert set(table["rule"]) == ran | {"features", "exclusions"}
    assert len(models) == 2 * table["rule"].eq("score").sum()


def test_no_test_expression_reaches_a_model(finished):
    train = ad.read_h5ad(finished.folder / f"{FOLD}/train.h5ad")
    query = ad.read_h5ad(finished.folder / f"{FOLD}/query.h5ad")
    truth = ad.read_h5ad(finished.folder / f"{FOLD}/truth.h5ad")
    hidden = truth.obs_names[truth.obs["role"].isin(["test", "control_reference"])]
    assert len(hidden)
    for seen in (train, query):
        assert not set(hidden) & set(seen.obs_names)
        assert "simulation" not in seen.uns
    jobs = finished.summary()
    jobs = jobs[jobs["rule"].isin(["train", "predict"])]
    assert len(jobs)
    assert (
        not jobs[["input-file(s)", "shellcmd"]].map(lambda text: "truth" in text or "normalized" in text).any(axis=None)
    )


def test_floors_score_what_their_equations_say(finished):
    truth = pd.read_parquet(finished.folder / f"{FOLD}/truth_stats.parquet")
    one = truth[truth["perturbation"] == truth["perturbation"].iloc[0]]
    top = one.nsmallest(20, "rank")
    prediction = ad.read_h5ad(finished.folder / f"{FOLD}/mean_shift/default/seed0/prediction.h5ad")
    row = prediction[prediction.obs["perturbation"] == one["perturbation"].iloc[0], top["gene"].astype(str)].X[0]
    delta = (top["mean"] - top["control_reference"]).to_numpy()
    delta_hat = row - top["control_input"].to_numpy()
    expected = 1 - np.sum((delta - delta_hat) ** 2) / np.sum(delta**2)
    found = scores(finished, "new_context/one/mean_shift/default/seed0")
    found = found.query("metric == 'r2_topk' and k == '20'").set_index("perturbation")["value"]
    assert found[one["perturbation"].iloc[0]] == pytest.approx(expected, abs=1e-5)


def test_training_reports_lines_and_an_offline_wandb_run(finished):
    log = (finished.folder / "results/logs/mini/new_context/one/state/tiny/seed0/train.log").read_text()
    assert "loss" in log
    assert "step/s" in log
    chain = finished.folder / f"{FOLD}/state/tiny/seed0"
    assert list(chain.glob("wandb/offline-run-*/*.wandb"))
    assert not list((finished.folder / f"{FOLD}/mean_shift/default/seed0").glob("wandb")), "an equation has no curve"


def test_one_ablation_is_one_target(finished):
    target = f"{FOLD}/state/wide/seed0/scores.parquet"
    ablation = finished.folder / "ablation.yaml"
    variant = {"set_size": 16, "hidden": 32, "layers": 1, "heads": 2, "mlp_hidden": 32, "max_steps": 10}
    ablation.write_text(json.dumps({"models": {"state": {"variants": {"wide": variant}}}}))
    jobs = finished.planned(target, "--cores", "8", "--resources", "gpu=8", more=ablation)
    assert jobs == {"pair": 1, "train": 1, "predict": 1, "score": 1, "total": 4}


def test_a_split_without_k_and_folds_has_the_documented_five(finished):
    more = finished.folder / "five.yaml"
    more.write_text(json.dumps({"datasets": {"mini": {"splits": {"five": {"type": "kfold_cells"}}}}}))
    jobs = finished.planned("--cores", "2", more=more)
    assert jobs["split"] == jobs["partition"] == 5
    finished.snakemake("results/mini/five/5/split.csv", "--cores", "2", more=more)
    split = pd.read_csv(finished.folder / "results/mini/five/5/split.csv")
    tested = split["role"].eq("test").sum() / split["role"].isin(["test", "train", "val"]).sum()
    assert tested == pytest.approx(0.2, abs=0.05)
    missing = finished.snakemake("-n", "results/mini/five/6/split.csv", check=False, more=more)
    assert missing.returncode and "unknown fold '6'" in missing.stdout


def test_a_named_run_has_its_own_tables_and_leaves_the_others(finished):
    before = (finished.folder / "results/tables/topk_r2_wide.csv").read_bytes()
    more = finished.folder / "named.yaml"
    more.write_text(json.dumps({"run": {"name": "baselines", "models": ["additive"]}}))
    assert "train" not in finished.planned("--cores", "2", more=more)
    shown = finished.snakemake("results/runs/baselines/tables/topk_r2_wide.csv", "--cores", "2", more=more).stdout
    assert "replaces the tables" not in shown
    table = pd.read_csv(finished.folder / "results/runs/baselines/tables/topk_r2_wide.csv")
    assert set(table["model"]) == {"no_change", "mean_shift", "additive"}
    assert (finished.folder / "results/tables/topk_r2_wide.csv").read_bytes() == before
    assert (finished.folder / "results/runs/baselines/logs/topk_r2.log").exists()
    assert "Nothing to be done" in finished.snakemake("-n").stdout


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (f"{FOLD}/stat/tiny/seed0/scores.parquet", "unknown model 'stat'; did you mean 'state'?"),
        ("results/mini/new_combination/pairs/scgen/tiny/seed0/scores.parquet", "scgen cannot predict combinations"),
    ],
)
def test_an_unknown_target_names_the_known_ones(finished, target, message):
    done = finished.snakemake("-n", target, check=False)
    assert done.returncode != 0
    assert message in done.stdout


def test_a_fault_in_the_data_stops_before_training_and_leaves_nothing(finished):
    entry = {
        "kind": "counts",
        "source": {
            "format": "table",
            "expression": "{data}/x.csv",
            "metadata": "{data}/cells.csv",
            "cell_column": "id",
        },
        "columns": {"perturbation": {"from": "drug", "control": "DMSO"}, "context": "line"},
        "splits": {"each": {"type": "zero_shot_context", "folds": {"A": "A"}}},
    }
    data = finished.folder / "data"
    data.mkdir(exist_ok=True)
    (data / "x.csv").write_text("id,G1,G2\na,1,2\nb,3,4\n")
    (data / "cells.csv").write_text("id,drugs,line\na,DMSO,A\nb,X,A\n")
    file = finished.folder / "bad.yaml"
    file.write_text(json.dumps({"datasets": {"bad": entry}}))
    target = "results/bad/each/A/mean_shift/default/seed0/scores.parquet"
    done = finished.snakemake(target, "--cores", "2", check=False, more=file)
    assert done.returncode != 0
    assert "drug" in done.stdout
    assert "did you mean 'drugs'" in done.stdout
    assert not list((finished.folder / "results").glob("bad/**/*.h5ad"))
