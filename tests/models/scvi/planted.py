"""A small screen with strong planted effects: train.h5ad and query.h5ad as scvi-based models meet them."""

import anndata as ad
import numpy as np
import pandas as pd

N_GENES = 40
PERTURBATIONS = ("P0", "P1", "P2")
CONTEXTS = ("A", "B", "C", "hidden")


def effects() -> np.ndarray:
    """Planted shifts of log expression, shape (perturbation, gene): two thirds shared, one third own."""
    rng = np.random.default_rng(3)
    return 1.2 * (rng.random(N_GENES) < 0.4) + 0.4 * rng.normal(size=(len(PERTURBATIONS), N_GENES))


def means() -> np.ndarray:
    """Mean log expression of the controls, shape (context, gene)."""
    rng = np.random.default_rng(4)
    return rng.uniform(1, 3, N_GENES) + 0.3 * rng.normal(size=(len(CONTEXTS), N_GENES))


def make_train(cells: int = 60, validation: bool = True) -> ad.AnnData:
    """``cells`` of each (context, perturbation), all but the perturbed ones of context ``hidden``, in mixed order."""
    rng = np.random.default_rng(5)
    blocks, rows = [], []
    for c, context in enumerate(CONTEXTS):
        for p, perturbation in enumerate(("control", *PERTURBATIONS)):
            if perturbation != "control" and context == "hidden":
                continue
            mean = means()[c] + (effects()[p - 1] if p else 0)
            n = cells + 7 * c  # contexts of unequal size, so that balancing matters
            blocks.append(mean + 0.3 * rng.normal(size=(n, N_GENES)))
            rows += [(context, perturbation)] * n
    obs = pd.DataFrame(rows, columns=["context", "perturbation"])
    order = rng.permutation(len(obs))
    obs = obs.iloc[order].reset_index(drop=True)
    obs.index = pd.Index([f"cell{i}" for i in range(len(obs))])
    obs["batch"] = np.where(np.arange(len(obs)) % 2, "b0", "b1")
    obs["is_control"] = obs["perturbation"] == "control"
    obs["dose"] = np.where(obs["is_control"], "0", "1")
    val = validation & ~obs["is_control"] & (np.arange(len(obs)) % 9 == 0)
    obs["role"] = np.where(obs["is_control"], "control_input", np.where(val, "val", "train"))
    genes = pd.DataFrame(index=pd.Index([f"G{i}" for i in range(N_GENES)]))
    uns = {"trueshift": {"kind": "lognorm"}}
    return ad.AnnData(np.concatenate(blocks)[order].astype(np.float32), obs=obs, var=genes, uns=uns)


def make_query(train: ad.AnnData, conditions: list[tuple[str, str]], n_cells: int = 50) -> ad.AnnData:
    """The controls of the contexts asked, and ``n_cells`` cells asked for each condition."""
    table = pd.DataFrame(conditions, columns=["context", "perturbation"])
    table = table.assign(dose="1", modality="drug", n_cells=n_cells, n_seen=1)
    rows = train.obs["is_control"] & train.obs["context"].isin(table["context"])
    query = train[rows.to_numpy()].copy()
    query.uns["conditions"] = table
    return query


HIDDEN = [("hidden", name) for name in PERTURBATIONS]


def share_of_error(prediction: ad.AnnData, query: ad.AnnData) -> float:
    """Squared error of the predicted mean profiles over that of no change, all conditions together."""
    error = floor = 0.0
    for row in query.uns["conditions"].itertuples():
        obs = prediction.obs
        here = ((obs["context"] == row.context) & (obs["perturbation"] == row.perturbation)).to_numpy()
        inputs = query.X[(query.obs["context"] == row.context).to_numpy()].mean(axis=0)
        truth = means()[CONTEXTS.index(row.context)] + effects()[PERTURBATIONS.index(row.perturbation)]
        error += float(((prediction.X[here].mean(axis=0) - truth) ** 2).sum())
        floor += float(((inputs - truth) ** 2).sum())
    return error / floor
