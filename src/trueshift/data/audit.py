"""The leak audit: what stands both in training and under test, read off the very files that models and scoring get.

An independent check of the split: it knows these files and what the split's type promises, not how roles were made.
"""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from isal import isal_zlib
from scipy import sparse

from trueshift import values
from trueshift.contract import CONTROL, ContractError
from trueshift.data.roles import sorted_components, sorted_doses
from trueshift.data.split_settings import asks

COLUMNS = ["unit", "n_train", "n_test", "n_both", "share_test_cells", "promised", "example", "verdict"]
HELD_OUT, ALLOWED, SILENT = "held out", "allowed", "–"
# What a split promises that training does not show, by what it asks; every other biological unit may be on both sides.
# Whoever holds out one of the first three holds out the narrower units too. Doses are no way round a promise, but for
# the split that holds out doses.
NARROWER = ("perturbation in context", "condition")
PROMISES: dict[str, tuple[str, ...]] = {
    "seen": (),
    "partial_context": NARROWER,
    "new_context": ("context", *NARROWER),
    "new_perturbation": ("perturbation", "all components", "perturbation at dose", *NARROWER),
    "new_combination": ("perturbation", "perturbation at dose", *NARROWER),
    "new_dose": ("perturbation at dose", "condition"),
}
SCAFFOLDS = "unseen_scaffold"  # the type of split that holds them out too
ALWAYS = ("cell", "control cell")
# Columns that no type of split speaks of. A donor or plate on both sides is usual; the table says so all the same.
OTHER_COLUMNS = ("batch", "dose", "modality", "control_id")
EXAMPLES = 3


def audit(train: ad.AnnData, truth: ad.AnnData, split_entry: Mapping[str, Any]) -> pd.DataFrame:
    """Compares ``train.h5ad`` with ``truth.h5ad``; one row per unit, columns :data:`COLUMNS`.

    Training is every cell of ``train`` whatever its role, without controls unless the unit is about cells; the test is
    role test of ``truth``. Units: ``perturbation`` (``A+B`` is ``B+A``), ``component`` (a single gene or drug), ``all
    components`` (labels under test whose every component is trained on, alone or in combinations), ``context``,
    ``perturbation at dose`` (in whatever context), ``perturbation in context``, ``condition`` (with the dose),
    ``batch`` (donor, plate), ``dose``, ``modality``, ``control_id`` where there is one, ``scaffold`` (a column of obs,
    of ``uns["structures"]`` of ``train``, or of a table of perturbation features; drugs without one are not counted;
    where the split holds scaffolds out, combinations count only if none of theirs is new), ``cell`` (ids), ``control
    cell`` (ids of role control_reference, against all of ``train``), ``duplicate expression row`` and ``duplicate
    control row`` (reference controls against training controls): rows of X equal to the last bit. Rows of zeros say
    nothing and are counted apart, as cells.

    ``n_train``, ``n_test`` and ``n_both`` count distinct values. ``share_test_cells`` is the share of test cells (of
    reference controls, in control units) whose value stands in training too. ``promised`` is ``held out``, ``allowed``
    or ``–`` (the split's type says nothing), by ``split_entry``, the split's settings.

    Raises :class:`ContractError` if the two files have other genes.
    """
    if train.var_names.tolist() != truth.var_names.tolist():
        raise ContractError("leak audit: train and truth have other genes; delete them so that they are made again")
    by_scaffold = split_entry["type"] == SCAFFOLDS
    rows = _Rows((*PROMISES[asks(split_entry)], *(["scaffold"] if by_scaffold else []), *ALWAYS))
    perturbed = (train.obs["perturbation"].astype(str) != CONTROL).to_numpy()
    role = truth.obs["role"].astype(str).to_numpy()
    tested, reference = role == "test", role == "control_reference"
    seen, test = _units(train.obs[perturbed]), _units(truth.obs[tested])

    rows.add("perturbation", seen["label"], test["label"])
    seen_parts, test_parts = _parts(seen["label"]), _parts(test["label"])
    rows.add("component", seen_parts, test_parts)
    shown = set(seen_parts)
    covered = {label for label in test["label"].unique() if shown.issuperset(label.split("+"))}
    rows.add("all components", seen_parts, test["label"], covered)
    rows.add("context", seen["context"], test["context"])
    rows.add("perturbation at dose", _joined(seen, "label", "amount"), _joined(test, "label", "amount"))
    rows.add("perturbation in context", _joined(seen, "context", "label"), _joined(test, "context", "label"))
    rows.add("condition", _joined(seen, "context", "label", "amount"), _joined(test, "context", "label", "amount"))
    for column in OTHER_COLUMNS:
        if column in seen and column in test:
            rows.add(column, seen[column], test[column])
    scaffolds = _scaffolds(train, seen, test, seen_parts, test_parts)
    old = _of_old_scaffolds(scaffolds, seen_parts, test_parts) if by_scaffold else None
    rows.add("scaffold", scaffolds[0], scaffolds[1], old)

    ids = [pd.Series(names.astype(str)) for names in (train.obs_names, truth.obs_names)]
    rows.add("cell", ids[0], ids[1][tested])
    rows.add("control cell", ids[0], ids[1][reference])
    keys = [pd.Series(part, index=names) for part, names in zip(_keys(train, truth), ids, strict=True)]
    rows.add_duplicates("duplicate expression row", keys[0], keys[1][tested])
    rows.add_duplicates("duplicate control row", keys[0][~perturbed], keys[1][reference])
    empty = [int(part.isna().sum()) for part in (keys[0], keys[1][tested])]
    rows.write("expression row of zeros", *empty, verdict="not compared")
    return pd.DataFrame(rows.rows, columns=COLUMNS).astype(dict.fromkeys(COLUMNS[1:4], "Int64"))


