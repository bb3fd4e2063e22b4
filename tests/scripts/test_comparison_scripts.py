"""The command lines of the figures that compare models, run as the workflow runs them."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from running import command

from trueshift.contract import make_prediction, write_h5ad, write_table
from trueshift.evaluation.reference import truth_statistics
from trueshift.evaluation.truth import write_truth
from trueshift.report.leaderboard import LEADERBOARD_COLUMNS

PNG = b"\x89PNG"


@pytest.fixture
def leaderboard(tmp_path):
    rows = [
        dict.fromkeys(LEADERBOARD_COLUMNS, float("nan"))
        | {"dataset": "d", "split": "s", "metric": metric, "k": k, "model": model, "variant": "default"}
        | {
            "value": 0.2 * i,
            "anchored": 0.2 * i,
            "n_conditions": 5,
            "n_units": 5,
            "rank": 5 - i,
            "rank_last": 5,
            "passes": True,
        }
        for metric, k in (("r2_topk", "20"), ("r2_topk", "all"), ("mse", ""))
        for i, model in enumerate(["no_change", "mean_shift", "linear", "scgen"])
    ]
    write_table(pd.DataFrame(rows), tmp_path / "leaderboard.csv")
    return tmp_path / "leaderboard.csv"


def test_leaderboard_and_agreement(leaderboard, tmp_path):
    out = tmp_path / "figures"
    table = ["--table", leaderboard]
    command("plot_leaderboard", *table, "--out", out / "leaderboard.png", "--baselines", "no_change", "mean_shift")
    command("plot_leaderboard", *table, "--out", out / "no_baselines.png")
    command("plot_agreement", *table, "--out", out / "agreement.png")
    drawn = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(drawn) == {"leaderboard.png", "no_baselines.png", "agreement.png"}
    assert all(png.startswith(PNG) for png in drawn.values())
    assert drawn["leaderboard.png"] != drawn["no_baselines.png"]


def test_scatter(tmp_path):
    rng = np.random.default_rng(0)
    roles = ["test"] * 40 + ["control_reference"] * 30 + ["control_input"] * 30
    obs = pd.DataFrame({"role": roles, "context": "c", "batch": "b"}, index=[f"cell{i}" for i in range(100)])
    obs["perturbation"] = ["P"] * 20 + ["Q"] * 20 + ["control"] * 60
    obs["dose"] = ["1"] * 40 + ["0"] * 60
    conditions = pd.DataFrame({"context": "c", "perturbation": ["P", "Q"], "dose": "1", "modality": "KO"})
    conditions = conditions.assign(n_cells=20, n_seen=0)
    uns = {"trueshift": {"kind": "lognorm", "cluster": "perturbation"}, "conditions": conditions}
    names = pd.DataFrame(index=[f"G{i}" for i in range(30)])
    cells = ad.AnnData(rng.normal(2, 1, (100, 30)).astype("float32"), obs=obs, var=names, uns=uns)
    run = tmp_path / "results/toy/new_perturbation/1/scgen/default/seed0"
    write_truth(truth_statistics(cells), tmp_path / "truth_stats.parquet")
    prediction = make_prediction(cells, rng.normal(2, 1, (2, 30)))
    write_h5ad(prediction[[1, 0]].copy(), run / "prediction.h5ad")  # matched by name

    given = ["--prediction", run / "prediction.h5ad", "--truth-stats", tmp_path / "truth_stats.parquet"]
    title = "toy · new_perturbation · 1 · scgen · default · seed0"
    command("scatter", *given, "--out", tmp_path / "a.png")
    command("scatter", *given, "--out", tmp_path / "b.png", "--title", title)
    command("scatter", *given, "--out", tmp_path / "c.png", "--conditions", 1)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a.startswith(PNG)
    assert a == b != c

    write_h5ad(prediction[:1].copy(), run / "prediction.h5ad")
    done = command("scatter", *given, "--out", tmp_path / "never.png", check=False)
    assert done.returncode == 1
    assert done.stderr == "error: prediction: the condition c | Q | 1 was asked for but has no rows\n"
    assert not (tmp_path / "never.png").exists()


@pytest.mark.parametrize("name", ["plot_leaderboard", "plot_agreement"])
def test_a_users_mistake_is_one_line(tmp_path, name):
    done = command(name, "--table", tmp_path / "no.csv", "--out", tmp_path / "x.png", check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'no.csv'}: no such file\n"
