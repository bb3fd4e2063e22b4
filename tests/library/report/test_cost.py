"""The table of costs: a row per job, from what Snakemake and the models themselves measured."""

import numpy as np
import pandas as pd
import pytest

from trueshift.contract import ContractError
from trueshift.report.cost import COLUMNS, OF_MODELS, cost, job_labels

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
RUN = {"dataset": "d", "split": "s", "fold": "1", "model": "m", "variant": "default", "seed": "0"}


def measured(folder, path, seconds, memory="50.5", cpu="1.5"):
    file = folder / "results/benchmarks" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{HEAD}{seconds}\t0:00:0{int(seconds)}\t{memory}\t1\t1\t1\t1\t1\t1\t{cpu}\n")
    return file


def record(stage, seconds, **more):
    own = {"stage": stage, "seconds": seconds, "peak_rss_mb": 70.0, "gpu_peak_mb": 0.0, "device": "cpu"}
    return RUN | own | {"cpu_fallback": ""} | more


def test_there_is_a_row_per_job_in_the_order_of_the_rules(tmp_path):
    run = "d/s/1/m/default/seed0"
    paths = [
        "topk_r2.tsv",
        f"{run}/predict.tsv",
        f"{run}/train.tsv",
        "d/s/1/split.tsv",
        "d/qc.tsv",
        "d/import_data.tsv",
    ]
    files = [measured(tmp_path, path, seconds) for seconds, path in enumerate(paths, start=1)]
    records = [record("predict", 1.5), record("train", 2.5, device="GPU X", gpu_peak_mb=512.0, cpu_fallback="full")]
    table = cost(files, records)
    assert table.columns.tolist() == COLUMNS
    assert table["rule"].tolist() == ["import_data", "qc", "split", "train", "predict", "topk_r2"]
    assert table["seconds"].tolist() == [6, 5, 4, 3, 2, 1]
    assert table["dataset"].tolist() == ["d"] * 5 + [""]
    assert table["seed"].tolist() == ["", "", "", "0", "0", ""]
    train = table.iloc[3]
    assert train[OF_MODELS].tolist() == [2.5, 512.0, "GPU X", "full"]
    assert table["peak_rss_mb"].tolist() == [50.5, 50.5, 50.5, 70, 70, 50.5], "a model says its own, which is exact"
    assert table["computing_seconds"].isna().tolist() == [True, True, True, False, False, True]


def test_a_job_too_short_to_be_looked_at_has_no_memory(tmp_path):
    table = cost([measured(tmp_path, "exclusions.tsv", 0.1, memory="-", cpu="NA")], [])
    assert np.isnan(table.loc[0, "peak_rss_mb"]) and np.isnan(table.loc[0, "cpu_seconds"])
    assert table.loc[0, "seconds"] == 0.1


def test_sets_of_two_sizes_are_two_jobs(tmp_path):
    table = cost([measured(tmp_path, f"d/s/1/pair_S{size}.tsv", 1) for size in (32, 8)], [])
    assert table[["rule", "variant"]].to_numpy().tolist() == [["pair", "S32"], ["pair", "S8"]]


def test_a_job_given_twice_is_refused(tmp_path):
    file = measured(tmp_path, "d/qc.tsv", 1)
    with pytest.raises(ContractError, match="qc"):
        cost([file, file], [])


def test_what_is_no_benchmark_is_named(tmp_path):
    file = measured(tmp_path, "d/qc.tsv", 1)
    file.write_text("a\tb\n1\t2\n")
    with pytest.raises(ContractError, match=r"qc\.tsv: no column s"):
        cost([file], [])
    with pytest.raises(ContractError, match=r"elsewhere/qc\.tsv"):
        job_labels("elsewhere/qc.tsv")


def test_jobs_of_a_named_run_are_those_of_its_folder():
    assert job_labels("results/runs/mine/benchmarks/topk_r2.tsv") == {"rule": "topk_r2"}
    assert job_labels("results/benchmarks/d/s/calibrate.tsv") == {"dataset": "d", "split": "s", "rule": "calibrate"}


def test_numbers_are_sorted_as_numbers(tmp_path):
    files = [measured(tmp_path, f"d/s/{fold}/split.tsv", 1) for fold in (10, 9)]
    assert pd.Series(cost(files, [])["fold"]).tolist() == ["9", "10"]
