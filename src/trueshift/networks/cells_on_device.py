"""Expression of cells for a network: on its device, a batch at a time."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from trueshift.contract import dense

GPU_COPY_BYTES = 4 << 30


class CellsOnDevice:
    """Expression of cells as float32 tensors on a device, densified a batch at a time.

    On a GPU a matrix of at most 4 GiB (537,000 cells × 2,000 genes) is copied there once. On a CPU nothing is copied:
    taking 2,048 rows of 2,000 genes out of a CSR matrix is faster than out of a dense one.
    """

    def __init__(self, matrix: Any, device: str) -> None:
        self.matrix, self.device = matrix, device
        fits = matrix.shape[0] * matrix.shape[1] * 4 <= GPU_COPY_BYTES
        self.copy = torch.from_numpy(dense(matrix)).to(device) if device == "cuda" and fits else None

    def rows(self, index: np.ndarray) -> Tensor:
        """Cells at ``index`` (B, S), shape (B, S, G)."""
        if self.copy is not None:
            return self.copy[torch.from_numpy(index.astype(np.int64)).to(self.device)]
        cells = torch.from_numpy(dense(self.matrix[index.ravel()]))
        return cells.view(*index.shape, -1).to(self.device)
