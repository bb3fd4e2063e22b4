"""Which features of a source are genes: Cell Ranger writes guides and antibodies into the same matrix."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from trueshift.data.local_files import Log

TYPES, EXPRESSION = "feature_types", "Gene Expression"  # as Cell Ranger and scanpy write them


def expressed(var: pd.DataFrame, log: Log) -> tuple[np.ndarray, dict[str, int]]:
    """Which features are gene expression, a mask of shape (G,), and how many of each other type there are.

    All are where ``var`` has no column ``feature_types``, or none of its values is ``Gene Expression``, which the log
    says.
    """
    every = np.ones(len(var), dtype=bool)
    if TYPES not in var:
        return every, {}
    types = var[TYPES].astype(str).to_numpy()
    genes = types == EXPRESSION
    if not genes.any():
        log(f"{TYPES} never says '{EXPRESSION}': all {len(var)} features are taken as genes")
        return every, {}
    names, counts = np.unique(types[~genes], return_counts=True)
    others = dict(zip(names.tolist(), counts.tolist(), strict=True))
    if others:
        shown = ", ".join(f"{number} {name}" for name, number in others.items())
        log(f"{sum(others.values())} of {len(var)} features are not genes and are left out: {shown}")
    return genes, others


def noted(others: Mapping[str, int]) -> dict[str, Any]:
    """What was left out, in a form that h5ad keeps whatever the names of types are."""
    return {"not_genes": {"types": list(others), "features": list(others.values())}} if others else {}


def counted(metadata: Mapping[str, Any]) -> dict[str, int]:
    """What :func:`noted` wrote: how many features of each type were left out."""
    left_out = metadata.get("not_genes", {"types": [], "features": []})
    return {str(name): int(number) for name, number in zip(left_out["types"], left_out["features"], strict=True)}
