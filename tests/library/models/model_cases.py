"""Hand-made training data and queries: one row of values a cell."""

from collections.abc import Sequence

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

Row = tuple[str, str, str, Sequence[float]]  # context, perturbation, dose, expression


def cells(rows: Sequence[Row], genes: Sequence[str] | None = None, **features: pd.DataFrame) -> ad.AnnData:
    """Cells as in train.h5ad; controls have role control_input."""
    obs = pd.DataFrame([row[:3] for row in rows], columns=["context", "perturbation", "dose"])
    obs.index = pd.Index([f"c{i}" for i in range(len(obs))])
    obs["batch"], obs["modality"] = "b", "drug"
    obs["is_control"] = obs["perturbation"] == "control"
    obs["role"] = np.where(obs["is_control"], "control_input", "train")
    values = np.array([row[3] for row in rows], dtype=np.float32)
    names = genes or [f"g{i}" for i in range(values.shape[1])]
    uns = {"trueshift": {"kind": "lognorm"}, "perturbation_features": dict(features)}
    return ad.AnnData(sparse.csr_matrix(values), obs=obs, var=pd.DataFrame(index=pd.Index(names)), uns=uns)


def question(conditions: Sequence[tuple[str, str, str]], **controls: Sequence[float]) -> ad.AnnData:
    """A query with one input control cell for each context named."""
    query = cells([(context, "control", "0", values) for context, values in controls.items()])
    table = pd.DataFrame(conditions, columns=["context", "perturbation", "dose"])
    table["modality"], table["n_cells"], table["n_seen"] = "drug", 5, 1
    query.uns["conditions"] = table
    return query


def random_screen(perturbations: Sequence[str], contexts: int = 2, genes: int = 6, seed: int = 0) -> ad.AnnData:
    """Random cells: three controls a context, one or two cells a condition."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for context in [f"x{i}" for i in range(contexts)]:
        for name in ["control", *perturbations]:
            dose = "0" if name == "control" else "+".join("1" for _ in name.split("+"))
            for _ in range(3 if name == "control" else int(rng.integers(1, 3))):
                rows.append((context, name, dose, rng.uniform(0, 3, genes).tolist()))
    return cells(rows)
