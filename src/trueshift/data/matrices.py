"""Matrices in the form that the stages store."""

from typing import Any

import numpy as np
from scipy import sparse


def as_csr(matrix: Any) -> sparse.csr_matrix:
    """The matrix as float32 CSR, explicit zeros removed; never the same object, so it may be changed."""
    result = sparse.csr_matrix(matrix, dtype=np.float32, copy=True)
    result.eliminate_zeros()
    return result
