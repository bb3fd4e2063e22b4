"""The field's table and the honest one, against what NumPy makes of the raw arrays."""

import os

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from trueshift.contract import ContractError, make_prediction, write_table
from trueshift.evaluation.reference import truth_statistics
from trueshift.evaluation.scoring import label, score
from trueshift.report.legacy import (
    HONEST,
    HONEST_COLUMNS,
    LEGACY,
    RESULTS_COLUMNS,
    read_stamped,
    topk_r2_honest,
    topk_r2_results,
)
from trueshift.results import gather

NAN = float("nan")
GENES = 90
SAMPLES = {("A549", "P"): 3, ("A549", "Q"): 9, ("MCF7", "P"): 5}
SETTINGS = {"metrics": [*LEGACY, *HONEST, "mse"], "k": [80, 20, 40]}  # not in the order of the columns
WHEN = 1_768_737_600  # 2026-01-18 12:00 UTC


def truth_file() -> ad.AnnData:
    """Three conditions of different size in two lines, 60 controls in each."""
    rng = np.random.default_rng(0)
    level = rng.uniform(1, 4, GENES)
    blocks, obs = [], []
    for line in ("A549", "MCF7"):
        for role in ("control_input", "control_reference"):
            blocks.append(level + rng.normal(0, 0.5, (30, GENES)))
            obs += [(role, line, "control", "0")] * 30
    for (line, perturbation), n in SAMPLES.items():
        blocks.append(level + rng.normal(0, 1, GENES) + rng.normal(0, 0.5, (n, GENES)))
        obs += [("test", line, perturbation, "1")] * n
    table = pd.DataFrame(list(SAMPLES), columns=["context", "perturbation"])
    table = table.assign(dose="1", modality="drug", n_cells=list(SAMPLES.values()), n_seen=0)
    return ad.AnnData(
        np.concatenate(blocks).astype(np.float32),
        obs=pd.DataFrame(
            obs, columns=["role", "context", "perturbation", "dose"], index=[f"s{i}" for i in range(len(obs))]
        ).assign(batch="b"),
        var=pd.DataFrame(index=[f"G{i:03d}" for i in range(GENES)]),
        uns={"conditions": table, "trueshift": {"schema_version": 1, "kind": "lognorm", "cluster": "perturbation"}},
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Scores of two models in files as the workflow writes them, the truth, and the predictions."""
    cells = truth_file()
    truth = truth_statistics(cells)
    rng = np.random.default_rng(1)
    answers = {"good": truth.mean + rng.normal(0, 0.5, truth.mean.shape), "bad": rng.normal(2, 1, truth.mean.shape)}
    folder, paths = tmp_path_factory.mktemp("runs"), []
    for model, values in answers.items():
        found = score(make_prediction(cells, values), cells, truth, SETTINGS)
        names = {"dataset": "lincs", "split": "s", "fold": "1", "model": model, "variant": "default", "seed": "0"}
        paths.append(folder / f"{model}.parquet")
        write_table(label(found, names), paths[-1])
        os.utime(paths[-1], (WHEN + 0.9, WHEN + 0.9))
    return gather(paths, read=read_stamped), cells, truth, answers


def merge(treated, predicted, control, k):
    """Mean r² over the k largest of each sample and mean r over all genes, as MERGE computes them."""
    r2, r = [], []
    for sample in treated.astype(np.float64):
        true, guess = sample - control, predicted - control
        top = np.argsort(np.abs(true))[::-1][:k]
        r2.append(np.corrcoef(true[top], guess[top])[0, 1] ** 2)
        r.append(np.corrcoef(true, guess)[0, 1])
    return r2, r


def test_the_fields_table_is_what_its_definition_gives_on_the_raw_arrays(made):
    scores, cells, _, answers = made
    table = topk_r2_results(scores)
    assert table.columns.tolist() == RESULTS_COLUMNS
    assert table.columns[:8].tolist() == [
        *["model", "cell_line", "fold", "r2_top20", "r2_top40", "r2_top80", "pearson_de", "timestamp"],
    ]
    lines = table[["model", "cell_line", "fold"]].to_numpy().tolist()
    assert lines == [["bad", "A549", "1"], ["bad", "MCF7", "1"], ["good", "A549", "1"], ["good", "MCF7", "1"]]
    assert set(table["timestamp"]) == {"2026-01-18T12:00:00+00:00"}
    obs, matrix = cells.obs, cells.X.astype(np.float64)
    for _, row in table.iterrows():
        here = (obs["context"] == row["cell_line"]).to_numpy()
        control = matrix[here & (obs["role"] != "test").to_numpy()].mean(axis=0)
        for k in (20, 40, 80):
            r2, r = [], []
            for i, (line, perturbation) in enumerate(SAMPLES):
                if line == row["cell_line"]:
                    treated = matrix[here & (obs["perturbation"] == perturbation).to_numpy()]
                    found = merge(treated, answers[row["model"]][i], control, k)
                    r2, r = r2 + found[0], r + found[1]
            assert row[f"r2_top{k}"] == pytest.approx(np.mean(r2), abs=1e-5)
        assert row["pearson_de"] == pytest.approx(np.mean(r), abs=1e-5)


def test_the_honest_table_has_other_controls_on_either_side_and_the_fields_values_beside(made):
    scores, cells, truth, answers = made
    table = topk_r2_honest(scores)
    assert table.columns.tolist() == HONEST_COLUMNS
    obs, matrix = cells.obs, cells.X.astype(np.float64)
    for _, row in table.iterrows():
        here = (obs["context"] == row["cell_line"]).to_numpy()
        reference, given = (
            matrix[here & (obs["role"] == role).to_numpy()].mean(axis=0)
            for role in ("control_reference", "control_input")
        )
        r2, r = [], []
        for i, (line, perturbation) in enumerate(SAMPLES):
            if line == row["cell_line"]:
                delta = matrix[here & (obs["perturbation"] == perturbation).to_numpy()].mean(axis=0) - reference
                delta_hat = answers[row["model"]][i] - given
                top = truth.order[i, :20]
                r2.append(1 - np.sum((delta - delta_hat)[top] ** 2) / np.sum(delta[top] ** 2))
                r.append(np.corrcoef(delta, delta_hat)[0, 1])
        assert row["r2_top20"] == pytest.approx(np.mean(r2), abs=1e-4)
        assert row["pearson_delta"] == pytest.approx(np.mean(r), abs=1e-4)
        assert [row[c] for c in ("n_conditions", "n_undefined", "n_no_effect")] == [len(r2), 0, 0]
    results = topk_r2_results(scores)
    beside = table[["model", "cell_line", "legacy_r2_top20", "legacy_r2_top40", "legacy_r2_top80", "legacy_pearson"]]
    field = results[["model", "cell_line", "r2_top20", "r2_top40", "r2_top80", "pearson_de"]]
    assert beside.to_numpy().tolist() == field.to_numpy().tolist()


# --- by hand ------------------------------------------------------------------------------------------


def rows(model="m", perturbation="P", n_cells=1, reason="", *, r2=0.5, r=0.5, honest=0.5, honest_r=0.5, **more):
    """One condition of one run."""
    base = {"dataset": "d", "split": "s", "fold": "1", "variant": "default", "seed": "0", "context": "c", "dose": "1"}
    base |= {"model": model, "perturbation": perturbation, "cluster": perturbation, "n_cells": n_cells, "flags": ""}
    base |= {"timestamp": "t"}
    found = [("legacy_r2_topk", k, r2) for k in ("20", "40", "80")] + [("legacy_pearson", "", r)]
    found += [("r2_topk", k, honest) for k in ("20", "40", "80")] + [("pearson_delta", "", honest_r)]
    return [
        base | {"metric": metric, "k": k, "value": value, "reason": reason if np.isnan(value) else ""} | more
        for metric, k, value in found
    ]


def test_samples_vote_in_the_fields_table_and_conditions_in_ours():
    table = pd.DataFrame(
        [
            *rows("m", "P", 1, r2=0.2, r=-0.4, honest=0.2),
            *rows("m", "Q", 3, r2=0.6, r=0.4, honest=0.6),
            *rows("m", "R", 50, "no features", r2=NAN, r=NAN, honest=NAN, honest_r=NAN),
            *rows("m", "S", 2, "no effect", r2=1.0, r=1.0, honest=NAN),
        ]
    )
    (field,) = topk_r2_results(table).to_dict("records")
    assert field["r2_top20"] == pytest.approx((0.2 + 3 * 0.6 + 2 * 1.0) / 6)
    assert field["pearson_de"] == pytest.approx((-0.4 + 3 * 0.4 + 2 * 1.0) / 6)
    (honest,) = topk_r2_honest(table).to_dict("records")
    assert honest["r2_top20"] == pytest.approx(0.4)
    assert [honest[c] for c in ("n_conditions", "n_undefined", "n_no_effect")] == [2, 1, 1]


def test_what_is_undefined_is_empty_and_never_zero(tmp_path):
    table = pd.DataFrame([*rows(reason="no features", r2=NAN, r=NAN, honest=NAN, honest_r=NAN)])
    for made in (topk_r2_results(table), topk_r2_honest(table)):
        write_table(made, tmp_path / "table.csv")
        back = pd.read_csv(tmp_path / "table.csv", dtype=str, keep_default_na=False)
        assert back["r2_top20"].tolist() == [""]
    assert topk_r2_honest(table)[["n_conditions", "n_undefined"]].to_numpy().tolist() == [[0, 1]]


def test_lines_folds_seeds_variants_and_datasets_have_rows_of_their_own_in_natural_order():
    several = [{"fold": "10"}, {"fold": "2"}, {"seed": "1"}, {"context": "b"}, {"variant": "a"}, {"dataset": "e"}]
    table = topk_r2_results(pd.DataFrame([r for more in [{}, *several] for r in rows(**more)]))
    keys = ["dataset", "variant", "cell_line", "fold", "seed"]
    assert table[keys].agg(" ".join, axis=1).tolist() == [
        *["d a c 1 0", "d default b 1 0", "d default c 1 0", "d default c 1 1", "d default c 2 0", "d default c 10 0"],
        "e default c 1 0",
    ]


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (("legacy_r2_topk", "40"), "no row of legacy_r2_topk at k = 40; add 40 to evaluation: k:"),
        (("legacy_pearson", ""), "no row of legacy_pearson; add it to evaluation: metrics:"),
        (("r2_topk", "80"), "no row of r2_topk at k = 80; add 80 to evaluation: k:"),
        (("pearson_delta", ""), "no row of pearson_delta; add it to evaluation: metrics:"),
    ],
)
def test_what_was_not_scored_names_the_key_of_the_configuration(lost, message):
    table = pd.DataFrame([row for row in rows() if (row["metric"], row["k"]) != lost])
    with pytest.raises(ContractError, match=message):
        topk_r2_honest(table)


def test_a_file_given_twice_is_refused():
    with pytest.raises(ContractError, match="is there twice"):
        topk_r2_results(pd.DataFrame(rows() * 2))
