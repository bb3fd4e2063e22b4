"""Columns of a source as text: which cells to keep, which labels they have."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from trueshift.contract import ContractError
from trueshift.data.options import check_keys, choices

MISSING = {"", "nan", "NaN", "None", "<NA>"}
FILTERS = ("min", "max", "in", "not_in", "equals", "present")


def number_text(value: object) -> str:
    """A label as text; whole numbers lose their ``.0`` so that 1, 1.0 and "1" are one label."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def plain(name: str) -> str:
    """A name without ``+``, which joins combinations: ``(+)-JQ1`` is ``(plus)-JQ1``."""
    return name.replace("(+)", "(plus)").replace("+", "plus")


def text(values: pd.Series) -> pd.Series:
    """Labels as a categorical of text, NaN where there is none."""
    labels = values if isinstance(values.dtype, pd.CategoricalDtype) else values.astype("category")
    labels = labels.cat.remove_unused_categories()
    if labels.cat.categories.dtype == np.float32:  # 0.1 is 0.1, not the 0.10000000149 of 64 bits
        return map_labels(labels, lambda value: number_text(np.float32(value)))
    return map_labels(labels, number_text)


def map_labels(labels: pd.Series, change: Callable[[Any], str | None]) -> pd.Series:
    """Applies ``change`` to each category once; labels it makes equal become one, None and missing words NaN."""
    changed = [change(label) for label in labels.cat.categories]
    table = np.array([None if new is None or new in MISSING else new for new in changed] + [None], dtype=object)
    return pd.Series(pd.Categorical(table[labels.cat.codes]), index=labels.index)


def column(obs: pd.DataFrame, name: str, where: str) -> pd.Series:
    """A source column; one that does not exist is an error with the nearest name and those there are."""
    if name not in obs:
        raise ContractError(f"{where}: the source has no column '{name}'; {choices(name, obs.columns)}")
    return obs[name]


def extract(labels: pd.Series, pattern: str, where: str) -> pd.Series:
    """The first capture group of ``pattern`` in each label; a label it does not match is an error."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ContractError(f"{where}: extract '{pattern}' is not a regular expression ({error})") from error
    if not compiled.groups:
        raise ContractError(f"{where}: extract '{pattern}' has no group; put brackets around the part to keep")

    def first_group(label: str) -> str:
        match = compiled.search(label)
        if match is None:
            raise ContractError(f"{where}: extract '{pattern}' does not match '{label}'")
        return match.group(1) or ""

    return map_labels(labels, first_group)


def mapped(
    obs: pd.DataFrame, spec: str | Mapping[str, Any], where: str, missing: bool = False, remedy: str = ""
) -> pd.Series:
    """The labels of a canonical column from its mapping: a column name, ``{value: …}`` or ``{from: …, extract: …}``.

    Missing labels are an error that names the column and their number, unless ``missing`` allows them; ``remedy`` adds
    one to those that it names.
    """
    spec = {"from": spec} if isinstance(spec, str) else spec
    if "value" in spec:
        return pd.Series(pd.Categorical([number_text(spec["value"])] * len(obs)), index=obs.index)
    if "from" not in spec:
        raise ContractError(f"{where}: say where it comes from (from: a source column) or give a constant (value:)")
    name = spec["from"]
    labels = text(column(obs, name, where))
    if spec.get("extract"):
        labels = extract(labels, spec["extract"], where)
    if not missing and labels.isna().any():
        raise ContractError(
            f"{where}: source column '{name}' has {labels.isna().sum()} cells without a label; "
            f"leave them out (filter: {{{name}: {{present: true}}}}) or fill them in{remedy}"
        )
    return labels


def kept(obs: pd.DataFrame, filters: Mapping[str, Mapping[str, Any]], where: str) -> np.ndarray:
    """Which cells pass all filters, a boolean array of shape (N,). A cell without a value passes none.

    ``filters`` maps source columns to ``min``, ``max`` (numbers, inclusive), ``in``, ``not_in`` (lists), ``equals``
    and ``present: true``. Raises :class:`ContractError` on unknown columns and labels, and if no cell is left.
    """
    keep = np.ones(len(obs), dtype=bool)
    for name, rules in filters.items():
        here = f"{where}, filter: {name}"
        check_keys(rules, FILTERS, here)
        values = column(obs, name, here)
        passed = _passes(values, rules, here)
        keep &= passed
        if not keep.any():
            raise ContractError(f"{here}: {dict(rules)} leaves no cells; it alone lets {passed.sum()} of {len(obs)} by")
    return keep


def _passes(values: pd.Series, rules: Mapping[str, Any], where: str) -> np.ndarray:
    labels = text(values)
    passed = labels.notna().to_numpy()
    if "min" in rules or "max" in rules:
        numbers = pd.to_numeric(labels.astype(object), errors="coerce").to_numpy(dtype=float)
        if np.isnan(numbers[passed]).any():
            example = labels[passed][np.isnan(numbers[passed])].iloc[0]
            raise ContractError(f"{where}: min and max need numbers, not '{example}'")
        passed &= ~(numbers < rules.get("min", -np.inf)) & ~(numbers > rules.get("max", np.inf))
    wanted = [rules["equals"]] if "equals" in rules else rules.get("in")
    if wanted is not None:
        passed &= labels.isin(_known(wanted, labels, where)).to_numpy()
    if "not_in" in rules:
        passed &= ~labels.isin([number_text(label) for label in rules["not_in"]]).to_numpy()
    return passed


def _known(wanted: list[Any], labels: pd.Series, where: str) -> list[str]:
    names = [number_text(label) for label in wanted]
    for name in names:
        if name not in labels.cat.categories:
            raise ContractError(f"{where}: no cell has '{name}'; {choices(name, labels.cat.categories)}")
    return names