def check_audit(table: pd.DataFrame, where: str) -> None:
    """Raises :class:`ContractError` if a unit that the split holds out stands on both sides; ``where`` names the split.

    ``table`` is that of :func:`audit`.
    """
    leaks = table[table["verdict"] == "leak"]
    if not len(leaks):
        return
    first = leaks.iloc[0]
    remedy = (
        "give every cell one role: delete split.csv so that it is made again, or correct the file of roles"
        if first["unit"] in ALWAYS
        else "correct the folds, or say what the split asks (asks:) if it is a file of roles"
    )
    others = leaks["unit"].iloc[1:].tolist()
    raise ContractError(
        f"{where}: leak: {first['n_both']} of {first['n_test']} under test stand in training too, unit "
        f"{first['unit']} ({first['share_test_cells']:.0%} of their cells), first {first['example']}; the split holds "
        f"this unit out{' (likewise ' + ', '.join(others) + ')' if others else ''}; {remedy}"
    )


def row_keys(matrix: Any) -> np.ndarray:
    """A digest (128 bits, as text) of every row of a matrix (N, G), shape (N,); None for rows of zeros.

    Two rows have one digest if and, but for chance of 2⁻¹²⁸, only if their float32 values are equal; how they are
    stored (sparse or dense, order of indices, explicit zeros) does not matter. Nothing sparse is made dense.
    """
    keys = np.empty(matrix.shape[0], dtype=object)
    for row, (indices, data) in enumerate(_sparse_rows(matrix) if sparse.issparse(matrix) else _dense_rows(matrix)):
        if len(indices):
            digest = blake2b(indices.data, digest_size=16)
            digest.update(data.data)
            keys[row] = digest.hexdigest()  # not bytes: pandas drops their zeros at the end
    return keys


