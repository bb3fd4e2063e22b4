"""Small truth files made from arrays, as the partition stage would write them."""

from collections.abc import Callable, Mapping

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

Condition = tuple[str, str, str]


def make_truth(
    tests: Mapping[Condition, np.ndarray],
    controls: Mapping[str, tuple[np.ndarray, np.ndarray]],
    genes: list[str] | None = None,
    cluster: str = "perturbation",
    dense: bool = False,
) -> ad.AnnData:
    """A truth.h5ad: test cells (n, G) by (context, perturbation, dose), (input, reference) controls by context."""
    blocks, rows = [], []
    for key, cells in tests.items():
        blocks.append(cells)
        rows += [(*key, "test", False)] * len(cells)
    for context, halves in controls.items():
        for role, cells in zip(("control_input", "control_reference"), halves, strict=True):
            blocks.append(cells)
            rows += [(context, "control", "0", role, True)] * len(cells)
    obs = pd.DataFrame(rows, columns=["context", "perturbation", "dose", "role", "is_control"])
    obs["batch"] = "b1"
    obs.index = pd.Index([f"cell{i}" for i in range(len(obs))])
    table = pd.DataFrame(sorted(tests), columns=["context", "perturbation", "dose"])
    table = table.assign(modality="drug", n_cells=[len(tests[key]) for key in sorted(tests)], n_seen=1)
    matrix = np.concatenate(blocks).astype(np.float32, copy=False)
    names = genes or [f"gene{i:02d}" for i in range(matrix.shape[1])]
    return ad.AnnData(
        matrix if dense else sparse.csr_matrix(matrix),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(names)),
        uns={"conditions": table, "trueshift": {"schema_version": 1, "kind": "lognorm", "cluster": cluster}},
    )


@pytest.fixture(scope="session")
def build_truth() -> Callable[..., ad.AnnData]:
    return make_truth


@pytest.fixture(scope="session")
def counts() -> Callable[..., np.ndarray]:
    """Draws log1p counts, shape (n, len(rate)), with many ties."""

    def draw(rng: np.random.Generator, n: int, rate: np.ndarray) -> np.ndarray:
        return np.log1p(rng.poisson(rate, size=(n, len(rate)))).astype(np.float32)

    return draw


@pytest.fixture(scope="session")
def truth_file(counts: Callable[..., np.ndarray]) -> ad.AnnData:
    """Two contexts, 30 genes: in A, P moves the first ten genes and Q none; in B, P moves them the other way."""
    rng = np.random.default_rng(0)
    rate = np.linspace(0.3, 3, 30)
    up, down = rate.copy(), rate.copy()
    up[:10] += 3
    down[:10] /= 6
    return make_truth(
        {
            ("A", "P", "1"): counts(rng, 80, up),
            ("A", "Q", "1"): counts(rng, 30, rate),
            ("B", "P", "1"): counts(rng, 15, down),
        },
        {"A": (counts(rng, 60, rate), counts(rng, 60, rate)), "B": (counts(rng, 35, rate), counts(rng, 34, rate))},
    )
