"""Matrices in the form that the stages store."""

from typing import Any

import numpy as np
from scipy import sparse

from trueshift.contract import dense
from trueshift.kinds import Kind


def as_csr(matrix: Any) -> sparse.csr_matrix:
    """The matrix as float32 CSR, explicit zeros removed; never the same object, so it may be changed."""
    result = sparse.csr_matrix(matrix, dtype=np.float32, copy=True)
    result.eliminate_zeros()
    return result


def as_stored(matrix: Any, kind: Kind) -> Any:
    """The matrix, sparse or dense, in float32 as data of ``kind`` store it: a dense array, or a new CSR matrix."""
    return dense(matrix) if kind.dense else as_csr(matrix)
