"""Published numbers on real sets, to the digits shown. TRUESHIFT_DATA names the folder with the sets.

One recipe for all. Cells are taken in file order within each (context, condition), counted from 0. Controls: even
rows are input, odd rows are reference, in every context. Test cells: even rows are half A of the technical duplicate,
odd rows half B, which is the truth. Training sees all perturbed cells of the other contexts and their *input*
controls, so that no control subtracted from the truth ever trains a model. One context is left out at a time.
"""

import os
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from trueshift.contract import condition_codes
from trueshift.data.loading import load
from trueshift.data.normalize import normalize
from trueshift.evaluation.duplicates import ceiling
from trueshift.evaluation.halves import halve
from trueshift.evaluation.metrics.errors import rmse
from trueshift.evaluation.metrics.topk import pearson2_topk
from trueshift.evaluation.pair import Pair
from trueshift.evaluation.reference import TestCells, truth_statistics
from trueshift.evaluation.scoring import score
from trueshift.evaluation.truth import Truth
from trueshift.models.base import Query, Training
from trueshift.models.mean_shift import MeanShift
from trueshift.models.no_change import NoChange

FOLDER = os.environ.get("TRUESHIFT_DATA")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="TRUESHIFT_DATA is not set")

METRICS = {"metrics": ["r2_topk", "r2_centered_topk", "pearson_topk", "pearson2_topk", "pearson_delta"], "k": [20]}
KANG: dict[str, Any] = {
    "kind": "counts",
    "source": {"format": "h5ad", "path": "{data}/kang2018/example_sce.h5ad"},
    "columns": {
        "perturbation": {"from": "group_id", "control": "ctrl"},
        "context": "cluster_id",
        "batch": {"from": "sample_id", "extract": r"(\d+)$"},
        "modality": {"value": "cytokine"},
    },
}
PERTURBENCH: dict[str, Any] = {
    "kind": "lognorm",
    "source": {"format": "h5ad", "path": "{data}/perturbench_devel/devel.h5ad"},
    "columns": {
        "perturbation": {"from": "condition", "control": "control"},
        "context": "cell_type",
        "batch": "dataset",
        "dose": "dose",
        "modality": "perturbation_type",
    },
    "preselected_genes": True,
}
B_CELLS, CD14, CD4, CD8, FCGR3A = "B cells", "CD14+ Monocytes", "CD4 T cells", "CD8 T cells", "FCGR3A+ Monocytes"


class Held:
    """One context held out by the recipe: train, query, all test cells with the mask of half A, truth on half B."""

    def __init__(self, data: ad.AnnData, contexts: list[str]) -> None:
        even = data.obs.groupby(["context", "perturbation", "dose"], observed=True).cumcount().to_numpy() % 2 == 0
        control = data.obs["is_control"].to_numpy(bool)
        inside = data.obs["context"].isin(contexts).to_numpy()
        data = data.copy()
        data.obs["role"] = np.select([~control, even], ["test", "control_input"], "control_reference")
        data.uns["trueshift"]["cluster"] = "context"
        table, codes = condition_codes(data.obs[inside & ~control])
        table = table.assign(modality="any", n_cells=np.bincount(codes), n_seen=1)

        self.train = data[~inside & (~control | even)].copy()
        self.query = data[inside & control & even].copy()
        self.cells = data[inside].copy()
        self.query.uns["conditions"] = self.cells.uns["conditions"] = table
        self.in_a = (even & ~control)[inside]
        self.half_b = self.cells[~self.in_a].copy()
        self.truth: Truth = truth_statistics(self.half_b)

    def duplicate(self, settings: dict[str, Any] = METRICS) -> pd.DataFrame:
        whole = truth_statistics(self.cells)
        everything = np.arange(len(whole.conditions))
        sides = halve(TestCells(self.cells), whole, self.in_a[None], everything)
        return ceiling(whole, *sides, settings)

    def score(self, prediction: ad.AnnData, settings: dict[str, Any] = METRICS) -> pd.DataFrame:
        return score(prediction, self.half_b, self.truth, settings)


@pytest.fixture(scope="module")
def kang() -> ad.AnnData:
    return normalize(load("kang2018", KANG, Path(str(FOLDER))), {"target_sum": 10000})


@pytest.fixture(scope="module")
def held(kang: ad.AnnData) -> dict[str, Held]:
    return {name: Held(kang, [name]) for name in (B_CELLS, CD14, CD4, CD8, FCGR3A)}


@pytest.fixture(scope="module")
def glioma() -> Held:
    return Held(load("perturbench_devel", PERTURBENCH, Path(str(FOLDER))), ["A172", "T98G", "U87MG"])


def value(scores: pd.DataFrame, metric: str) -> float:
    return float(scores.loc[scores["metric"] == metric, "value"].mean())


