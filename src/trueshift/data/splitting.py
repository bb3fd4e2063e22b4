"""Who trains and who is tested: one role for every cell. What a fold tests, the module of the split's type says."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from trueshift.contract import ContractError
from trueshift.data.folds import VALIDATION
from trueshift.data.options import did_you_mean
from trueshift.data.roles import Cells, among
from trueshift.data.split_checks import check_split, control_roles
from trueshift.data.split_settings import asks, chosen_settings, fold_names, type_of


def make_split(
    obs: pd.DataFrame, settings: Mapping[str, Any], fold: str, structures: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The roles of all cells in one fold: columns cell and role, in the order of ``obs``.

    ``settings`` is the split's entry: ``type``, and the settings of that (:mod:`trueshift.data.split_settings`).
    ``structures``, the table of that name in ``uns``, is what a split by structure goes by. The same seed gives the
    same roles whatever the order of the rows, and the same halves of the controls in every fold. The result has passed
    :func:`~trueshift.data.split_checks.check_split`.
    """
    chosen, kind, fold = chosen_settings(settings), type_of(settings), str(fold)
    known = fold_names(chosen)
    if fold not in known:
        raise ContractError(f"split: no fold {fold}{did_you_mean(fold, known)}")
    cells = Cells(obs, structures)
    if hasattr(kind, "listed"):
        roles = kind.listed(cells, chosen, fold)
    else:
        roles = np.where(cells.control, "", "train").astype(object)
        roles[kind.tested(cells, chosen, fold)] = "test"
        _draw_validation(roles, cells, chosen, fold)
    open_controls = cells.control & (roles == "")
    roles[open_controls] = control_roles(roles, cells, chosen["seed"])[open_controls]
    split = pd.DataFrame({"cell": obs.index.astype(str), "role": roles.astype(str)})
    check_split(split, obs, settings, structures)
    return split


def _draw_validation(roles: np.ndarray, cells: Cells, chosen: dict[str, Any], fold: str) -> None:
    """Turns an evenly spaced share of the training cells, shuffled within conditions, into ``val``.

    Conditions with one training cell are left alone, unless there is no other kind (bulk profiles): then validation
    takes whole conditions, but leaves every perturbation that is tested at a new dose one that it trains at.
    """
    share = chosen["validation"]
    rows = np.flatnonzero((roles == "train") & cells.perturbed)
    if share == 0 or not len(rows):
        return
    size = np.bincount(cells.condition[rows])[cells.condition[rows]]
    whole = not (size > 1).any()
    rows = rows if whole else rows[size > 1]
    seed = (chosen["seed"], VALIDATION, zlib.crc32(fold.encode()))
    draws = cells.random(rows, *seed)
    if whole and asks(chosen) == "new_dose":
        given = cells.doses()["perturbation"].to_numpy()
        first = pd.Series(draws).groupby(given[rows]).rank(method="first").to_numpy() == 1
        free = ~(first & among(given[rows], given[roles == "test"]))
        share = min(1.0, share * len(rows) / max(1, free.sum()))  # the others stand in for those that stay
        rows, draws = rows[free], draws[free]
    rows = rows[np.lexsort((draws, cells.condition[rows]))]
    offset = np.random.default_rng([*seed, 1]).random()
    steps = np.floor(np.arange(len(rows) + 1) * share + offset)
    roles[rows[np.diff(steps) > 0]] = "val"
