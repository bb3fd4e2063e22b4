"""A matrix of counts in the MatrixMarket format, with its lists of cells and genes."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.io import mmread

from trueshift.contract import ContractError
from trueshift.data.canonical.features import TYPES
from trueshift.data.frames import GZIP
from trueshift.data.name_lists import read_list


def read_matrix(
    matrix: str | Path, barcodes: str | Path, genes: str | Path, gene_column: int | None, log: Callable[[str], None]
) -> tuple[sparse.csr_matrix, pd.Index, pd.DataFrame]:
    """The counts, shape (cells, genes), float32; the ids of cells; and var, named by gene.

    var has ``gene_id``, the first column of ``genes``, and ``feature_types``, the third if there is one. The log says
    in which form the lists are.
    """
    values = _values(matrix)
    lists = {"barcodes": read_list(barcodes), "genes": read_list(genes)}
    for transposed in (True, False):  # genes × cells is the 10x way, and decides for square ones too
        n_cells, n_genes = values.shape[::-1] if transposed else values.shape
        found = {"barcodes": lists["barcodes"].entries(n_cells), "genes": lists["genes"].entries(n_genes)}
        if found["barcodes"] is not None and found["genes"] is not None:
            break
    else:
        counts = {name: len(of.lines) for name, of in lists.items()}
        raise ContractError(
            f"{matrix}: {values.shape[0]} × {values.shape[1]}, but there are {counts['barcodes']} barcodes in "
            f"{barcodes} and {counts['genes']} genes in {genes}"
        )
    (cells, cells_form), (names, names_form) = found["barcodes"], found["genes"]
    log(f"{Path(barcodes).name}: {len(cells)} cells ({cells_form})")
    log(f"{Path(genes).name}: {len(names)} features ({names_form})")
    column = min(1, names.shape[1] - 1) if gene_column is None else gene_column
    if column not in names:
        raise ContractError(f"{genes}: no column {column}; gene_column counts from 0 and there are {names.shape[1]}")
    var = pd.DataFrame({"gene_id": names[0].to_numpy()})
    if names.shape[1] > 2:
        var[TYPES] = names[2].to_numpy()
    var.index = unique_names(names[column].where(names[column] != "", names[0]), var, log)
    return sparse.csr_matrix(values.T if transposed else values, dtype=np.float32), pd.Index(cells[0]), var


def unique_names(names: pd.Series, var: pd.DataFrame, log: Callable[[str], None]) -> pd.Index:
    """The names of genes; one that several genes share is followed by the gene's id (``TBCE_ENSG00000284770``).

    A guide that is named as its target does not count: only features of one type are compared.
    """
    kinds = var[TYPES] if TYPES in var else pd.Series("", index=var.index)
    shared = pd.DataFrame({"name": names.to_numpy(), "kind": kinds.to_numpy()}).duplicated(keep=False).to_numpy()
    shared &= names.to_numpy() != var["gene_id"].to_numpy()  # there it would tell nothing apart
    if shared.any():
        log(f"{shared.sum()} genes share their name with another and get their id added: {names[shared].iloc[0]} …")
    return pd.Index(np.where(shared, names + "_" + var["gene_id"].to_numpy(), names))


def _values(matrix: str | Path) -> Any:
    try:
        with Path(matrix).open("rb") as start:
            zipped = start.read(len(GZIP)) == GZIP
        with gzip.open(matrix) if zipped else Path(matrix).open("rb") as stream:
            return mmread(stream)
    except (ValueError, OSError, EOFError, zlib.error, OverflowError) as error:
        raise ContractError(f"{matrix}: cannot be read as MatrixMarket ({error})") from error
