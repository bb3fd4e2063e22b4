"""Tables a person reads, made from the scores of every run.

Nothing is ranked or clipped here, and every mean carries its interval, its floor and its ceiling. Undefined values
are never turned into numbers: they are left out of the mean and counted, by reason, beside it.
"""

from typing import Any

import numpy as np
import pandas as pd

from trueshift.contract import CONDITION, ContractError
from trueshift.evaluation.duplicates import TECHNICAL
from trueshift.evaluation.registry import METRICS
from trueshift.evaluation.statistics import interval
from trueshift.evaluation.validity import FLOORS
from trueshift.results import ALL, FOLD, HEADLINE, RUN, as_text, natural, ordered, require

HEADLINE_K = "20"
LOWER_IS_BETTER = [name for name, metric in METRICS.items() if metric.direction == "lower"]
NO_EFFECT = "no effect"  # as scores.parquet gives the reason
CONSTANT = "constant_prediction"  # as scores.parquet flags it
TOPK_COLUMNS = ["dataset", "split", "fold", "context", "model", "variant", "seed", "metric", "k"]
TOPK_COLUMNS += ["value", "low", "high", "ci_method"]
TOPK_COLUMNS += ["n_conditions", "n_undefined", "n_no_effect", "n_constant", "floor", "ceiling"]

# what stays apart when seeds are averaged, then folds; the leaderboard is made the same way
TEST = [*FOLD, *CONDITION, "cluster", "metric", "k"]  # what floor and ceiling are matched by
LINE = ["dataset", "split", "model", "variant", "metric", "k"]
AVERAGE = {"value": "mean", "reason": "first", "constant": "any"}
# What stays apart in the rows of each kind; the other two columns read "all".
_CUTS: tuple[tuple[str, ...], ...] = ((), ("fold",), ("context",), ("seed",))


# --- top-k R² -----------------------------------------------------------------------------------------


def topk_r2(scores: pd.DataFrame, ceilings: pd.DataFrame) -> pd.DataFrame:
    """Means of every metric with intervals, counts, floor and ceiling, in tidy form; r2_topk first.

    ``scores`` holds the rows of any number of ``scores.parquet`` files, ``ceilings`` those of ``ceiling.parquet``
    files with the columns dataset, split and fold; it may be empty.

    For each dataset × split × model × variant × metric × k there is one row over everything (fold, context and seed
    are ``all``), one per fold, one per context (all folds) and one per seed (all folds and contexts); finer crossings
    are left to ``scores.parquet``. A row exists even if none of its conditions has a value.

    ``value`` is the mean over conditions. Before, a condition's values are averaged over seeds, then over the folds
    that test it, so that each condition counts once (once per held-out unit, where a condition is held out under
    several). ``low`` and ``high`` come from the clusters named in ``scores``: the unit that the split holds out.
    ``n_conditions`` + ``n_no_effect`` + ``n_undefined`` are all conditions asked: those with a value, those undefined
    because the truth has no differentially expressed gene (r2_topk only), those undefined for another reason.
    ``n_constant`` of those with a value got a constant prediction, which scores 0 in correlations.

    ``floor`` is the better of no_change and mean_shift on exactly the tests that ``value`` rests on; a baseline that
    lacks one of them does not count. ``ceiling`` is the technical duplicate on those of them that have one; where a
    row rests on a single condition, a duplicate of too few cells to speak for itself does not count. Both are NaN
    where nothing is left. ``k`` is empty for metrics without one. Better is lower for errors, higher otherwise.
    """
    rows = tests_of(scores)
    keys = [*LINE, *[c for c in TEST if c not in LINE]]
    averaged = rows.groupby(keys, sort=False, as_index=False).agg(AVERAGE)
    averaged = with_references(averaged, ceilings)
    by_seed = averaged.drop(columns=list(AVERAGE)).merge(rows, on=keys)
    cuts = [means_over(by_seed if "seed" in cut else averaged, cut) for cut in _CUTS]
    tidy = pd.concat(cuts, ignore_index=True)
    return ordered(tidy)[TOPK_COLUMNS]


