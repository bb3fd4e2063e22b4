"""Two published forms that reward constants, kept to show by how much.

Every true cell and the prediction subtract one control mean, so its noise is in both, and choosing each cell's own
most changed genes sharpens it: a constant profile scores high where nothing happens.
"""

from collections.abc import Callable

import numpy as np

from trueshift.evaluation.metric import CORRELATION, SHARE, metric
from trueshift.evaluation.metrics.delta import correlation, is_constant
from trueshift.evaluation.pair import ROUNDING, Pair, Values, values

BLOCK = 2048  # cells at a time: bounds memory


@metric(
    **SHARE,
    needs=("samples",),
    formula=(
        "mean over true cells i of Pearson r(x_i − c̄, x̂ − c̄)² over the k genes with the largest |x_i − c̄|, "
        "c̄ the mean of all controls; high for constants, for its noise is on both sides"
    ),
    source="MERGE (github.com/joshuaroll/MERGE)",
    per_k=True,
    ranks=False,
)
def legacy_r2_topk(pair: Pair, k: int) -> Values:
    """Mean over true cells i of Pearson's r² of δ_i = x_i − c̄ and x̂ − c̄, over the k genes with the largest |δ_i|.

    c̄ is the mean of all controls (of paired profiles, of the condition's own), the same on both sides. The source pairs
    every sample with one control and skips constant predictions; here these score 0, and a condition is marked where
    all its cells score so. Cells whose own effect is constant over their k genes have no r and are left out. Equal
    |δ_i| are taken in the order of genes.
    """
    return _mean_over_samples(pair, k, np.square)


@metric(
    **CORRELATION,
    needs=("samples",),
    formula=(
        "mean over true cells i of Pearson r(x_i − c̄, x̂ − c̄) over all genes, c̄ the mean of all controls; high "
        "for constants, as legacy_r2_topk"
    ),
    source="pearson_de in MERGE (github.com/joshuaroll/MERGE)",
    ranks=False,
)
def legacy_pearson(pair: Pair) -> Values:
    """Mean over true cells i of Pearson's r of δ_i = x_i − c̄ and x̂ − c̄ over all genes: the source's ``pearson_de``.

    c̄, constants and cells without r are those of :func:`legacy_r2_topk`.
    """
    return _mean_over_samples(pair, pair.x.shape[1], np.positive)


def _mean_over_samples(pair: Pair, k: int, of_r: Callable[[np.ndarray], np.ndarray]) -> Values:
    """The mean over the true cells of each condition of a function of their r over k genes."""
    assert pair.shared_control is not None
    unknown = np.isnan(pair.shared_control).any(axis=1)
    mean = np.full(len(unknown), np.nan)
    constant = np.zeros(len(unknown), dtype=bool)
    for i in np.flatnonzero(~unknown):
        r, constants = _one_condition(pair, int(i), k)
        if len(r):
            mean[i], constant[i] = of_r(r).mean(), constants.all()
    return values(mean, {"too few controls": unknown, "constant truth": np.isnan(mean)}, constant)


def _one_condition(pair: Pair, i: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """r of the cells that have one, and where it is 0 because the prediction is constant."""
    assert pair.samples is not None and pair.shared_control is not None
    cells, control, x_hat = pair.samples(i), pair.shared_control[i].astype(np.float64), pair.x_hat[i]
    found = []
    for start in range(0, len(cells), BLOCK):
        found.append(_correlate(np.asarray(cells[start : start + BLOCK], dtype=np.float32), x_hat, control, k))
    r, constant = np.concatenate([f.value for f in found]), np.concatenate([f.constant for f in found])
    return r[~np.isnan(r)], constant[~np.isnan(r)]


def _correlate(cells: np.ndarray, x_hat: np.ndarray, control: np.ndarray, k: int) -> Values:
    """Pearson's r of the effect of each of the cells (n, G) with the predicted one, over k genes of that cell."""
    if k < len(control):
        genes = _largest(np.abs(cells - control.astype(np.float32)), k)
        x, x_hat, control = np.take_along_axis(cells, genes, axis=1).astype(np.float64), x_hat[genes], control[genes]
    else:
        x, x_hat, control = cells.astype(np.float64), x_hat[None], control[None]
    delta, delta_hat = x - control, x_hat - control
    noise, noise_hat = (ROUNDING * np.maximum(np.abs(a), np.abs(control)) for a in (x, x_hat))
    constant = np.broadcast_to(is_constant(delta_hat, noise_hat), len(cells))
    return correlation(delta, delta_hat, is_constant(delta, noise), constant)


def _largest(size: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest of each row of (n, G), shape (n, k), sorted; of equal ones the first."""
    n_genes = size.shape[1]
    least = np.partition(size, n_genes - k, axis=1)[:, n_genes - k, None]
    chosen = size >= least
    for i in np.flatnonzero(chosen.sum(axis=1) > k):
        equal = np.flatnonzero(size[i] == least[i])
        chosen[i, equal[k - chosen[i].sum() :]] = False
    return np.flatnonzero(chosen).reshape(len(size), k) % n_genes
