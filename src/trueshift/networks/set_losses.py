"""Distances between two sets of cells, as training losses: they compare distributions, not cells one by one.

Both are V-statistics (a cell is also compared with itself), so they are never negative and are zero for equal sets.
All functions take sets of cells with genes last, shapes (..., N, G) and (..., M, G), and any leading batch dimensions.
"""

import torch
from torch import Tensor


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances between the cells of ``x`` and of ``y``, shape (..., N, M).

    One matrix product on centred cells. What lies below its rounding error counts as zero, and has no gradient: the
    distance of a cell to itself is exactly 0 and the gradient of its square root, which would be infinite, is 0.
    """
    centre = (x.detach().mean(-2, keepdim=True) + y.detach().mean(-2, keepdim=True)) / 2
    x, y = x - centre, y - centre
    norms = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :]
    squares = norms - 2 * x @ y.transpose(-1, -2)
    return torch.where(squares <= 8 * torch.finfo(x.dtype).eps * norms, 0.0, squares)  # NaN stays NaN


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances, shape (..., N, M), with finite gradients everywhere."""
    squares = squared_distances(x, y)
    apart = squares != 0
    return torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """2 E‖x − y‖ − E‖x − x′‖ − E‖y − y′‖ of each pair of sets, shape (...); Székely & Rizzo 2013, eq. 2."""
    between = distances(x, y).mean((-2, -1))
    return 2 * between - distances(x, x).mean((-2, -1)) - distances(y, y).mean((-2, -1))


def rbf_mmd(x: Tensor, y: Tensor, sigma: float | str) -> Tensor:
    """Squared maximum mean discrepancy with the kernel exp(−‖a − b‖² / 2σ²), shape (...); Gretton et al. 2012, eq. 5.

    ``sigma`` is a bandwidth in units of expression or ``"median"``, see :func:`median_bandwidth`.
    """
    cross, own, other = squared_distances(x, y), squared_distances(x, x), squared_distances(y, y)
    width = median_bandwidth(x, y) if isinstance(sigma, str) else torch.full_like(cross[..., 0, 0], sigma)
    scale = 2 * width.square()[..., None, None]
    k_cross, k_own, k_other = (torch.exp(-squares / scale).mean((-2, -1)) for squares in (cross, own, other))
    return k_own + k_other - 2 * k_cross


def median_bandwidth(x: Tensor, y: Tensor) -> Tensor:
    """The median distance between two different cells of the pooled sets, shape (...), without a gradient.

    The lower of the two middle values for an even number of pairs; at least 1e-6, should all cells be equal.
    """
    with torch.no_grad():
        pooled = torch.cat([x, y], dim=-2)
        row, column = torch.triu_indices(pooled.shape[-2], pooled.shape[-2], offset=1, device=x.device)
        pairs = distances(pooled, pooled)[..., row, column]
        return pairs.sort(dim=-1).values[..., (pairs.shape[-1] - 1) // 2].clamp_min(1e-6)
