"""Files that users brought, each the same small screen with one fault, from the command line to a table or a refusal.

The folder ``cases`` stands beside the one that TRUESHIFT_DATA names; each of its folders has a file, and the
configuration ``my.yaml`` that reads it.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from project import Project

CASES = Path(os.environ.get("TRUESHIFT_DATA", "none")).resolve().parent / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="TRUESHIFT_DATA has no folder cases beside it")

SAME = ["ctrl_None", "f16_dense", "h5ad_gz", "self_pair_zero"]
RENAMED = ["numeric_ctrl0", "numeric_ctrl9"]  # other labels
OTHER_CELLS = ["h5ad_guides", "mtx_plain"]  # other cell ids: controls are halved by them
RUN = ["base", *SAME, *RENAMED, *OTHER_CELLS, "bool_pert"]
REFUSED = {
    "dose_mixed_advice": ["extract", "'100 nM'", "'1 µM'"],
    "drug_plus_silent": ["NAD+ synthesis inhibitor", "Na+/K+ ATPase blocker", "Ca2+ ionophore", "separator: null"],
    "future_encoding": ["in.h5ad", "'guide'", "arrow-string-array", "anndata 0."],
    "real_10x_h5": ["10x.h5", "format: tenx"],
    "real_l1000_gctx": ["test_l1000.gctx", "format: gct"],
    "table_semicolon": ["counts.csv", "semicolons", 'separator: ";"'],
    "truncated": ["in.h5ad", "shorter than its own table of contents"],
}


def run(
    folder: Path,
    names: list[str],
    *targets: str,
    models: Sequence[str] = (),
    splits: Sequence[str] = ("all",),
    check: bool = True,
) -> Project:
    """Runs all cases of these names as one configuration."""
    settings = {name: yaml.safe_load((CASES / name / "my.yaml").read_text()) for name in names}
    entries = {}
    for name, of in settings.items():
        entries[name] = json.loads(json.dumps(of["datasets"][name]).replace("{data}", str(CASES / name)))
    config = {**settings[names[0]], "data_folder": str(CASES), "datasets": entries}
    config["run"] = {"datasets": names, "splits": [*splits], "models": ["additive", *models], "seeds": [0]}
    (folder / "cases.yaml").write_text(yaml.safe_dump(config))
    project = Project(folder / "project", config=folder / "cases.yaml")
    project.snakemake(*targets, "--cores", "2", check=check)
    return project


def test_screens_whose_fault_has_a_meaning_score_as_the_one_without(tmp_path: Path) -> None:
    files = {name: f"results/{name}/new_line/RPE1/additive/default/seed0/scores.parquet" for name in RUN}
    project = run(tmp_path, RUN, *files.values())
    scores = {name: pd.read_parquet(project.folder / file).drop(columns="dataset") for name, file in files.items()}
    check_scores(scores)
    report = json.loads((project.folder / "results/h5ad_guides/qc.json").read_text())
    assert report["genes"]["not_genes"] == {"CRISPR Guide Capture": 5}
    said = (project.folder / "results/logs/self_pair_zero/import_data.log").read_text()
    assert "labels that name one perturbation several times" in said


def check_scores(scores: dict[str, pd.DataFrame]) -> None:
    def r2(name: str, k: str) -> pd.Series:
        return scores[name].query("metric == 'r2_topk' and k == @k")["value"]

    assert [round(r2("base", k).mean(), 3) for k in ("20", "all")] == [0.943, 0.88]
    for name in SAME:
        pd.testing.assert_frame_equal(scores[name], scores["base"], obj=name)
    for name in RENAMED:
        np.testing.assert_allclose(sorted(r2(name, "all")), sorted(r2("base", "all")), err_msg=name)
    guides, mtx = (scores[name] for name in OTHER_CELLS)
    pd.testing.assert_frame_equal(guides, mtx, obj="one screen in two formats")
    assert r2("h5ad_guides", "20").mean() == pytest.approx(0.943, abs=0.005), ".985 where guides are genes"
    assert len(r2("h5ad_guides", "20")) == len(r2("base", "20")) == 4
    assert len(r2("bool_pert", "20")) == 1, "it says treated or not, no more"
    assert r2("bool_pert", "20").mean() > 0.9


def test_what_no_model_was_shown_is_counted_and_stops_no_table(tmp_path: Path) -> None:
    tables = [f"results/tables/{name}.csv" for name in ("topk_r2", "undefined")]
    names, splits = ["one_cell", "one_pert_only_in_test_line"], ["seen", "new_line"]
    project = run(tmp_path, names, *tables, models=["perturbation_mean"], splits=splits)
    table, undefined = (pd.read_csv(project.folder / path, dtype=str) for path in tables)
    whole = table.query("metric == 'mse' and fold == 'all' and context == 'all' and seed == 'all'")
    whole = whole.set_index(["dataset", "split", "model"]).astype({"n_undefined": int, "n_conditions": int})
    for model in ("additive", "perturbation_mean"):
        assert whole.loc[("one_pert_only_in_test_line", "new_line", model), "n_undefined"] == 1
        assert whole.loc[("one_cell", "seen", model), "n_undefined"] <= 1
    assert whole.loc[("one_pert_only_in_test_line", "new_line", "no_change"), "n_undefined"] == 0
    assert (whole["n_conditions"] > 0).all()
    reasons = undefined.query("metric == 'mse'").groupby("dataset")["reason"].unique()
    assert reasons["one_pert_only_in_test_line"].tolist() == ["not in training"]


def test_files_that_cannot_be_read_right_are_refused_in_one_line_with_a_remedy(tmp_path: Path) -> None:
    targets = [f"results/{name}/imported.h5ad" for name in REFUSED]
    project = run(tmp_path, list(REFUSED), *targets, check=False)
    for name, words in REFUSED.items():
        log = (project.folder / f"results/logs/{name}/import_data.log").read_text()
        errors = [line for line in log.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "Traceback" not in log, log
        assert all(word in errors[0] for word in words), errors[0]
        assert "delete" not in errors[0]
        assert not (project.folder / f"results/{name}/imported.h5ad").exists()
