"""A small screen in canonical form, made for the tests of the data wing."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

PERTURBATIONS = ("G0", "G1", "G2", "G3", "G4", "G0+G1", "G2+G3", "G5+G6")


def make_obs(
    contexts: int = 3,
    batches: int = 2,
    cells: int = 6,
    controls: int = 9,
    perturbations: tuple[str, ...] = PERTURBATIONS,
) -> pd.DataFrame:
    """``cells`` of every perturbation and ``controls`` in each batch of each context, rows shuffled."""
    rows = [
        (label, f"c{c}", f"b{b}")
        for c in range(contexts)
        for b in range(batches)
        for label, number in [("control", controls), *((p, cells) for p in perturbations)]
        for _ in range(number)
    ]
    table = pd.DataFrame(rows, columns=["perturbation", "context", "batch"])
    table["dose"] = ["0" if p == "control" else "+".join("1" for _ in p.split("+")) for p in table["perturbation"]]
    table["modality"] = "CRISPRi"
    table["is_control"] = table["perturbation"] == "control"
    table = table.sample(frac=1, random_state=3)
    table.index = pd.Index([f"cell{i:05d}" for i in range(len(table))])
    for column in ("perturbation", "context", "batch", "dose", "modality"):
        table[column] = pd.Categorical(table[column])
    return table


def make_screen(obs: pd.DataFrame | None = None, genes: int = 60, kind: str = "counts", seed: int = 0) -> ad.AnnData:
    """Gamma-Poisson counts for ``obs``; gene g of context c and perturbation p has a mean of its own."""
    obs = make_obs() if obs is None else obs
    rng = np.random.default_rng(seed)
    base = 0.2 + rng.gamma(1.0, 3.0, genes)
    effect = np.exp(rng.normal(0, 0.5, (len(obs["perturbation"].cat.categories), genes)))
    place = np.exp(rng.normal(0, 0.3, (len(obs["context"].cat.categories), genes)))
    mean = base * effect[obs["perturbation"].cat.codes] * place[obs["context"].cat.codes]
    values = rng.poisson(rng.gamma(2.0, mean / 2.0)).astype(np.float32)
    values = np.log1p(values) if kind == "lognorm" else values
    names = [f"G{i}" for i in range(genes - 2)] + ["MT-A", "MT-B"]
    features = pd.DataFrame(rng.normal(size=(7, 2)), index=[f"G{i}" for i in range(7)], columns=["f0", "f1"])
    return ad.AnnData(
        sparse.csr_matrix(values),
        obs=obs.copy(),
        var=pd.DataFrame({"gene_id": [f"id{i}" for i in range(genes)]}, index=names),
        uns={
            "trueshift": {"schema_version": 1, "dataset": "screen", "kind": kind},
            "perturbation_features": {"programs": features},
        },
    )
