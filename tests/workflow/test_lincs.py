"""The LINCS road: a small drug screen in bulk profiles through every model that reads such data."""

import json

import numpy as np
import pandas as pd
import pytest
from project import ROOT, Project

NEEDY = ["tanimoto_knn", "biolord_features", "transigen", "chemcpa", "multidcp"]  # features or structures
FIELD = ["model", "cell_line", "fold", "r2_top20", "r2_top40", "r2_top80", "pearson_de", "timestamp"]


@pytest.fixture(scope="module")
def screened(tmp_path_factory):
    """A project in which the small drug screen has run from nothing to tables."""
    project = Project(tmp_path_factory.mktemp("lincs"), config=ROOT / "tests/lincs.yaml")
    project.snakemake("--cores", "2", "--resources", "gpu=2")
    return project


def table(project, name):
    return pd.read_csv(
        project.folder / f"results/tables/{name}.csv", dtype={"k": str}, keep_default_na=name != "exclusions"
    )


def scores(project, split, fold, model, variant="tiny"):
    return pd.read_parquet(project.folder / f"results/mini_lincs/{split}/{fold}/{model}/{variant}/seed0/scores.parquet")


def test_every_model_runs_where_it_can_and_exclusions_say_why(screened):
    board = table(screened, "topk_r2")
    ran = {split: set(rows["model"]) for split, rows in board.groupby("split")}
    everywhere = {"no_change", "mean_shift", "train_mean", *NEEDY}
    assert ran == {"drugs": everywhere, "doses": everywhere | {"perturbation_mean", "scgen", "cellot"}}
    reasons = table(screened, "exclusions").set_index(["split", "model"])["reason"]
    assert reasons["doses", "state"] == "state does not read data of kind profile"
    assert reasons["drugs", "cellot"] == "cellot cannot predict perturbations it never saw"


def test_a_drug_without_structure_is_counted_and_left_unanswered(screened):
    features = table(screened, "features").set_index("features")
    assert features.loc[["structures", "fingerprint"], "n_covered"].tolist() == [11, 11]
    assert features["n_perturbations"].eq(12).all() and features["missing"].eq("drug05").all()
    for model in NEEDY:
        made = scores(screened, "drugs", "some", model, "default" if model == "tanimoto_knn" else "tiny")
        left = made["perturbation"] == "drug05"
        assert made.loc[left, "value"].isna().all() and made.loc[left, "reason"].eq("no features").all()
        assert made.loc[~left & (made["metric"] == "mse"), "value"].notna().all()
    board = table(screened, "topk_r2").query(
        "split == 'drugs' and metric == 'mse' and context == 'all' and fold == 'all'"
    )
    undefined = board.groupby("model")["n_undefined"].max()
    assert undefined[NEEDY].eq(4).all() and undefined["mean_shift"] == 0, "2 lines × 2 doses of one drug"


def test_drugs_of_like_structure_tell_what_an_unseen_one_does(screened):
    board = table(screened, "topk_r2").query("metric == 'r2_topk' and k == '20' and context == 'all' and fold == 'all'")
    drugs = board[board["split"] == "drugs"].groupby("model")["value"].mean()
    assert np.isfinite(drugs).all(), "networks are trained for seconds here: no more is asked of them"
    assert drugs["tanimoto_knn"] > drugs["mean_shift"] > 0.1
    assert drugs["no_change"] == pytest.approx(0, abs=1e-6)


def test_profiles_are_paired_with_controls_that_no_score_shares(screened):
    folder = screened.folder / "results/mini_lincs/drugs/some"
    split = pd.read_csv(folder / "split.csv")
    assert set(split["role"]) == {"train", "val", "test", "control_input", "control_reference"}
    known = pd.read_parquet(folder / "truth_stats.parquet", columns=["flags"])["flags"].astype(str)
    assert known.str.contains("paired").all() and not known.str.contains("too_few").any()
    assert scores(screened, "drugs", "some", "chemcpa").query("metric == 'de_recall'")["value"].isna().all()


def test_the_table_of_the_field_and_the_honest_one_beside_it(screened):
    field, honest = table(screened, "topk_r2_results"), table(screened, "topk_r2_honest")
    assert list(field.columns[: len(FIELD)]) == FIELD
    assert set(field["cell_line"]) == {"line1", "line2"} and set(field["fold"]) == {"some", "highest"}
    keys = ["model", "cell_line", "fold", "split"]
    assert field[keys].equals(honest[keys])
    constant = field.query("model == 'train_mean' and split == 'drugs'")["r2_top20"].mean()
    assert constant > honest.query("model == 'train_mean' and split == 'drugs'")["r2_top20"].mean()
    assert (screened.folder / "results/figures/two_orders.png").read_bytes().startswith(b"\x89PNG")


def test_export_holds_predictions_and_truth_by_name(screened):
    target = "results/mini_lincs/drugs/some/chemcpa/tiny/seed0/prediction.npz"
    screened.snakemake(target, "--cores", "1")
    with np.load(screened.folder / target, allow_pickle=False) as file:
        arrays = dict(file)
    answered = arrays["perturbation"] != "drug05"
    assert answered.all() and len(arrays["unanswered_ids"]) == 4
    shape = (8, 90)  # two drugs, two doses, two lines
    assert all(arrays[name].shape == shape for name in ("predictions", "treated_test", "diseased_test"))
    assert len(arrays["gene_names"]) == 90 and len(set(arrays["sample_ids"])) == 8


def test_an_edit_of_one_variant_trains_that_alone(screened):
    more = screened.folder / "more.yaml"
    more.write_text(json.dumps({"models": {"multidcp": {"variants": {"tiny": {"epochs": 16}}}}}))
    assert screened.planned("--cores", "2", more=more)["train"] == 2, "one training a split"
