"""What was done to every cell: canonical perturbation, dose and modality from the labels of a source."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from trueshift.contract import CONTROL, ContractError, component_doses
from trueshift.data.canonical import doses, labels
from trueshift.data.canonical.columns import column, mapped, plain, text
from trueshift.data.canonical.doses import Amount
from trueshift.data.local_files import Log

NO_DOSE = ("-666", "-666.0")  # how LINCS writes that there is none


class Treatment(NamedTuple):
    """One distinct treatment: its components with their doses, sorted by name, none for controls; and its modality."""

    components: list[tuple[str, Amount]]
    modality: str


def treatments(obs: pd.DataFrame, columns: Mapping[str, Any], where: str, log: Log) -> tuple[pd.DataFrame, str]:
    """The columns perturbation, dose and modality, rows as in ``obs``, shape (N, 3), and the unit of doses.

    Labels are split as :func:`trueshift.data.canonical.labels.split_labels` says; controls within a combination are
    left out; a label that names one perturbation several times is that perturbation alone. Doses are numbers, as text,
    in the unit of :func:`trueshift.data.canonical.doses.common_unit`. The log counts what was changed. Raises
    :class:`ContractError` for labels and doses that cannot be read, naming them.
    """
    here, dose_here = f"{where}, columns: perturbation", f"{where}, columns: dose"
    spec, dose_spec = columns["perturbation"], columns["dose"]
    given = mapped(obs, spec, here, missing=True)
    wanted, source = labels.controls(spec["control"], given, here, log)
    if source.isna().any():  # refused as any column with missing labels is
        mapped(obs, spec, here, remedy="; if they are the controls, set control: null")
    named = labels.split_labels(source.cat.categories, wanted, spec.get("separator", "+"), here)
    dose = mapped(obs, dose_spec, dose_here, missing=True)
    modality = mapped(obs, columns["modality"], f"{where}, columns: modality")

    codes = pd.DataFrame({"label": source.cat.codes, "dose": dose.cat.codes, "modality": modality.cat.codes})
    group = codes.groupby(["label", "dose", "modality"], sort=False).ngroup().to_numpy()
    first = np.flatnonzero(~pd.Series(group).duplicated().to_numpy())
    rows: list[Treatment] = []
    read: list[Amount] = []
    no_dose, lacking = 0, ""
    twice: dict[str, int] = {}
    for cell in first:
        label, written = source.iloc[cell], dose.iloc[cell]
        parts = named[label]
        if all(part in wanted for part in parts):
            rows.append(Treatment([], modality.iloc[cell]))
            continue
        if pd.isna(written) or written in NO_DOSE:
            no_dose += int((group == group[cell]).sum())
            lacking = lacking or f"{source.index[int(cell)]} ({label})"
            continue
        amounts = _amounts(written, len(parts), dose_here, label)
        pairs = sorted((part, of) for part, of in zip(parts, amounts, strict=True) if part not in wanted)
        read += [of for _, of in pairs]
        if len({part for part, _ in pairs}) < len(pairs):
            twice[label] = twice.get(label, 0) + int((group == group[cell]).sum())
        rows.append(Treatment(pairs, modality.iloc[cell]))
    if no_dose:
        raise ContractError(
            f"{dose_here}: source column '{dose_spec.get('from', 'dose')}' has {no_dose} perturbed cells without a "
            f"dose, first {lacking}; leave them out with filter:, fill them in, or add the label to control:"
        )
    unit = doses.common_unit(read, dose_spec.get("unit"), dose_here, log)
    perturbed = np.array([bool(row.components) for row in rows])[group]
    if dose_spec.get("extract"):
        whole = text(column(obs, dose_spec["from"], dose_here))[perturbed]
        doses.check_extract(whole, dose_spec["extract"], dose_spec.get("unit"), dose_here)
    if twice:
        log(
            f"{sum(twice.values())} cells have labels that name one perturbation several times, such as "
            f"'{next(iter(twice))}': each is that perturbation alone"
        )
    table = _table(rows, unit, here, dose_here, log)
    return table.iloc[group], unit


def _amounts(dose: str, count: int, where: str, label: str) -> list[Amount]:
    amounts = doses.amounts_of(dose, [dose] if count == 1 else component_doses(dose), where, label)
    if len(amounts) == 1:
        amounts = amounts * count
    if len(amounts) != count:
        raise ContractError(f"{where}: '{label}' has {count} components but dose '{dose}' has {len(amounts)}")
    return amounts


def _table(rows: list[Treatment], unit: str, where: str, dose_where: str, log: Log) -> pd.DataFrame:
    """The canonical labels of distinct treatments, one row each."""
    seen: dict[str, set[str]] = {}
    single: set[str] = set()
    written: list[dict[str, str]] = []
    for row in rows:
        of: dict[str, str] = {}
        for part, amount in row.components:
            number = doses.in_unit(amount, unit)
            if of.setdefault(part, number) != number:
                raise ContractError(
                    f"{dose_where}: '{part}' occurs twice in one label, with the doses {of[part]} and {number}; give "
                    "such cells one dose in the source, or leave them out with filter:"
                )
            seen.setdefault(part, set()).add(row.modality)
        written.append(of)
        single |= set(of) if len(of) == 1 else set()
    labels.check_names(seen, where)
    shared = {part for part, kinds in seen.items() if len(kinds) > 1}
    if shared:
        log(f"{len(shared)} labels occur under several modalities and get @modality: {', '.join(sorted(shared)[:5])}")
    renamed = {part: plain(part) for part in seen}
    changed = [part for part, new in renamed.items() if part != new]
    if changed:
        log(f"{len(changed)} labels hold '+' (it joins combinations), written as 'plus': {', '.join(changed[:5])}")
    never_alone = sorted(set(seen) - single)
    if never_alone:
        log(f"{len(never_alone)} components of combinations occur nowhere alone: {', '.join(never_alone[:5])}")

    def full(part: str, modality: str) -> str:
        return f"{renamed[part]}@{modality}" if part in shared else renamed[part]

    return pd.DataFrame(
        {
            "perturbation": [
                "+".join(full(p, row.modality) for p in of) or CONTROL for row, of in zip(rows, written, strict=True)
            ],
            "dose": ["+".join(of.values()) or "0" for of in written],
            "modality": [row.modality for row in rows],
        }
    ).astype("category")
