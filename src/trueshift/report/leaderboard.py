"""Who is better than whom, where a metric can tell: anchored scores, ranks that admit ties, and what a reader sees.

Nothing is ranked by a metric that does not tell a technical duplicate from the floors on that dataset and split
(:mod:`trueshift.evaluation.validity`). No value is clipped. Undefined values are left out and never made numbers.
"""

import re
from collections.abc import Collection, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from trueshift.contract import CONDITION, ContractError
from trueshift.evaluation.metric import Metric
from trueshift.evaluation.registry import METRICS
from trueshift.evaluation.statistics import LEVEL, P_FROM, holm, interval, paired_p, ratio_interval
from trueshift.evaluation.validity import by_metric, counted, passing, spanned, without_small_panels
from trueshift.report.tables import AVERAGE, HEADLINE_K, LINE, TEST, means_over, tests_of, with_references
from trueshift.results import as_text, natural, require

LEADERBOARD_COLUMNS = ["dataset", "split", "metric", "k", "model", "variant", "value", "low", "high", "ci_method"]
LEADERBOARD_COLUMNS += ["n_conditions", "n_units", "n_seeds", "seed_sd", "floor", "ceiling"]
LEADERBOARD_COLUMNS += ["passes", "anchored", "anchored_low", "anchored_high", "rank", "rank_last", "best_baseline"]
LEADERBOARD_COLUMNS += ["difference", "difference_low", "difference_high", "p", "p_holm", "note"]
VERDICT_COLUMNS = ["dataset", "split", "metric", "k", "best", "tied_for_first", "best_baseline", "beats_baseline"]
VERDICT_COLUMNS += ["n_units", "note"]

TIE = 1e-5  # what predictions in float32 can carry: smaller differences, in shares of the values, are none
NO_RANGE = "no range"
NOT_TESTABLE = "not testable"
NEVER = "shown only, never ranks"
ALONE = "the only model with a value"
NONE_MAY = "none that may rank was scored"
SEED = 0  # of the bootstrap, as in the other tables

_SPLIT = ["dataset", "split"]
_MODEL = ["model", "variant"]
_UNIT = [*CONDITION, "cluster"]
_ANCHORED = ["anchored", "anchored_low", "anchored_high"]
_COMPARED = ["rank", "rank_last", "difference", "difference_low", "difference_high", "p", "p_holm", "n_compared"]
_MADE = ["n_units", *_ANCHORED, "best_baseline", *_COMPARED]


def leaderboard(
    scores: pd.DataFrame, ceilings: pd.DataFrame, calibration: pd.DataFrame, baselines: Collection[str]
) -> pd.DataFrame:
    """Every model by every metric, with ranks where the metric passes; columns :data:`LEADERBOARD_COLUMNS`.

    ``scores`` holds the rows of any number of ``scores.parquet`` files; ``ceilings`` those of ``ceiling.parquet`` files
    and ``calibration`` those of ``calibration.parquet`` files, with their labels as columns. ``baselines`` names the
    models that others must beat.

    - ``value``, ``low``, ``high``, ``floor``, ``ceiling`` are those of :func:`trueshift.report.tables.topk_r2`, over
      all folds and seeds, against all test cells, from ``n_conditions`` of ``n_units`` held-out units. Panels of fewer
      than five conditions do not count. ``seed_sd`` is the standard deviation over ``n_seeds`` of a seed's mean.
    - ``passes``: whether the metric tells a technical duplicate from the floors on this dataset and split.
    - ``anchored`` = (mean u − mean b) / (mean r − mean b): 0 for the floor, 1 for the technical duplicate, more is
      legal. Model u, floor b and duplicate r are scored against the same halves of the test cells, in all conditions
      that have u and r; b is the better floor there. The interval resamples the three jointly. It exists where the
      metric passes and the lower bound of mean(r − b) is above 0; else the note says ``no range``.
    - ``rank`` to ``rank_last`` are the ranks that :func:`rank_sets` leaves a model. Missing where the metric does not
      pass, with the reason as ``note``, for metrics that are shown only, and where only one model has a value.
    - ``difference`` to ``best_baseline``, the baseline of best mean among those with most conditions, over conditions
      that both have, in the metric's units and positive where the model is better; its interval is not adjusted.
      ``p`` is :func:`trueshift.evaluation.statistics.paired_p`, ``p_holm`` adjusted over the models of this metric.
      The best of several baselines is partly so by chance, which makes it a bar that is somewhat too high.

    Order: dataset, split, metric and k as in the registry, then rank, then value, best first.
    """
    require(scores, [*_SPLIT, "value_half"], "scores")
    require(calibration, _SPLIT, "calibration")
    parts = []
    for dataset, split in sorted({(str(d), str(s)) for d, s in scores[_SPLIT].drop_duplicates().to_numpy()}):
        known, tops = (_of(table, dataset, split) for table in (calibration, ceilings))
        parts.append(_board(_of(scores, dataset, split), tops, passing(known), baselines))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=LEADERBOARD_COLUMNS)
    return table.astype({"rank": "Int64", "rank_last": "Int64", "n_units": "int64"})[LEADERBOARD_COLUMNS]


