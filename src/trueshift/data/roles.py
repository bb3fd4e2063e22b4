"""The table of roles: reading it, matching it to cells, and what it asks for, in numbers."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from trueshift.contract import ROLES, ContractError, check_intact, component_doses, components, condition_codes


def sorted_components(label: str) -> tuple[str, ...]:
    """The components of a label in one order, so that ``A+B`` and ``B+A`` are the same perturbation."""
    return tuple(sorted(components(label)))


def sorted_doses(label: str, dose: str) -> str:
    """The doses of a label's components in the order of its sorted components: ``B+A`` at ``2+1`` is at ``1+2``."""
    parts, amounts = label.split("+"), component_doses(dose)
    if len(parts) != len(amounts):
        return dose
    return "+".join(amount for _, amount in sorted(zip(parts, amounts, strict=True)))


def among(values: np.ndarray, wanted: Iterable[str]) -> np.ndarray:
    """The mask of text values that are among those wanted; by hash, where NumPy compares all with all."""
    return np.asarray(pd.Series(values, dtype=object).isin(set(wanted)))


class Cells:
    """The canonical columns as plain text arrays, and draws that do not depend on the order of the rows.

    ``structures`` is the table of that name in ``uns``, for a split by structure.
    """

    def __init__(self, obs: pd.DataFrame, structures: pd.DataFrame | None = None) -> None:
        self.structures = structures
        self.names = obs.index.astype(str).to_numpy()
        self.control = obs["is_control"].to_numpy(dtype=bool)
        self.perturbed = ~self.control
        self.context = obs["context"].astype(str).to_numpy()
        self.batch = obs["batch"].astype(str).to_numpy()
        self.label = obs["perturbation"].astype(str).to_numpy()
        self.dose = obs["dose"].astype(str).to_numpy()
        self.control_id = obs["control_id"].astype(str).to_numpy() if "control_id" in obs else None
        self.labels = sorted(set(self.label[self.perturbed]))
        self.obs = obs

    @cached_property
    def condition(self) -> np.ndarray:
        """The number of each cell's condition, (N,); most splits do without."""
        return condition_codes(self.obs)[1]

    def random(self, rows: np.ndarray, *seed: int) -> np.ndarray:
        """One number for each of ``rows``, drawn in the order of their names: other cells do not matter."""
        draws = np.empty(len(rows))
        draws[np.argsort(self.names[rows], kind="stable")] = np.random.default_rng(list(seed)).random(len(rows))
        return draws

    def doses(self) -> pd.DataFrame:
        """What every cell was given, and how much: perturbation and dose, shape (N, 2), components sorted."""
        pairs = pd.DataFrame({"label": self.label, "dose": self.dose})
        rows = pairs.drop_duplicates()
        rows = rows.assign(
            perturbation=["+".join(sorted(label.split("+"))) for label in rows["label"]],
            amount=[sorted_doses(label, dose) for label, dose in rows.itertuples(index=False)],
        )
        table = pairs.merge(rows, on=["label", "dose"], how="left")[["perturbation", "amount"]]
        return table.rename(columns={"amount": "dose"})

    def with_label(self, wanted: set[str]) -> np.ndarray:
        """The mask of perturbed cells whose label is among those wanted."""
        return among(self.label, wanted) & self.perturbed


def read_obs(path: str | Path) -> pd.DataFrame:
    """The obs of an h5ad without its matrices."""
    check_intact(path)
    try:
        with h5py.File(path, "r") as file:
            return ad.io.read_elem(file["obs"])
    except (OSError, KeyError) as error:
        raise ContractError(f"{path}: cannot be read as h5ad ({error}); delete it so that it is made again") from error


def read_structures(path: str | Path) -> pd.DataFrame | None:
    """``uns["structures"]`` of an h5ad, a row for each drug; None where there is none. The file was read before."""
    with h5py.File(path, "r") as file:
        return ad.io.read_elem(file["uns/structures"]) if "uns/structures" in file else None


