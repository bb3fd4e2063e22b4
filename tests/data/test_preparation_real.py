"""Quality control to pairs on published screens: known signals survive, known counts come out.

The environment variable TRUESHIFT_DATA names the folder that holds them.
"""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from trueshift.contract import ContractError, dense
from trueshift.data.genes import select_genes
from trueshift.data.normalize import normalize
from trueshift.data.pairing import make_pairs
from trueshift.data.partition import partition
from trueshift.data.qc import quality_control
from trueshift.data.splitting import make_split

FOLDER = os.environ.get("TRUESHIFT_DATA")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="TRUESHIFT_DATA is not set")


def canonical(file: str, kind: str, **columns: pd.Series | str) -> ad.AnnData:
    source = ad.read_h5ad(Path(str(FOLDER), file))
    obs = pd.DataFrame(index=source.obs_names)
    for name, column in columns.items():
        obs[name] = column if isinstance(column, str) and column not in source.obs else source.obs[column].astype(str)
    obs["is_control"] = obs["perturbation"] == "control"
    obs["dose"] = ["0" if p == "control" else "+".join(["1"] * (p.count("+") + 1)) for p in obs["perturbation"]]
    uns = {"trueshift": {"schema_version": 1, "dataset": Path(file).parent.name, "kind": kind}}
    return ad.AnnData(source.X, obs=obs, var=pd.DataFrame(index=source.var_names), uns=uns)


@pytest.fixture(scope="module")
def kang() -> ad.AnnData:
    file = "kang2018/example_sce.h5ad"
    adata = canonical(
        file, "counts", perturbation="group_id", context="cluster_id", batch="sample_id", modality="cytokine"
    )
    adata.obs["perturbation"] = adata.obs["perturbation"].replace({"ctrl": "control"})
    adata.obs["is_control"] = adata.obs["perturbation"] == "control"
    adata.obs["dose"] = np.where(adata.obs["is_control"], "0", "1")
    adata.obs["batch"] = adata.obs["batch"].str.extract(r"(\d+)$", expand=False)
    return adata


def test_interferon_survives_every_stage(kang: ad.AnnData) -> None:
    kept, _ = quality_control(kang, {"min_genes": 1, "min_cells": 1})
    normal = normalize(kept, {})
    mean = {
        control: float(dense(normal[(normal.obs["is_control"] == control).to_numpy(), "ISG15"].X).mean())
        for control in (True, False)
    }
    assert mean[True] == pytest.approx(0.3553, abs=5e-4)
    assert mean[False] == pytest.approx(4.8515, abs=5e-4)
    chosen = {"type": "zero_shot_context", "folds": {"CD14": "CD14+ Monocytes"}}
    split = make_split(normal.obs, chosen, "CD14")
    genes = select_genes(normal, split, {"n_top": 500})
    assert genes.set_index("gene").loc["ISG15", "reason"] == "hvg"
    train, query, truth = partition(normal, split, genes, {"split": chosen})
    assert query.uns["conditions"]["context"].tolist() == ["CD14+ Monocytes"]
    assert abs((truth.obs["role"] == "control_input").sum() - (truth.obs["role"] == "control_reference").sum()) <= 8
    pairs = make_pairs(train.obs, 16, 0)
    column = dense(train[:, "ISG15"].X).ravel()
    assert column[pairs.perturbed].mean() - column[pairs.control].mean() > 3


def test_thresholds_for_whole_transcriptomes_are_refused_on_gene_subsets() -> None:
    file = "papalexi2021/lowmoi_example_data.h5ad"
    adata = canonical(file, "counts", perturbation="grna_target_top", context="THP-1", batch="bio_rep", modality="KO")
    with pytest.raises(ContractError, match="fewer than min_genes: 200 genes"):
        quality_control(adata, {})


def test_doubles_with_both_singles_in_training() -> None:
    adata = canonical(
        "perturbench_devel/devel.h5ad",
        "lognorm",
        perturbation="condition",
        context="cell_type",
        batch="dataset",
        modality="perturbation_type",
    )
    seen, both = 0, 0
    k562 = adata[(adata.obs["context"] == "k562").to_numpy()]
    for fold in ("1", "2", "3"):
        chosen = {"type": "unseen_combination", "k": 3}
        split = make_split(k562.obs, chosen, fold)
        genes = pd.DataFrame({"gene": k562.var_names, "selected": True})
        asked = partition(k562, split, genes, {"split": chosen})[1].uns["conditions"]
        seen += len(asked)
        both += (asked["n_seen"] == 2).sum()
    assert (seen, both) == (15, 5)
