"""Results in many files: finding them, the labels that their paths carry, putting them in one table."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath

import pandas as pd

from trueshift.contract import ContractError, read_table

ALL = "all"  # in place of a label: over all of them
HEADLINE = "r2_topk"
FOLD = ["dataset", "split", "fold"]
RUN = [*FOLD, "model", "variant", "seed"]


def gather(
    paths: Iterable[Path], names: Sequence[str] = (), read: Callable[[Path], pd.DataFrame] = read_table
) -> pd.DataFrame:
    """The rows of all files, with the labels ``names`` taken from their paths; without a file an empty table."""
    parts = [read(path).assign(**path_labels(path, names)) for path in paths]
    # an empty part would only blur the types of the others
    kept = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()


def path_labels(path: str | Path, names: Sequence[str]) -> dict[str, str]:
    """The labels a result carries in its path.

    With :data:`FOLD` as ``names`` that is ``results/{dataset}/{split}/{fold}/file``, with :data:`RUN`
    ``results/{dataset}/{split}/{fold}/{model}/{variant}/seed{n}/file``.
    """
    folders = PurePath(path).parts[-len(names) - 1 : -1]
    labels = dict(zip(names, folders, strict=False))
    if len(folders) < len(names) or not labels.get("seed", "seed").startswith("seed"):
        layout = "/".join("seed{n}" if name == "seed" else f"{{{name}}}" for name in names)
        raise ContractError(f"{path}: not at {layout}/file, so it cannot be told what it belongs to")
    return {name: label.removeprefix("seed") if name == "seed" else label for name, label in labels.items()}


def natural(text: str) -> tuple[int, float, str]:
    """Sorts numbers by value before other text: 2 < 10 < 20 < all."""
    return (0, float(text), "") if text.isdecimal() else (1, 0.0, text)


def require(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raises :class:`ContractError` if a column is missing from ``what``."""
    missing = [c for c in columns if c not in table]
    if missing:
        raise ContractError(f"{what}: the column {missing[0]} is missing; make the file again with this version")


def as_text(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """A copy with these columns as plain text; what is missing becomes empty text."""
    return table.assign(**{c: table[c].astype(object).where(table[c].notna(), "").astype(str) for c in columns})


def _rank(column: pd.Series) -> pd.Series:
    if column.name == "metric":
        return column.map(lambda name: (name != HEADLINE, name))
    return column.map(lambda text: (text != ALL or column.name == "k", natural(text)))


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Sorted by dataset, split, model, variant, metric, k, fold, context, seed; rows over everything come first."""
    columns = ["dataset", "split", "model", "variant", "metric", "k", "reason", "fold", "context", "seed"]
    return table.sort_values([c for c in columns if c in table], key=_rank, ignore_index=True)
