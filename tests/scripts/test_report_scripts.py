"""The report's command lines, run as the workflow runs them."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from running import command

from trueshift.contract import make_prediction, write_h5ad
from trueshift.evaluation.reference import truth_statistics
from trueshift.evaluation.truth import write_truth

PNG = b"\x89PNG"


def write_run(folder, model, values):
    """scores.parquet and costs of one run over perturbations P0, P1, …; None is a condition without effect."""
    folder.mkdir(parents=True)
    dataset, split, fold, _, variant, seed = folder.parts[-6:]
    rows = [
        {
            **{"dataset": dataset, "split": split, "fold": fold, "model": model, "variant": variant, "seed": seed[4:]},
            **{"context": "c", "perturbation": f"P{i}", "dose": "1", "cluster": f"P{i}", "metric": "r2_topk", "k": k},
            **{"value": value, "reason": "" if value is not None else "no effect", "n_deg": 3, "flags": ""},
        }
        for i, value in enumerate(values)
        for k in ("20", "40")
    ]
    pd.DataFrame(rows).astype({"value": float}).to_parquet(folder / "scores.parquet")
    for stage, seconds in (("train", 4.0), ("predict", 1.0)):
        cost = {"stage": stage, "seconds": seconds, "peak_rss_mb": 99.0, "gpu_peak_mb": 0.0, "device": "cpu"}
        (folder / f"{stage}_cost.json").write_text(json.dumps(cost))
        job = folder.parents[5] / "benchmarks" / Path(*folder.parts[-6:], f"{stage}.tsv")
        job.parent.mkdir(parents=True, exist_ok=True)
        job.write_text(f"s\tmax_rss\tcpu_time\n{seconds + 2}\t90\t1\n")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("work") / "results"
    fold = root / "toy/new_perturbation/1"
    write_run(fold / "no_change/default/seed0", "no_change", [0.0, 0.0, None])
    write_run(fold / "mean_shift/default/seed0", "mean_shift", [0.5, 0.25, None])
    ceiling = pd.read_parquet(fold / "no_change/default/seed0/scores.parquet")
    ceiling = ceiling.assign(model="technical_duplicate", value=0.9, ceiling_use="condition")
    ceiling.drop(columns=["dataset", "split", "fold", "variant", "seed"]).to_parquet(fold / "ceiling.parquet")
    return root


@pytest.fixture(scope="module")
def tabulated(results):
    out = results / "tables"
    scores, costs = sorted(results.rglob("scores.parquet")), sorted(results.rglob("*_cost.json"))
    ceilings = results.rglob("ceiling.parquet")
    table = ["--out", out / "topk_r2.csv", "--wide", out / "topk_r2_wide.csv", "--undefined", out / "undefined.csv"]
    command("topk_r2", "--scores", *scores, "--ceilings", *ceilings, *table)
    benchmarks = results.parent / "benchmarks.txt"
    benchmarks.write_text("\n".join(map(str, results.rglob("*.tsv"))))
    command("cost", "--benchmarks", f"@{benchmarks}", "--costs", *costs, "--out", out / "cost.csv")
    return out


def test_topk_r2(tabulated):
    table = pd.read_csv(tabulated / "topk_r2.csv", dtype=str)
    rows = table[(table.model == "mean_shift") & (table.k == "20")]
    assert rows[["fold", "context", "seed"]].values.tolist() == [
        ["all", "all", "all"], ["all", "all", "0"], ["all", "c", "all"], ["1", "all", "all"],
    ]  # fmt: skip
    whole = rows.iloc[0]
    assert [float(whole[c]) for c in ("value", "floor", "ceiling", "n_no_effect")] == [0.375, 0.375, 0.9, 1]
    wide = pd.read_csv(tabulated / "topk_r2_wide.csv")
    assert wide[["model", "r2_top20"]].values.tolist() == [["mean_shift", 0.375], ["no_change", 0.0]]
    assert pd.read_csv(tabulated / "undefined.csv")[["model", "k", "reason", "n"]].values.tolist()[0] == [
        *["mean_shift", 20, "no effect", 1],
    ]


def test_cost(tabulated):
    table = pd.read_csv(tabulated / "cost.csv")
    assert table[
        ["rule", "dataset", "split", "fold", "model", "seed", "seconds", "computing_seconds"]
    ].values.tolist() == [
        ["train", "toy", "new_perturbation", 1, "mean_shift", 0, 6, 4],
        ["train", "toy", "new_perturbation", 1, "no_change", 0, 6, 4],
        ["predict", "toy", "new_perturbation", 1, "mean_shift", 0, 3, 1],
        ["predict", "toy", "new_perturbation", 1, "no_change", 0, 3, 1],
    ]


def test_figures(results, tabulated):
    out = results / "figures"
    scores = sorted(results.rglob("scores.parquet"))
    table = ["--table", tabulated / "topk_r2.csv"]
    command("plot_topk_r2", *table, "--out", out / "topk_r2.png")
    command("plot_cost", "--cost", tabulated / "cost.csv", *table, "--out", out / "cost.png")
    command("plot_conditions", "--scores", *scores, "--out", out / "conditions.png")
    assert [path.name for path in sorted(out.iterdir())] == ["conditions.png", "cost.png", "topk_r2.png"]
    assert all(path.read_bytes().startswith(PNG) for path in out.iterdir())


def test_conditions(results):
    roles = ["test"] * 3 + ["control_reference"] * 30 + ["control_input"] * 30
    obs = pd.DataFrame({"role": roles, "context": "c", "batch": "b"}, index=[f"cell{i}" for i in range(63)])
    obs["perturbation"] = ["P"] * 3 + ["control"] * 60
    obs["dose"] = ["1"] * 3 + ["0"] * 60
    condition = {"context": "c", "perturbation": "P", "dose": "1", "modality": "KO", "n_cells": 3, "n_seen": 0}
    uns = {"trueshift": {"kind": "lognorm", "cluster": "perturbation"}, "conditions": pd.DataFrame([condition])}
    truth = AnnData(obs[[]].assign(G1=1.0, G2=2.0).to_numpy(dtype="float32"), obs=obs, uns=uns)
    paths = [results / "toy/new_perturbation" / fold / "truth_stats.parquet" for fold in ("1", "2")]
    for path in paths:
        write_truth(truth_statistics(truth), path)
    command("conditions", "--truth-stats", *paths, "--out", results / "tables/conditions.csv")
    table = pd.read_csv(results / "tables/conditions.csv")
    assert table.fold.tolist() == [1, 2]
    assert table.loc[0, ["dataset", "split", "perturbation", "n_cells", "n_controls", "flags"]].tolist() == [
        *["toy", "new_perturbation", "P", 3, 60, "few_controls"],
    ]


@pytest.fixture
def field(tmp_path):
    """A scores file that has what the field's table needs, written at a known time."""
    chain = tmp_path / "results/toy/s/1/mine/default/seed0"
    write_run(chain, "mine", [0.5, 0.1])
    scores = pd.read_parquet(chain / "scores.parquet")
    rest = scores[scores.k == "20"]
    parts = [scores, rest.assign(k="80"), *(rest.assign(metric=m, k="") for m in ("legacy_pearson", "pearson_delta"))]
    parts += [rest.assign(metric="legacy_r2_topk", k=k, value=0.7) for k in ("20", "40", "80")]
    pd.concat(parts, ignore_index=True).assign(n_cells=2).to_parquet(chain / "scores.parquet")
    os.utime(chain / "scores.parquet", (1e9, 1e9))
    return chain / "scores.parquet"