def rank_sets(values: np.ndarray, clusters: np.ndarray, scale: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The ranks that each model may truly have, from first to last, each (M,): a joint 95% confidence set.

    ``values`` (n, M) are scores of n conditions, higher is better, NaN where undefined; ``clusters`` (n,). All pairs
    of models are compared on the conditions that both have (:func:`trueshift.evaluation.statistics.paired_p`), the p
    adjusted over all pairs. A model's first rank is 1 + the number that are significantly better, the last M − the
    number that are significantly worse (Klein, Wright & Wieczorek, J. R. Stat. Soc. A 2020; Mogstad et al., Rev. Econ.
    Stud. 2024). Where no pair can be tested all are 1 to M. Differences of a condition below 10⁻⁵ of the larger score,
    or of ``scale`` if that is more, are rounding and count as 0.
    """
    pairs = list(combinations(range(values.shape[1]), 2))
    p, sign = np.full(len(pairs), np.nan), np.zeros(len(pairs))
    for i, (left, right) in enumerate(pairs):
        difference, shared = _difference(values[:, left], values[:, right], scale)
        if shared.any():
            p[i] = paired_p(difference, clusters[shared])
            sign[i] = np.sign(difference.mean())
    sign[~(holm(p) < 1 - LEVEL)] = 0  # where p is NaN too
    better = np.zeros((values.shape[1],) * 2, dtype=bool)  # row significantly better than column
    for (left, right), s in zip(pairs, sign, strict=True):
        better[left, right], better[right, left] = s > 0, s < 0
    return 1 + better.sum(axis=0), values.shape[1] - better.sum(axis=1)


def _difference(left: np.ndarray, right: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Differences without rounding over the conditions that both have, and which these are."""
    shared = ~(np.isnan(left) | np.isnan(right))
    a, b = left[shared], right[shared]
    rounding = TIE * np.maximum(np.maximum(np.abs(a), np.abs(b)), scale)
    return np.where(np.abs(a - b) <= rounding, 0.0, a - b), shared


# --- one dataset and split ----------------------------------------------------------------------------


def _board(
    scores: pd.DataFrame, ceilings: pd.DataFrame, reasons: dict[tuple[str, str], str], baselines: Collection[str]
) -> pd.DataFrame:
    if len(ceilings):
        ceilings = without_small_panels(ceilings)
    scores = without_small_panels(scores)
    rows = tests_of(scores).assign(half=scores["value_half"].to_numpy(float))
    keys = [*LINE, *[c for c in TEST if c not in LINE]]
    tests = rows.groupby(keys, sort=False, as_index=False).agg({**AVERAGE, "half": "mean"})
    lines = means_over(with_references(tests, ceilings), ())
    lines = lines.merge(_seeds(rows), on=LINE)
    halves = with_references(tests.assign(value=tests["half"]), ceilings)
    halves = halves[halves["value"].notna() & halves["ceiling"].notna()]
    floors = [c for c in halves.columns if isinstance(c, int)]
    # a floor that lacks a test of a line is none there: infinity, unlike NaN, shows in the mean over folds
    by_condition = halves.fillna(dict.fromkeys(floors, np.inf)).groupby([*LINE, *_UNIT], sort=False)
    halves = by_condition[["value", "ceiling", *floors]].mean().reset_index()
    conditions = tests.groupby([*LINE, *_UNIT], sort=False, as_index=False).agg({"value": "mean", "reason": "first"})

    halves_of, conditions_of = (dict(by_metric(table)) for table in (halves, conditions))
    done = []
    for key, part in by_metric(lines):
        if key not in reasons:
            where = " | ".join([*part[_SPLIT].iloc[0], *filter(None, key)])
            raise ContractError(f"calibration: no row of {where}; calibrate again")
        halved = halves_of.get(key, halves.iloc[:0])
        done.append(_ranked(METRICS[key[0]], reasons[key], part, conditions_of[key], halved, baselines))
    return pd.concat(done, ignore_index=True)


def _seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """n_seeds and seed_sd of each line."""
    conditions = rows.groupby([*LINE, "seed", *_UNIT], sort=False)["value"].mean()
    means = conditions.groupby([*LINE, "seed"], sort=False).mean()
    return means.groupby(LINE, sort=False).agg(n_seeds="size", seed_sd="std").reset_index()


def _ranked(
    metric: Metric,
    reason: str,
    lines: pd.DataFrame,
    conditions: pd.DataFrame,
    halves: pd.DataFrame,
    baselines: Collection[str],
) -> pd.DataFrame:
    """The lines of one metric × k in order; ``conditions`` and ``halves`` are what they rest on."""
    lines = lines.sort_values(_MODEL, ignore_index=True)
    models = pd.MultiIndex.from_frame(lines[_MODEL])
    sign = 1.0 if metric.direction == "higher" else -1.0
    values = np.full((conditions.groupby(_UNIT, sort=False).ngroups, len(lines)), np.nan)  # higher is better
    columns = models.get_indexer(pd.MultiIndex.from_frame(conditions[_MODEL]))
    values[conditions.groupby(_UNIT, sort=False).ngroup(), columns] = sign * conditions["value"]
    clusters = conditions.drop_duplicates(_UNIT)["cluster"].to_numpy()

    made = pd.DataFrame(np.nan, index=lines.index, columns=_MADE).astype({"best_baseline": object})
    made["n_units"] = [len(set(clusters[~np.isnan(column)])) for column in values.T]
    made["best_baseline"] = ""
    if not reason:
        if metric.ranks:
            compared, best = _compare(values, clusters, abs(metric.optimum), lines["model"].isin(baselines).to_numpy())
            made[_COMPARED] = compared
            made["best_baseline"] = "" if best is None else _names(lines)[best]
        by_line = dict(list(halves.groupby(_MODEL, sort=False)))
        made[_ANCHORED] = [_anchored(by_line.get(model, halves.iloc[:0]), sign) for model in models]
    empty = np.isin(columns, np.flatnonzero(made["n_units"] == 0))
    undefined = {model: counted(part) for model, part in conditions[empty].groupby(_MODEL)["reason"]}
    lines = pd.concat([lines, made], axis=1).assign(passes=not reason)
    most = lines["n_conditions"].max()
    lines["note"] = [
        _note(row, reason, metric.ranks, most, undefined.get(model, ""))
        for model, row in zip(models, lines.to_dict("records"), strict=True)
    ]
    lines["_worst"] = -sign * lines["value"]
    return lines.sort_values(["rank", "_worst", *_MODEL], kind="stable")


def _note(row: dict[Any, Any], reason: str, ranks: bool, most: int, undefined: str) -> str:
    """What must be known beside the numbers of a line; ``most`` conditions have a value in other lines."""
    notes = [reason] if reason else []
    if not reason and not row["n_units"]:
        notes.append(f"no value: {undefined}")
    elif not reason:
        if ranks and np.isnan(row["rank"]):
            notes.append(ALONE)
        if row["n_compared"] < P_FROM:
            n = int(row["n_compared"])
            notes.append(f"{NOT_TESTABLE}: {n} held-out unit{'s' if n != 1 else ''}")
        if np.isnan(row["anchored"]):
            notes.append(NO_RANGE)
        if row["n_conditions"] < most:
            notes.append(f"value in {row['n_conditions']} of {most} conditions")
    return "; ".join([*notes, *([] if ranks else [NEVER])])


def _anchored(halves: pd.DataFrame, sign: float) -> tuple[float, float, float]:
    """The anchored score of a line and its interval, NaN where there is no range.

    ``halves`` has value u, ceiling r and one numbered column per floor, for every condition with u and r.
    """
    u, r, *floors = halves[["value", "ceiling", *[c for c in halves.columns if isinstance(c, int)]]].to_numpy(float).T
    floors = [b for b in floors if np.isfinite(b).all()]
    if floors and len(u):
        b = max(floors, key=lambda floor: sign * floor.mean())
        clusters = halves["cluster"].to_numpy()
        if interval(sign * (r - b), clusters, SEED).low > 0:
            low, high, _ = ratio_interval(u - b, r - b, clusters, SEED)
            return (u - b).sum() / (r - b).sum(), low, high
    return np.nan, np.nan, np.nan


def _compare(
    values: np.ndarray, clusters: np.ndarray, scale: float, is_baseline: np.ndarray
) -> tuple[np.ndarray, int | None]:
    """Columns ``_COMPARED`` of the M models in ``values`` (n, M; higher is better), and which baseline is the best."""
    table = np.full((values.shape[1], len(_COMPARED)), np.nan)
    counts = (~np.isnan(values)).sum(axis=0)
    has = np.flatnonzero(counts)
    if len(has) < 2:
        return table, None
    table[has, :2] = np.stack(rank_sets(values[:, has], clusters, scale), axis=1)
    bars = [int(i) for i in has if is_baseline[i]]
    bars = [i for i in bars if counts[i] == counts[bars].max()]
    best = max(bars, key=lambda i: np.nanmean(values[:, i]), default=None)
    for i in has:
        if best is None or i == best:
            table[i, -1] = len(set(clusters[~np.isnan(values[:, i])]))
            continue
        difference, both = _difference(values[:, i], values[:, best], scale)
        table[i, -1] = len(set(clusters[both]))
        if both.any():
            raw = (values[:, i] - values[:, best])[both]
            low, high, _ = interval(raw, clusters[both], SEED)
            table[i, 2:6] = raw.mean(), low, high, paired_p(difference, clusters[both])
    table[:, 6] = holm(table[:, 5])
    return table, best


# --- what a reader sees -------------------------------------------------------------------------------


def verdicts(tidy: pd.DataFrame) -> pd.DataFrame:
    """What can be said at all, to be read first; columns :data:`VERDICT_COLUMNS`.

    ``tidy`` is what :func:`leaderboard` gives. One row per dataset × split × metric that ranks there, at k = 20 (or
    the first k, if 20 is not among them): the model of ``best`` mean, all that are ``tied_for_first`` (nothing is
    significantly better than they), the best baseline, and which models beat it (adjusted p below .05). A split in
    which no metric passes has one row, metric ``none``, which says why, and of how many metrics.
    """
    rows = []
    for names, part in _splits(_main(tidy)):
        ranked = part[part["rank"].notna()]
        if ranked.empty:
            rows.append(names | {"metric": "none", "note": "; ".join(_why_none(part))})
        for (metric, k), models in by_metric(ranked):
            by_value = models.sort_values("value", ascending=METRICS[metric].direction == "lower", kind="stable")
            first = by_value["rank"] == 1
            row = {
                "metric": metric,
                "k": k,
                "best": _names(by_value)[0],
                "tied_for_first": f"all {len(models)}" if first.all() and len(models) > 1 else _text(by_value[first]),
                "best_baseline": by_value["best_baseline"].iloc[0],
                "beats_baseline": "",
                "n_units": by_value["n_units"].max(),
                "note": _limit(by_value),
            }
            if by_value["p"].notna().any():
                row["beats_baseline"] = _text(by_value[_beats(by_value)]) or "none"
            rows.append(names | row)
    table = pd.DataFrame(rows, columns=VERDICT_COLUMNS).astype({"n_units": "Int64"})
    return table.fillna(dict.fromkeys([c for c in VERDICT_COLUMNS if c != "n_units"], ""))


def leaderboard_wide(tidy: pd.DataFrame) -> pd.DataFrame:
    """The reading form of ``tidy`` (:func:`leaderboard`): one row per dataset × split × model × variant.

    Columns: dataset, split, model, variant, ``verdict``, then one per metric that ranks anywhere, at k = 20 (or the
    first k, if 20 is not among them). A cell reads ``1-4 | 0.61 [0.40, 0.80]``: the ranks that the model may truly
    have, and its anchored score (0 the better floor, 1 the technical duplicate) with its interval. It is empty where
    the metric does not rank in this split. ``verdict`` counts the metrics in which nothing is significantly better, and
    those in which the model beats the best baseline. Order: by the first metric that ranks there.

    A split in which no metric passes has one row: model ``–``, and the verdict gives the most frequent reason.
    """
    table = _main(tidy)
    has_ranks = table["rank"].notna().groupby([table[c] for c in (*_SPLIT, "metric", "k")]).transform("any")
    table = table.assign(shown=table["main"] & has_ranks)
    metrics = [key for key, _ in by_metric(table[table["shown"]])]
    rows = []
    for names, part in _splits(table):
        if not part["shown"].any():
            verdict = f"no metric passes: nothing here can rank models; {_why_none(part)[0]}"
            rows.append(names | {"model": "–", "verdict": verdict})
        for (model, variant), lines in part[part["shown"]].groupby(_MODEL, sort=False):
            cells = {_column(row["metric"], row["k"]): _cell(row) for row in lines.to_dict("records")}
            rows.append(names | {"model": model, "variant": variant, "verdict": _verdict(lines)} | cells)
    columns = [*_SPLIT, *_MODEL, "verdict", *[_column(*key) for key in metrics]]
    return pd.DataFrame(rows, columns=columns).fillna("")


def _main(tidy: pd.DataFrame) -> pd.DataFrame:
    """Labels as text, also after a CSV, and whether a row is ``main``: of a metric that may rank, at the main k."""
    text = as_text(tidy, [*_SPLIT, "metric", "k", *_MODEL, "best_baseline", "note"])
    text["k"] = text["k"].str.removesuffix(".0")  # a CSV without k = all, but with empty k, reads as numbers
    ks = sorted(set(text["k"]) - {""}, key=natural)
    main = HEADLINE_K if HEADLINE_K in ks else next(iter(ks), "")
    may_rank = text["metric"].isin([name for name, metric in METRICS.items() if metric.ranks])
    return text.assign(main=may_rank & text["k"].isin(["", main]))


def _splits(table: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The main rows of each dataset × split, with these labels."""
    for labels, part in table.groupby(_SPLIT, sort=False):
        yield dict(zip(_SPLIT, labels, strict=True)), part[part["main"]]


def _why_none(part: pd.DataFrame) -> list[str]:
    """Why no metric of a split passes, the most frequent reason first; without the numbers in parentheses."""
    reasons = part.groupby(["metric", "k"], sort=False)["note"].first()
    # where both floors are in the way, the first of them is reason enough
    counts = reasons.map(lambda text: re.sub(r" \([^)]*\)", "", text).split("; ")[0]).value_counts()
    return [f"{n} of {len(reasons)} metrics: {reason}" for reason, n in counts.items()] or [NONE_MAY]


def _verdict(lines: pd.DataFrame) -> str:
    ranked = lines[lines["rank"].notna()]
    if ranked["note"].str.contains(NOT_TESTABLE).all():
        return _limit(ranked)
    first, beats = (ranked["rank"] == 1).sum(), _beats(ranked).sum()
    return f"first or tied in {first} of {len(ranked)}, beats the best baseline in {beats}"


def _beats(lines: pd.DataFrame) -> pd.Series:
    """Which lines are significantly better than the best baseline."""
    return (lines["p_holm"] < 1 - LEVEL) & (lines["difference"] > 0)


def _limit(lines: pd.DataFrame) -> str:
    """The note of ``lines`` that says why nothing could be tested, if there is one."""
    notes = [note for text in lines["note"] for note in text.split("; ") if note.startswith(NOT_TESTABLE)]
    return notes[0] if notes else ""


def _cell(row: dict[Any, Any]) -> str:
    if pd.isna(row["rank"]):
        return row["note"]
    first, last = int(row["rank"]), int(row["rank_last"])
    ranks = str(first) if first == last else f"{first}-{last}"
    return f"{ranks} | {spanned(row['anchored'], row['anchored_low'], row['anchored_high']) or NO_RANGE}"


def _column(metric: str, k: str) -> str:
    return f"{metric[:-1]}{k}" if metric.endswith("_topk") else f"{metric}@{k}" if k else metric


def _names(lines: pd.DataFrame) -> list[str]:
    """Models by name, with their variant unless that is the default."""
    pairs = zip(lines["model"], lines["variant"], strict=True)
    return [model if variant in ("", "default") else f"{model} {variant}" for model, variant in pairs]


def _text(lines: pd.DataFrame) -> str:
    return ", ".join(_names(lines))


def _of(table: pd.DataFrame, dataset: str, split: str) -> pd.DataFrame:
    """The rows of one dataset and split; a table without rows may lack the columns."""
    if table.empty:
        return table
    return table[(table["dataset"].astype(str) == dataset) & (table["split"].astype(str) == split)]