def _sparse_rows(matrix: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The places and values of each row that are not 0."""
    rows = sparse.csr_matrix(matrix)
    if not rows.has_canonical_format or not rows.data.all():
        rows = rows.copy()
        rows.sum_duplicates()
        rows.eliminate_zeros()
    indices = rows.indices.astype(np.int32, copy=False)
    data = rows.data.astype(np.float32, copy=False)
    for start, stop in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
        yield indices[start:stop], data[start:stop]


def _dense_rows(matrix: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for row in np.asarray(matrix, dtype=np.float32):
        places = np.flatnonzero(row).astype(np.int32)
        yield places, row[places]


def _keys(*parts: ad.AnnData) -> list[np.ndarray]:
    """The keys of the rows of each part, as far as they tell which are equal.

    Of whole rows that are in one file (:mod:`trueshift.values`) the CRC-32 are known, and rows of equal values have
    equal ones: only rows that share theirs with another row of the parts, or with a row of zeros, are read.
    """
    if not all(values.are_apart(part) for part in parts):
        return [row_keys(values.matrix_of(part)) for part in parts]
    files, rows, _, crc32 = zip(*(values.file_rows(part) for part in parts), strict=True)
    if len(set(files)) > 1 or not all(values.has_all_columns(part) for part in parts):
        return [_keys_of(part, np.arange(part.n_obs)) for part in parts]
    everywhere = np.unique(np.concatenate(rows))
    own = crc32[0]
    shared, n = np.unique(own[everywhere], return_counts=True)
    suspects = np.append(shared[n > 1], np.uint32(isal_zlib.crc32(bytes(4 * parts[0].n_vars))))
    found = []
    for part, of_file in zip(parts, rows, strict=True):
        keys = of_file.astype(object)
        some = np.flatnonzero(np.isin(own[of_file], suspects))
        keys[some] = _keys_of(part, some)
        found.append(keys)
    return found


def _keys_of(part: ad.AnnData, rows: np.ndarray) -> np.ndarray:
    keys = np.empty(len(rows), dtype=object)
    for places, matrix in values.blocks(part, rows):
        keys[places] = row_keys(matrix)
    return keys


class _Rows:
    """Collects the rows of the table. Values are Series; a cell with several values repeats its index."""

    def __init__(self, held_out: tuple[str, ...]) -> None:
        self.held_out = held_out
        self.rows: list[tuple[Any, ...]] = []

    def write(
        self, unit: str, n_train: Any, n_test: Any, n_both: Any = pd.NA, share: float = np.nan, **text: str
    ) -> None:
        text = {"promised": SILENT, "example": "", **text}
        self.rows.append((unit, n_train, n_test, n_both, share, text["promised"], text["example"], text["verdict"]))

    def add(self, unit: str, seen: pd.Series | None, test: pd.Series | None, both: set[str] | None = None) -> None:
        """A unit's row; ``both`` where it is not simply the values that the two have in common."""
        silent = unit in OTHER_COLUMNS or unit == "scaffold"
        promised = HELD_OUT if unit in self.held_out else SILENT if silent else ALLOWED
        if seen is None or test is None:
            self.write(unit, pd.NA, pd.NA, promised=promised, verdict="not known")
            return
        there, asked = set(seen.dropna().unique()), set(test.dropna().unique())
        both = there & asked if both is None else both
        verdict = {HELD_OUT: "leak", ALLOWED: "shared as the split says", SILENT: "shared; the split says nothing"}
        self.write(
            unit,
            len(there),
            len(asked),
            len(both),
            _share(test, both),
            promised=promised,
            example=", ".join(sorted(both)[:EXAMPLES]),
            verdict=verdict[promised] if both else "ok",
        )

    def add_duplicates(self, unit: str, seen: pd.Series, test: pd.Series) -> None:
        """Equal rows of X, by digest; the index holds the cells, which the example names (training = test)."""
        both = set(seen.dropna()) & set(test.dropna())
        found = [part[part.isin(both) & ~part.duplicated()] for part in (seen, test)]
        names = [dict(zip(part, part.index, strict=True)) for part in found]
        self.write(
            unit,
            seen.nunique(),
            test.nunique(),
            len(both),
            _share(test, both),
            example=", ".join(f"{names[0][key]} = {names[1][key]}" for key in list(names[1])[:EXAMPLES]),
            verdict="duplicates: look at these cells" if both else "ok",
        )


def _share(test: pd.Series, both: set[Any]) -> float:
    cells = test.index.nunique()
    return test.index[test.isin(both)].nunique() / cells if cells else np.nan


def _units(obs: pd.DataFrame) -> pd.DataFrame:
    """Text columns of perturbed cells, rows numbered; ``label`` and ``amount`` have their components sorted."""
    known = ["context", "perturbation", *OTHER_COLUMNS, "scaffold"]
    table = obs[[name for name in known if name in obs]].reset_index(drop=True)
    table = table.astype(object).where(table.notna() & (table != ""))  # "" is how missing text is written
    table = table.where(table.isna(), table.astype(str))
    pairs = table[["perturbation", "dose"]].drop_duplicates()
    pairs = pairs.assign(
        label=["+".join(sorted_components(label)) for label in pairs["perturbation"]],
        amount=[sorted_doses(label, dose) for label, dose in pairs.itertuples(index=False)],
    )
    return table.merge(pairs, on=["perturbation", "dose"], how="left")


def _parts(labels: pd.Series) -> pd.Series:
    return labels.map({label: label.split("+") for label in labels.unique()}).explode()


def _joined(table: pd.DataFrame, first: str, *others: str) -> pd.Series:
    return table[first].str.cat(table[list(others)], sep=" | ")


def _scaffolds(
    train: ad.AnnData, seen: pd.DataFrame, test: pd.DataFrame, seen_parts: pd.Series, test_parts: pd.Series
) -> tuple[pd.Series, pd.Series] | tuple[None, None]:
    """The scaffolds of drugs on both sides, from obs or a table of drugs; None where nothing tells them."""
    if "scaffold" in seen and "scaffold" in test:
        return seen["scaffold"], test["scaffold"]
    tables = [train.uns.get("structures"), *train.uns.get("perturbation_features", {}).values()]
    for table in tables:
        if table is not None and "scaffold" in table:
            known = table["scaffold"].dropna().astype(str)
            known = known[known != ""]  # a molecule without rings has none
            return seen_parts.map(known), test_parts.map(known)
    return None, None


def _of_old_scaffolds(
    scaffolds: tuple[pd.Series, pd.Series] | tuple[None, None], seen_parts: pd.Series, test_parts: pd.Series
) -> set[str] | None:
    """The scaffolds of cells under test of which every component's scaffold (without one, itself) is trained on."""
    seen, test = scaffolds
    if seen is None or test is None or len(seen) != len(seen_parts) or len(test) != len(test_parts):
        return None  # not by component
    shown = set(seen.fillna(seen_parts))
    old = test.fillna(test_parts).isin(shown).groupby(level=0).transform("all")
    return set(test[old].dropna())
