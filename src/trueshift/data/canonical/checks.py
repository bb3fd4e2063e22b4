"""What must hold of a source before anything is learnt from it: ids, values, size factors, controls."""

from collections.abc import Callable, Iterator
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift.contract import ContractError
from trueshift.kinds import KINDS

BLOCK = 1 << 24  # stored values looked at together
LOG_LIMIT = 25.0  # log1p of 7e10: more than any normalised count


def check_ids(adata: ad.AnnData, where: str) -> None:
    """Raises :class:`ContractError` if cell or gene ids are missing or occur twice."""
    for what, names in (("cell", adata.obs_names), ("gene", adata.var_names)):
        if not names.is_unique:
            twice = names[names.duplicated()].unique()
            remedy = "in the source" if what == "cell" else "or name another column as gene_symbol"
            raise ContractError(
                f"{where}: {len(twice)} {what} ids occur more than once, first {', '.join(map(str, twice[:3]))}; "
                f"make them unique {remedy}"
            )


def check_values(matrix: Any, genes: pd.Index, kind: str, where: str) -> None:
    """Raises :class:`ContractError` unless values, sparse or dense, fit ``kind``; names the first gene where not.

    All kinds: finite. Raw counts: whole and not negative. Logarithms: not negative, not all whole, at most
    ``LOG_LIMIT``.
    """
    if not (matrix.nnz if sparse.issparse(matrix) else matrix.any()):
        raise ContractError(f"{where}: all values are 0")
    _refuse(matrix, genes, lambda x: ~np.isfinite(x), f"{where}: values are NaN or infinite, first in gene {{}}")
    about = KINDS[kind]
    if about.raw_counts:
        _refuse(matrix, genes, lambda x: x < 0, f"{where}: counts are negative, first in gene {{}}; is it scaled?")
        _refuse(
            matrix,
            genes,
            lambda x: x != np.rint(x),
            f"{where}: kind is {kind} but values are not whole numbers, first in gene {{}}; "
            "name the layer with the counts, or set kind: lognorm if they are log-normalised",
        )
    elif about.log1p:
        _refuse(
            matrix,
            genes,
            lambda x: x < 0,
            f"{where}: kind is {kind} but values are negative, first in gene {{}}; centred or scaled values do not do",
        )
        if all((x == np.rint(x)).all() for _, x in _blocks(matrix)):
            raise ContractError(
                f"{where}: kind is {kind} but all values are whole numbers; these look like counts: set kind: counts"
            )
        _refuse(
            matrix,
            genes,
            lambda x: x > LOG_LIMIT,
            f"{where}: kind is {kind} but values exceed {LOG_LIMIT:g}, first in gene {{}}; "
            "they are not on a log scale: take logs, or name another layer",
        )


def check_size_factors(values: pd.Series, source: str, where: str) -> np.ndarray:
    """Size factors as float64, shape (N,); raises :class:`ContractError` unless all are above 0 and finite."""
    numbers = pd.to_numeric(values.astype(object), errors="coerce").to_numpy(dtype=float)
    bad = ~(np.isfinite(numbers) & (numbers > 0))
    if bad.any():
        first = np.flatnonzero(bad)[0]
        raise ContractError(
            f"{where}: source column '{source}' is not above 0 in {bad.sum()} cells, first {values.index[first]} "
            f"({values.iloc[first]}); leave those cells out with filter:, or leave size_factor out"
        )
    return numbers


def check_controls(obs: pd.DataFrame, where: str) -> None:
    """Raises :class:`ContractError` if there are no controls, no perturbed cells, or a context without controls."""
    if not obs["is_control"].any():
        raise ContractError(f"{where}: no control cells are left; check control: and filter:")
    if obs["is_control"].all():
        raise ContractError(f"{where}: all cells are controls; check control: and filter:")
    with_controls = set(obs.loc[obs["is_control"], "context"])
    without = [context for context in obs["context"].unique() if context not in with_controls]
    if without:
        raise ContractError(
            f"{where}: no controls in context {', '.join(map(str, sorted(without)))}; effects need controls of the "
            "same context: leave it out with filter:, or map contexts otherwise"
        )


def check_pairs(obs: pd.DataFrame, where: str) -> None:
    """Raises :class:`ContractError` unless every ``control_id`` of a perturbed profile is a control of its context."""
    if "control_id" not in obs:
        return
    treated = obs[~obs["is_control"]]
    context = obs["context"].astype(str)[obs["is_control"]]
    found = treated["control_id"].astype(str).map(context)
    lost, foreign = found.isna(), found.notna() & (found != treated["context"].astype(str))
    for wrong, what in ((lost, "is no control in the data"), (foreign, "is a control of another context")):
        if wrong.any():
            first = treated.index[wrong][0]
            raise ContractError(
                f"{where}, columns: control_id: of {int(wrong.sum())} perturbed profiles it {what}, first {first} "
                f"({treated.loc[first, 'control_id']}); keep the controls of what filter: keeps, or correct the column"
            )


def _blocks(matrix: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Where a block of values begins, in the order of rows, and the values, flat."""
    values: np.ndarray = matrix.data if sparse.issparse(matrix) else matrix.reshape(-1)
    for start in range(0, len(values), BLOCK):
        yield start, values[start : start + BLOCK]


def _refuse(matrix: Any, genes: pd.Index, bad: Callable[[np.ndarray], np.ndarray], message: str) -> None:
    for start, values in _blocks(matrix):
        mask = bad(values)
        if mask.any():
            places = start + np.flatnonzero(mask)
            found = matrix.indices[places] if sparse.issparse(matrix) else places % matrix.shape[1]
            raise ContractError(message.format(genes[found.min()]))