def mean_shift(held: Held) -> pd.DataFrame:
    return held.score(MeanShift().fit(Training(held.train)).predict(Query(held.query)))


def test_kang_isg15(kang: ad.AnnData) -> None:
    gene = kang[:, "ISG15"]
    means = [float(gene[gene.obs["is_control"] == is_control].X.mean(dtype=np.float64)) for is_control in (True, False)]
    assert means == pytest.approx([0.3553, 4.8515], abs=5e-5)


def test_kang_differentially_expressed_genes(held: dict[str, Held]) -> None:
    assert [int(h.truth.conditions["n_deg"].iloc[0]) for h in held.values()] == [183, 637, 116, 55, 373]


def test_kang_mean_shift_on_cd14(held: dict[str, Held]) -> None:
    scores = mean_shift(held[CD14])
    found = [value(scores, name) for name in ("r2_topk", "r2_centered_topk", "pearson_delta")]
    assert found == pytest.approx([0.7363, -2.6609, 0.8327], abs=5e-5)


def test_kang_mean_of_five(held: dict[str, Held]) -> None:
    shift = np.mean([value(mean_shift(h), "r2_topk") for h in held.values()])
    duplicate = np.mean([value(h.duplicate(), "r2_topk") for h in held.values()])
    assert (shift, duplicate) == pytest.approx((0.8717, 0.9906), abs=5e-5)


def test_kang_no_change_explodes_in_the_centred_form_only(held: dict[str, Held]) -> None:
    frames = [h.score(NoChange().fit(Training(h.train)).predict(Query(h.query))) for h in held.values()]
    scores = pd.concat(frames)
    assert value(scores, "r2_topk") == pytest.approx(0, abs=1e-6)
    assert value(scores, "r2_centered_topk") == pytest.approx(-7.97, abs=5e-3)


def test_kang_distances_between_cells_on_cd14(held: dict[str, Held]) -> None:
    h, cells = held[CD14], {"metrics": ["e_distance", "mmd2"]}
    still = h.score(NoChange().fit(Training(h.train)).predict(Query(h.query)), cells)
    assert value(still, "e_distance") == pytest.approx(12.1167, abs=5e-5)
    assert value(still, "mmd2") == pytest.approx(0.1694, abs=5e-5)
    assert value(h.duplicate(cells), "e_distance") == pytest.approx(0.0783, abs=5e-5)


def test_glioma_has_no_detectable_effect(glioma: Held) -> None:
    assert len(glioma.truth.conditions) == 27
    assert (glioma.truth.conditions["n_deg"] == 0).all()


def test_glioma_no_change_wins_with_a_shared_reference_and_not_with_ours(glioma: Held) -> None:
    truth, prediction = glioma.truth, NoChange().fit(Training(glioma.train)).predict(Query(glioma.query))
    shared = Pair.of(truth.mean, prediction.X, truth.control_reference, truth.control_reference, truth.order)
    assert pearson2_topk(shared, 20).value.mean() == pytest.approx(0.4524, abs=5e-5)

    scores = glioma.score(prediction)
    ours = scores[scores["metric"] == "pearson2_topk"]
    assert (ours["value"] == 0).all()
    assert ours["flags"].str.contains("constant_prediction").all()
    assert (scores.loc[scores["metric"] == "r2_topk", "reason"] == "no effect").all()
    assert value(glioma.duplicate(), "pearson2_topk") == pytest.approx(0.08, abs=5e-3)


def test_openproblems_mean_rowwise_error() -> None:
    """MRRMSE is the mean of ``rmse``: rank scores of B and Myeloid cells, drugs that these were not trained on."""
    folder = Path(str(FOLDER)) / "op3_ranks"
    table = pd.read_parquet(folder / "derived_neurips2023_ranks.parquet")
    asked = pd.MultiIndex.from_frame(pd.read_csv(folder / "id_map.csv")[["cell_type", "sm_name"]])
    test = pd.MultiIndex.from_frame(table[["cell_type", "sm_name"]]).isin(asked)
    signature = 1 - 2 * (table.drop(columns=["cell_type", "sm_name"]) - 1) / 6348

    def mean_by(column: str) -> np.ndarray:
        means = signature[~test].groupby(table.loc[~test, column]).mean()
        return means.loc[table.loc[test, column]].to_numpy()

    cell, compound = mean_by("cell_type"), mean_by("sm_name")
    truth = signature[test].to_numpy()
    zeros, order = np.zeros_like(truth), np.tile(np.arange(truth.shape[1]), (len(truth), 1))
    found = [
        rmse(Pair.of(truth, x_hat, zeros, zeros, order)).value.mean()
        for x_hat in (zeros, cell, compound, 0.3 * compound + 0.5 * cell)
    ]
    assert found == pytest.approx([0.577, 0.566, 0.638, 0.547], abs=5e-4)