def tests_of(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of all metrics, labels as text."""
    columns = [*RUN, *CONDITION, "cluster", "metric", "k", "value", "reason", "flags"]
    require(scores, columns, "scores")
    rows = as_text(scores[columns], [c for c in columns if c != "value"])
    flags = rows.pop("flags")
    constant = {text: CONSTANT in text.split(";") for text in flags.unique()}
    rows["constant"] = flags.map(constant) & rows["value"].notna()
    keys = [c for c in rows if c not in ("value", "reason", "constant")]
    if rows.duplicated(keys).any():
        twice = rows.loc[rows.duplicated(keys), keys].iloc[0]
        raise ContractError(f"scores: {' | '.join(twice)} is there twice; give each scores.parquet once")
    return rows


def with_references(tests: pd.DataFrame, ceilings: pd.DataFrame) -> pd.DataFrame:
    """Adds to each test what the baselines (columns 0, 1, …) and the technical duplicate (``ceiling``) score there."""
    bars = tests[tests["model"].isin(FLOORS)]
    names = bars["model"] + " " + bars["variant"]
    wide = bars.pivot_table("value", index=TEST, columns=names, sort=False)
    wide.columns = pd.RangeIndex(wide.shape[1])
    tests = tests.merge(wide.reset_index(), on=TEST, how="left")

    keys = [c for c in TEST if c != "cluster"]
    if ceilings.empty:
        return tests.assign(ceiling=np.nan, alone=True)
    require(ceilings, ["model", *keys, "value", "ceiling_use"], "ceilings")
    tops = as_text(ceilings[ceilings["model"] == TECHNICAL], keys).groupby(keys, sort=False, as_index=False)
    duplicate = tops.agg(ceiling=("value", "mean"), use=("ceiling_use", "first"))
    tests = tests.merge(duplicate, on=keys, how="left")
    return tests.assign(alone=tests.pop("use").eq("condition"))


def means_over(tests: pd.DataFrame, kept: tuple[str, ...]) -> pd.DataFrame:
    """One row per line and value of the columns ``kept``."""
    bars = [c for c in tests.columns if isinstance(c, int)]
    defined = tests["value"].notna()
    tests = tests.assign(**{f"lacks{b}": defined & tests[b].isna() for b in bars})
    tests[[*bars, "ceiling"]] = tests[[*bars, "ceiling"]].where(defined)
    lacks = [f"lacks{b}" for b in bars]

    keys = [*LINE, *kept]
    units = [*keys, *[c for c in (*CONDITION, "cluster") if c not in keys]]
    how: dict[Any, str] = {**AVERAGE, "ceiling": "mean", "alone": "all"}
    how |= {**dict.fromkeys(bars, "mean"), **dict.fromkeys(lacks, "any")}
    conditions = tests.groupby(units, sort=False).agg(how).reset_index()
    has = conditions["value"].notna()
    no_effect = ~has & conditions["reason"].eq(NO_EFFECT)
    conditions = conditions.rename(columns={"constant": "n_constant"})
    conditions = conditions.assign(n_conditions=has, n_no_effect=no_effect, n_undefined=~has & ~no_effect)

    lines = conditions.groupby(keys, sort=False)
    counts = ["n_conditions", "n_no_effect", "n_undefined", "n_constant"]
    how = {"value": "mean", "ceiling": "mean", "alone": "any"} | dict.fromkeys(counts, "sum")
    table = lines.agg(how | {**dict.fromkeys(bars, "mean"), **dict.fromkeys(lacks, "any")})
    whole = table[bars].where(~table[lacks].to_numpy(bool))
    single = table["n_conditions"] == 1
    spoken = conditions[has & conditions["alone"]].groupby(keys)["ceiling"].mean().reindex(table.index)
    lower = table.index.get_level_values("metric").isin(LOWER_IS_BETTER)
    table["floor"] = whole.max(axis=1).where(~lower, whole.min(axis=1)) if bars else np.nan
    table["ceiling"] = table["ceiling"].where(~single, spoken)
    values, clusters = conditions["value"].to_numpy(float), conditions["cluster"].to_numpy(str)
    spans = []
    for members in lines.indices.values():
        rows = np.asarray(members)[has.to_numpy()[members]]
        spans.append(interval(values[rows], clusters[rows], 0))
    index = pd.MultiIndex.from_tuples([tuple(name) for name in lines.indices], names=keys)  # type: ignore[arg-type]
    table = table.join(pd.DataFrame(spans, columns=["low", "high", "ci_method"], index=index))
    return table.reset_index().assign(**{c: ALL for c in ("fold", "context", "seed") if c not in kept})


def topk_r2_wide(tidy: pd.DataFrame) -> pd.DataFrame:
    """The reading form: one row per dataset × split × model × variant, best r2_topk at k = 20 first.

    ``tidy`` is what :func:`topk_r2` gives. Columns: dataset, split, model, variant; for each k ``r2_top{k}`` with
    text ``value [low, high]`` (``no effect`` or ``undefined`` where no condition has a value), then the floors and the
    ceilings for each k, then the counts at k = 20 (at the first k if 20 is not among them).
    """
    rows = headline(tidy)
    ks = sorted(rows["k"].unique(), key=natural)
    if not ks:
        raise ContractError(f"the table has no row of {HEADLINE}; add it to evaluation: metrics:")
    k = HEADLINE_K if HEADLINE_K in ks else ks[0]
    keys = ["dataset", "split", "model", "variant"]
    rows = rows.assign(text=[_cell(row) for _, row in rows.iterrows()]).set_index([*keys, "k"])
    parts = [
        rows[column].unstack("k").reindex(columns=ks).rename(columns=f"{name}_top{{}}".format)
        for column, name in (("text", "r2"), ("floor", "floor"), ("ceiling", "ceiling"))
    ]
    counts = rows.xs(k, level="k")[["value", "n_conditions", "n_undefined", "n_no_effect"]]
    wide = pd.concat([parts[0], *(part.round(3) for part in parts[1:]), counts], axis=1).reset_index()
    order = {"dataset": True, "split": True, "value": False, "model": True, "variant": True}
    wide = wide.sort_values(list(order), ascending=list(order.values()))
    return wide.drop(columns="value").reset_index(drop=True)


def headline(tidy: pd.DataFrame) -> pd.DataFrame:
    """The rows of r2_topk over all folds, contexts and seeds; labels as text, also after a CSV."""
    text = as_text(tidy, ["dataset", "split", "fold", "context", "model", "variant", "seed", "metric", "k"])
    text["k"] = text["k"].str.removesuffix(".0")  # a CSV without k = all, but with empty k, reads as numbers
    whole = (text["fold"] == ALL) & (text["context"] == ALL) & (text["seed"] == ALL)
    return text[whole & (text["metric"] == HEADLINE)].reset_index(drop=True)


def _cell(row: pd.Series) -> str:
    if np.isnan(row["value"]):
        return NO_EFFECT if row["n_no_effect"] and not row["n_undefined"] else "undefined"
    span = "" if np.isnan(row["low"]) else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['value']:.3f}{span}"


def undefined(scores: pd.DataFrame) -> pd.DataFrame:
    """Why values are missing: dataset, split, model, variant, metric, k, reason, n (conditions × folds, over seeds)."""
    keys = ["dataset", "split", "model", "variant", "metric", "k", "reason"]
    where = ["fold", *CONDITION, "cluster"]
    require(scores, [*keys, *where, "value"], "scores")
    rows = as_text(scores.loc[scores["value"].isna(), [*keys, *where]], [*keys, *where]).drop_duplicates()
    return ordered(rows.groupby(keys, sort=False).size().rename("n").reset_index())