def read_split(path: str | Path) -> pd.DataFrame:
    """Reads split.csv; ids stay text, be they ``007`` or ``NA``."""
    check_intact(path)
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def roles_of(split: pd.DataFrame, obs: pd.DataFrame) -> np.ndarray:
    """The role of every row of ``obs``, shape (N,); a :class:`ContractError` unless ids match one to one."""
    cells = split["cell"].astype(str)
    if cells.duplicated().any():
        raise ContractError(f"split: cell {cells[cells.duplicated()].iloc[0]} has more than one role")
    names = obs.index.astype(str)
    rows = np.arange(len(names)) if np.array_equal(cells, names) else pd.Index(cells).get_indexer(names)
    if (rows < 0).any() or len(cells) != len(names):
        lost, extra = names[rows < 0], cells[~cells.isin(names)]
        raise ContractError(
            f"split: {len(lost)} of {len(names)} cells of the data have no role"
            + (f" (first {lost[0]})" if len(lost) else "")
            + f" and {len(extra)} of {len(cells)} ids of the split are not in the data"
            + (f" (first {extra.iloc[0]})" if len(extra) else "")
            + "; was it made from other data? Delete it so that it is made again"
        )
    return split["role"].astype(str).to_numpy()[rows]


def fitting_cells(roles: np.ndarray, obs: pd.DataFrame) -> np.ndarray:
    """The mask, shape (N,), of cells that gene selection and scaling may be fitted on.

    These are role ``train``, and the input controls of contexts that have perturbed training cells: the controls of a
    context that is held out whole say too much about it.
    """
    context = obs["context"].astype(str).to_numpy()
    seen = context[(roles == "train") & ~obs["is_control"].to_numpy(dtype=bool)]
    return (roles == "train") | ((roles == "control_input") & among(context, seen))


def conditions_asked(obs: pd.DataFrame, roles: np.ndarray) -> pd.DataFrame:
    """The conditions under test: context, perturbation, dose, modality, n_cells (test cells), n_seen; sorted.

    Of paired profiles also ``control_id`` and ``context_seen``, see :func:`trueshift.contract.asked`. ``n_seen`` counts
    the components that training (or validation) cells of any context carry alone; all of them if the very combination
    was trained on.
    """
    test = obs[roles == "test"]
    table, codes = condition_codes(test)
    first = np.unique(codes, return_index=True)[1]
    table["modality"] = test["modality"].astype(str).to_numpy()[first]
    table["n_cells"] = np.bincount(codes, minlength=len(table))
    perturbed = ~obs["is_control"].to_numpy(dtype=bool)
    labels = obs["perturbation"].astype(str)[among(roles, ("train", "val")) & perturbed].unique()
    seen = {sorted_components(label) for label in labels}
    parts = [sorted_components(label) for label in table["perturbation"]]
    table["n_seen"] = [len(part) if part in seen else sum((single,) in seen for single in part) for part in parts]
    if "control_id" in obs:
        ids = pd.DataFrame({"condition": codes, "id": test["control_id"].astype(str).to_numpy()}).drop_duplicates()
        table["control_id"] = ids.sort_values(["condition", "id"]).groupby("condition")["id"].agg("\t".join)
        context = obs["context"].astype(str)
        table["context_seen"] = table["context"].isin(set(context[among(roles, ("train", "val")) & perturbed]))
    return table


def describe_split(split: pd.DataFrame, obs: pd.DataFrame) -> list[str]:
    """The facts of a split in lines: cells per role, conditions by how much of them was seen, controls per context."""
    roles = roles_of(split, obs)
    lines = ["cells: " + ", ".join(f"{role} {(roles == role).sum():,}" for role in ROLES)]
    table = conditions_asked(obs, roles)
    width = table["perturbation"].map(lambda label: len(components(label)))
    for size in sorted(set(width)):
        counts = table["n_seen"][width == size].value_counts()
        parts = ", ".join(f"{counts.get(n, 0)} with {n} seen" for n in range(size + 1))
        kind = "single" if size == 1 else f"{size}-fold"
        lines.append(f"test conditions, {kind} perturbations: {int((width == size).sum())} ({parts})")
    halves = (
        obs[["context", "batch"]].astype(str).assign(role=roles)[among(roles, ("control_input", "control_reference"))]
    )
    for context, part in halves.groupby("context"):
        given, kept = (part["role"] == "control_input").sum(), (part["role"] == "control_reference").sum()
        lone = int((part.groupby("batch").size() == 1).sum())
        lines.append(
            f"controls of {context}: {given} input, {kept} reference"
            + (f", {lone} batches with one control (input)" if lone else "")
            + ("; no reference: metrics that compare with controls are undefined here" if kept == 0 else "")
        )
    return lines