def test_the_fields_table_is_the_same_whenever_it_is_gathered(field, tmp_path):
    outs = [tmp_path / name for name in ("results.csv", "again.csv", "honest.csv")]
    for out in outs[:2]:
        command("topk_r2_results", "--scores", field, "--out", out, "--honest", outs[2])
    assert outs[0].read_bytes() == outs[1].read_bytes()
    first = "model,cell_line,fold,r2_top20,r2_top40,r2_top80,pearson_de,timestamp,dataset,split,variant,seed\n"
    assert outs[0].read_text() == first + "mine,c,1,0.7,0.7,0.7,0.3,2001-09-09T01:46:40+00:00,toy,s,default,0\n"
    (honest,) = pd.read_csv(outs[2]).to_dict("records")
    assert (honest["r2_top20"], honest["legacy_r2_top20"]) == (0.3, 0.7)
    command("topk_r2", "--scores", field, "--out", tmp_path / "tidy.csv", "--wide", tmp_path / "wide.csv")
    command("plot_two_orders", "--results", outs[0], "--table", tmp_path / "tidy.csv", "--out", tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(PNG)


def test_the_fields_table_says_what_was_not_scored(results, tmp_path):
    scores = next(results.rglob("scores.parquet"))
    out = ["--out", tmp_path / "results.csv", "--honest", tmp_path / "honest.csv"]
    done = command("topk_r2_results", "--scores", scores, *out, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: scores: no row of legacy_r2_topk; add it to evaluation: metrics:\n"
    assert not list(tmp_path.iterdir())


def test_export(tmp_path):
    obs = pd.DataFrame({"role": ["control_input", "test"], "context": "c"}, index=["a", "b"])
    obs = obs.assign(perturbation=["control", "P"], dose=["0", "1"])
    condition = {"context": "c", "perturbation": "P", "dose": "1", "modality": "KO", "n_cells": 1, "n_seen": 0}
    uns = {"trueshift": {"kind": "profile"}, "conditions": pd.DataFrame([condition])}
    truth = AnnData(pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], obs.index, ["G1", "G2"], "float32"), obs=obs, uns=uns)
    write_h5ad(truth, tmp_path / "truth.h5ad")
    write_h5ad(make_prediction(truth, [[5.0, 6.0]]), tmp_path / "prediction.h5ad")
    files = ["--prediction", tmp_path / "prediction.h5ad", "--truth", tmp_path / "truth.h5ad"]
    done = command("export", *files, "--out", tmp_path / "prediction.npz")
    assert done.stdout == "1 samples × 2 genes, 0 samples left unanswered\n"
    with np.load(tmp_path / "prediction.npz", allow_pickle=False) as file:
        arrays = [file[name].tolist() for name in ("predictions", "treated_test", "diseased_test", "sample_ids")]
    assert arrays == [[[5.0, 6.0]], [[3.0, 4.0]], [[1.0, 2.0]], ["b"]]


def test_a_users_mistake_is_one_line(tmp_path):
    done = command("topk_r2", "--scores", tmp_path / "no.parquet", "--out", "x.csv", "--wide", "y.csv", check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'no.parquet'}: no such file\n"
