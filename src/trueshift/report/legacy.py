"""The field's table of bulk profiles, ``topk_r2_results.csv``, and beside it what the same predictions really score.

The table is that of MERGE (github.com/joshuaroll/MERGE): a row per model, cell line and fold, of metrics that subtract
one control mean on both sides and so reward constants (:mod:`trueshift.evaluation.metrics.legacy`). Undefined values
stay empty, and nothing is rounded.
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from trueshift.contract import ContractError, read_table
from trueshift.report.tables import NO_EFFECT, tests_of
from trueshift.results import HEADLINE, natural

K = ("20", "40", "80")
LEGACY = {"legacy_r2_topk": K, "legacy_pearson": ("",)}
HONEST = {HEADLINE: K, "pearson_delta": ("",)}

_R2 = [f"r2_top{k}" for k in K]
_LEGACY_R2 = [f"legacy_{column}" for column in _R2]
_LINE = ["model", "cell_line", "fold"]
_RUN = ["dataset", "split", "variant", "seed"]
RESULTS_COLUMNS = [*_LINE, *_R2, "pearson_de", "timestamp", *_RUN]
HONEST_COLUMNS = [*_LINE, *_R2, "pearson_delta", *_LEGACY_R2, "legacy_pearson"]
HONEST_COLUMNS += ["n_conditions", "n_undefined", "n_no_effect", *_RUN]
_KEYS = [*_LINE, *_RUN, "timestamp"]


def read_stamped(path: Path) -> pd.DataFrame:
    """What the two tables need of a scores file, with ``timestamp``: when it was written, ISO 8601, UTC, seconds."""
    scores = read_table(path)
    written = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
    return scores[scores["metric"].isin([*LEGACY, *HONEST])].assign(timestamp=written.isoformat())


def topk_r2_results(scores: pd.DataFrame) -> pd.DataFrame:
    """The field's table: a row per dataset × split × model × variant × cell line × fold × seed.

    ``scores`` holds the rows of any number of ``scores.parquet`` files, as :func:`read_stamped` gives them.
    ``r2_top{k}`` is legacy_r2_topk and ``pearson_de`` legacy_pearson, averaged over the conditions of the cell line
    (context) with as many votes as a condition has true cells or profiles, for the source averages over samples. Empty
    where no condition has a value. Columns: :data:`RESULTS_COLUMNS`.

    Raises :class:`ContractError`, naming the key of the configuration, where a metric or k was not scored.
    """
    table = _by_condition(scores, LEGACY).rename(columns={"legacy_pearson": "pearson_de"})
    table = table.rename(columns=dict(zip(_LEGACY_R2, _R2, strict=True)))
    columns = [*_R2, "pearson_de"]
    votes = table[columns].notna().mul(table["n_cells"].astype(float), axis=0)
    sums, total = (
        part.groupby([table[key] for key in _KEYS], sort=False).sum() for part in (table[columns] * votes, votes)
    )
    return _ordered((sums.where(total > 0) / total).reset_index())[RESULTS_COLUMNS]


def topk_r2_honest(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`topk_r2_results` with the metrics of the other tables, and the field's beside them.

    ``r2_top{k}`` (r2_topk) and ``pearson_delta`` subtract different controls from truth and prediction; they are means
    over conditions of equal weight. ``legacy_*`` are the columns of the field's table. ``n_conditions`` have a value
    of r2_topk at k = 20; ``n_no_effect`` have none because the truth has no differentially expressed gene,
    ``n_undefined`` for another reason. Columns: :data:`HONEST_COLUMNS`.
    """
    table = _by_condition(scores, HONEST)
    first = table[_R2[0]]
    no_effect = first.isna() & table["reason"].eq(NO_EFFECT)
    counts = {"n_conditions": first.notna(), "n_no_effect": no_effect, "n_undefined": first.isna() & ~no_effect}
    how = dict.fromkeys([*_R2, "pearson_delta"], "mean") | dict.fromkeys(counts, "sum")
    honest = table.assign(**counts).groupby(_KEYS, sort=False).agg(how).reset_index()
    legacy = topk_r2_results(scores).rename(columns=dict(zip(_R2, _LEGACY_R2, strict=True)))
    legacy = legacy.rename(columns={"pearson_de": "legacy_pearson"})
    return _ordered(honest.merge(legacy, on=_KEYS, validate="one_to_one"))[HONEST_COLUMNS]


def _by_condition(scores: pd.DataFrame, wanted: dict[str, tuple[str, ...]]) -> pd.DataFrame:
    """A row per run and condition, a column per metric and k; ``reason`` is why the first of them has no value."""
    metric, k = scores["metric"], scores["k"].astype(str)
    for name, ks in wanted.items():
        if not (metric == name).any():
            raise ContractError(f"scores: no row of {name}; add it to evaluation: metrics:")
        if missing := sorted(set(ks) - set(k[metric == name]), key=natural):
            raise ContractError(f"scores: no row of {name} at k = {missing[0]}; add {missing[0]} to evaluation: k:")
    wanted_rows = [(metric == name) & k.isin(ks) for name, ks in wanted.items()]
    chosen = scores[np.logical_or.reduce(wanted_rows)].reset_index(drop=True)
    rows = tests_of(chosen).join(chosen[["n_cells", "timestamp"]]).rename(columns={"context": "cell_line"})
    rows["column"] = [m.replace("_topk", f"_top{k}") for m, k in zip(rows["metric"], rows["k"], strict=True)]
    units = [*_KEYS, "perturbation", "dose", "cluster", "n_cells"]
    first = rows[rows["metric"].eq(next(iter(wanted))) & rows["k"].eq(K[0])].set_index(units)["reason"]
    return rows.pivot(index=units, columns="column", values="value").join(first).reset_index()


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    keys = ["dataset", "split", "model", "variant", "cell_line", "fold", "seed"]
    return table.sort_values(keys, key=lambda column: column.map(natural), ignore_index=True)
