"""Our rank-sum tests against illico and pdex, the engine of cell-eval; SciPy and scanpy are in tests/library."""

from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from illico import asymptotic_wilcoxon
from pdex import pdex
from scipy.special import ndtr

from trueshift.evaluation.wilcoxon import SortedCells, wilcoxon

RATE = np.concatenate([np.linspace(0.02, 4, 39), [0]])  # from almost never to always expressed; the last never


@pytest.fixture(scope="module")
def cells(counts: Callable[..., np.ndarray]) -> ad.AnnData:
    """Three conditions of 50, 20 and 5 cells and 90 controls; 40 genes with many ties."""
    rng = np.random.default_rng(3)
    sizes = {"P": 50, "Q": 20, "R": 5, "control": 90}
    shift = {"P": 1.5, "Q": 0.7, "R": 3, "control": 1}
    matrix = np.concatenate([counts(rng, n, RATE * shift[label]) for label, n in sizes.items()])
    obs = pd.DataFrame({"group": np.repeat(list(sizes), list(sizes.values()))}, index=range(len(matrix)))
    obs.index = obs.index.astype(str)
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=[f"g{i:02d}" for i in range(len(RATE))]))


def ours(cells: ad.AnnData) -> tuple[np.ndarray, np.ndarray]:
    """z and p of P, Q and R, (3, G)."""
    group = cells.obs["group"].to_numpy()
    controls = SortedCells.of(cells.X[group == "control"])
    return wilcoxon([cells.X[group == label] for label in "PQR"], controls)


def test_agrees_with_illico(cells: ad.AnnData) -> None:
    """The same test: tie-corrected, without its default continuity correction; its z has the sign of ours. 1e-12."""
    table = asymptotic_wilcoxon(
        cells, is_log1p=True, group_keys="group", reference="control", use_continuity=False, tie_correct=True
    )
    z, p = ours(cells)
    for column, expected in (("z_score", z), ("p_value", p)):
        found = table[column].unstack("feature").loc[list("PQR"), cells.var_names].to_numpy()
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_agrees_with_pdex_but_for_its_continuity_correction(cells: ad.AnnData) -> None:
    """pdex takes ½ from |U − nm/2|: with σ = |U − nm/2| / |z| from its U and our z, its p follows to 1e-12. Without
    that correction p differs by up to a few percent in small conditions, and never by its order."""
    frame = pdex(cells, "group", mode="ref", reference="control", is_log1p=True, threads=1).to_pandas()
    z, p = ours(cells)
    wide = frame.pivot(index="target", columns="feature").loc[list("PQR")]
    u, p_pdex = (wide[name][cells.var_names].to_numpy(float) for name in ("statistic", "p_value"))
    n = np.array([50, 20, 5])[:, None]
    away = np.abs(u - n * 90 / 2)
    sigma = np.divide(away, np.abs(z), out=np.ones_like(z), where=z != 0)
    expected = np.where(z == 0, 1, np.minimum(2 * ndtr(-(away - 0.5) / sigma), 1))
    np.testing.assert_allclose(p_pdex, expected, atol=1e-12)
    assert (p <= p_pdex).all()
    assert np.abs(p - p_pdex).max() > 1e-4
