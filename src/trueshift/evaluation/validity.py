"""Which metrics mean something on a dataset: a metric must tell a technical duplicate from a trivial prediction.

Floors are the predictions no_change and mean_shift, the ceiling is the technical duplicate, all on the same halves of
the test cells. A metric that does not place the duplicate above both floors measures noise there, and ranks nothing.
The two measures, DRF and BDS, are those of Miller et al., "Deep learning-based genetic perturbation models do
outperform uninformative baselines on well-calibrated metrics" (bioRxiv 2025), here with intervals by held-out unit.
"""

import numpy as np
import pandas as pd

from trueshift.contract import CONDITION, ContractError
from trueshift.evaluation.duplicates import ALONE, INTERPOLATED, TECHNICAL
from trueshift.evaluation.halves import ENOUGH
from trueshift.evaluation.metric import K
from trueshift.evaluation.registry import METRICS
from trueshift.evaluation.scoring import NO_CELLS
from trueshift.evaluation.statistics import T_FROM, interval, ratio_interval, wilson

FLOORS = ("no_change", "mean_shift")
PANEL_FROM = 5  # conditions to be told apart
SMALL_PANEL = f"panel of fewer than {PANEL_FROM} conditions"
NO_FLOOR = f"no floor: {NO_CELLS}"
CALIBRATION_COLUMNS = ["metric", "k", "floor", "n_conditions", "n_alone", "n_clusters"]
CALIBRATION_COLUMNS += ["negative", "positive", "interpolated", "optimum", "drf", "drf_low", "drf_high"]
CALIBRATION_COLUMNS += ["bds", "bds_low", "bds_high", "gain_low", "passes", "reason"]
SUMMARY_COLUMNS = ["dataset", "split", "metric", "k", "passes", "ranks", "floor", "floor_model", "ceiling"]
SUMMARY_COLUMNS += ["drf", "bds", "n_conditions", "n_units", "why"]

_KEYS = ["fold", *CONDITION, "metric", "k"]  # what a floor and a duplicate are matched by
_UNIT = [*CONDITION, "cluster"]  # a condition, once per unit that it is held out with


def calibrate(floors: pd.DataFrame, ceilings: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Whether each metric tells the technical duplicate from each floor, on one dataset × split.

    ``floors`` holds the rows of ``scores.parquet`` of no_change and mean_shift in all folds, ``ceilings`` those of
    ``ceiling.parquet`` with the column fold; ``seed`` is that of the bootstrap. Floor b (``value_half``) and duplicate
    r (``value``) are matched by fold, condition, metric and k, and averaged over the folds that have both: every
    condition counts once per held-out unit. Per metric × k × floor, columns :data:`CALIBRATION_COLUMNS`:

    - ``n_conditions`` with b and r, from ``n_clusters`` held-out units; ``negative``, ``positive``: the means of b and
      r over them, ``interpolated`` that of the interpolated duplicate (NaN if it was not made).
    - ``drf``, dynamic range fraction: mean(b − r) / mean(b − optimum), 0 where the duplicate is no better than the
      floor, 1 where it is perfect; with its :func:`trueshift.evaluation.statistics.ratio_interval`.
    - ``bds``, bound discrimination score: the share of conditions in which the duplicate is strictly better than the
      floor, of the ``n_alone`` with 60 or more test cells. Conditions of one unit are not independent, so the Wilson
      interval takes the number of their units as n; it is the usual one where every unit is one condition.
    - ``gain_low``: lower bound of the mean of r − b, counted so that positive is better; without one above 0 there is
      no range to anchor scores in, but the metric may still pass.
    - ``passes``: the lower bounds of BDS above .5 and of DRF above 0. Else ``reason`` says the first thing that
      is in the way, numbers in parentheses. A floor that predicts profiles has no value in metrics that need cells:
      ``passes`` is then missing, and the other floor decides (:func:`passing`).

    Metrics that tell the conditions of a panel apart count for panels of five or more only. Order: the registry's.
    """
    _require(floors, [*_KEYS, "cluster", "model", "value", "value_half", "reason"], "scores")
    floors = floors.astype(dict.fromkeys([*_KEYS, "cluster", "model"], str))
    floors = without_small_panels(floors[floors["model"].isin(FLOORS)])
    how: dict[str, str] = {"value": "mean", "value_half": "mean", "reason": "first"}
    tests = floors.groupby(["model", *_KEYS, "cluster"], sort=False, as_index=False).agg(how)  # over seeds
    tests = tests.merge(_duplicates(ceilings), on=_KEYS, how="left")
    rows = []
    for (name, k), part in by_metric(tests):
        rows += [_against(name, k, floor, part[part["model"] == floor], seed) for floor in FLOORS]
    return pd.DataFrame(rows, columns=CALIBRATION_COLUMNS).astype({"passes": "boolean"})


def without_small_panels(rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` of scores or ceilings, undefined where a metric needs a panel and it has fewer than 5 conditions.

    A panel are the conditions of one fold and context (of one dataset and split, if ``rows`` has these columns).
    """
    panel = [c for c in ("dataset", "split", "fold", "context") if c in rows]
    of_panels = rows["metric"].isin([name for name, metric in METRICS.items() if "panel" in metric.needs])
    if not of_panels.any():
        return rows
    conditions = rows.loc[of_panels, list(dict.fromkeys([*panel, *CONDITION]))].drop_duplicates()
    sizes = conditions.groupby(panel, as_index=False).size()
    small = of_panels & (rows[panel].merge(sizes, how="left")["size"].to_numpy() < PANEL_FROM)
    values = {c: rows[c].mask(small) for c in ("value", "value_half") if c in rows}
    return rows.assign(**values, reason=rows["reason"].mask(small, SMALL_PANEL))


def passing(calibration: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Why each (metric, k) of one dataset × split may not rank models there; empty text where it may.

    It passes if it beats every floor that has a value, and at least one has. Whether the registry lets a metric rank
    at all (``ranks``) is another matter.
    """
    reasons = {}
    for key, floors in by_metric(calibration):
        judged = floors[floors["passes"].notna()]
        failed = judged[~judged["passes"].astype(bool)] if len(judged) else floors
        reasons[key] = "; ".join(dict.fromkeys(failed["reason"]))
    return reasons


def summary(calibration: pd.DataFrame) -> pd.DataFrame:
    """The table a person reads: which metrics mean something on which dataset; columns :data:`SUMMARY_COLUMNS`.

    ``calibration`` holds the results of :func:`calibrate` with their dataset and split. One row per dataset × split ×
    metric × k: ``passes`` (yes or no), ``ranks`` (yes, no, or never for a metric that is shown only), ``floor``, the
    better mean of both floors, and whose it is, ``ceiling``, the mean of the technical duplicate, DRF and BDS with
    intervals against that floor, on how many conditions and held-out units they rest, and why it does not pass.
    Numbers have three significant digits.
    """
    rows = []
    for (dataset, split), part in calibration.groupby(["dataset", "split"]):
        reasons = passing(part)
        for (name, k), floors in by_metric(part):
            metric, why = METRICS[name], reasons[name, k]
            best_first = floors.sort_values("negative", ascending=metric.direction == "lower", kind="stable")
            harder = best_first.iloc[0]  # one without a value comes last
            has = harder["n_conditions"] > 0
            rows.append(
                {
                    "dataset": dataset,
                    "split": split,
                    "metric": name,
                    "k": k,
                    "passes": "no" if why else "yes",
                    "ranks": "never" if not metric.ranks else "no" if why else "yes",
                    "floor": float(f"{harder['negative']:.3g}"),
                    "floor_model": harder["floor"] if has else "",
                    "ceiling": float(f"{harder['positive']:.3g}"),
                    "drf": spanned(*harder[["drf", "drf_low", "drf_high"]]),
                    "bds": spanned(*harder[["bds", "bds_low", "bds_high"]]),
                    "n_conditions": harder["n_conditions"],
                    "n_units": harder["n_clusters"],
                    "why": why,
                }
            )
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def by_metric(table: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """The rows of each (metric, k), in the order of the registry, k from small to all."""
    parts = [((str(name), str(k)), part) for (name, k), part in table.groupby(["metric", "k"], sort=False)]
    unknown = [name for (name, _), _ in parts if name not in METRICS]
    if unknown:
        raise ContractError(f"scores: metric {unknown[0]} is not in the registry; score again with this version")
    return sorted(parts, key=lambda part: (list(METRICS).index(part[0][0]), ("", *K).index(part[0][1])))


def counted(reasons: pd.Series) -> str:
    """How often each reason occurs, most frequent first: ``no effect (21), too few controls (3)``."""
    return ", ".join(f"{reason or 'unknown'} ({n})" for reason, n in reasons.value_counts().items())


def spanned(value: float, low: float, high: float) -> str:
    """``0.62 [0.41, 0.80]``; without an interval only the value, without a value nothing."""
    if np.isnan(value):
        return ""
    return f"{value:z.2f}" if np.isnan(low) else f"{value:z.2f} [{low:z.2f}, {high:z.2f}]"


def _duplicates(ceilings: pd.DataFrame) -> pd.DataFrame:
    """The technical duplicate as columns duplicate, lacks (its reason) and alone, beside interpolated, by test."""
    _require(ceilings, [*_KEYS, "model", "value", "reason", "ceiling_use"] if len(ceilings) else [], "ceilings")
    columns = [*_KEYS, "duplicate", "lacks", "alone", "interpolated"]
    if ceilings.empty:
        return pd.DataFrame(columns=columns).astype({"duplicate": float, "interpolated": float})
    ceilings = without_small_panels(ceilings.astype(dict.fromkeys([*_KEYS, "model"], str)))
    ceilings = ceilings.assign(alone=ceilings["ceiling_use"] == "condition")
    technical, mixed = (
        ceilings[ceilings["model"] == model].groupby(_KEYS, sort=False, as_index=False)
        for model in (TECHNICAL, INTERPOLATED)
    )
    duplicate = technical.agg(duplicate=("value", "mean"), lacks=("reason", "first"), alone=("alone", "all"))
    return duplicate.merge(mixed.agg(interpolated=("value", "mean")), on=_KEYS, how="left")[columns]


def _against(name: str, k: str, floor: str, tests: pd.DataFrame, seed: int) -> dict[str, object]:
    """A row of the calibration; ``tests`` has value_half, duplicate, interpolated and alone per fold × condition."""
    metric = METRICS[name]
    both = tests[tests["value_half"].notna() & tests["duplicate"].notna()]
    how = {"value_half": "mean", "duplicate": "mean", "interpolated": "mean", "alone": "all"}
    conditions = both.astype({"alone": bool}).groupby(_UNIT, sort=False).agg(how).reset_index()
    b, r = conditions["value_half"].to_numpy(float), conditions["duplicate"].to_numpy(float)
    clusters, alone = conditions["cluster"].to_numpy(), conditions["alone"].to_numpy(bool)
    gain = r - b if metric.direction == "higher" else b - r
    n, n_clusters = len(b), len(set(clusters))
    row: dict[str, object] = dict.fromkeys(CALIBRATION_COLUMNS, np.nan)
    row |= {"metric": name, "k": k, "floor": floor, "optimum": metric.optimum}
    row |= {"n_conditions": n, "n_alone": int(alone.sum()), "n_clusters": n_clusters}
    if not n:
        why = _nothing(floor, tests)
        return row | {"passes": None if why == NO_FLOOR else False, "reason": why}

    room = b - metric.optimum
    drf = (b - r).sum() / room.sum() if room.sum() else np.nan
    drf_low, drf_high, _ = ratio_interval(b - r, room, clusters, seed)
    bds = (gain[alone] > 0).mean() if alone.any() else np.nan
    bds_low, bds_high = wilson(bds, len(set(clusters[alone])))
    gain_low = interval(gain, clusters, seed).low
    row |= {"negative": b.mean(), "positive": r.mean(), "interpolated": conditions["interpolated"].mean()}
    row |= {"drf": drf, "drf_low": drf_low, "drf_high": drf_high, "gain_low": gain_low}
    row |= {"bds": bds, "bds_low": bds_low, "bds_high": bds_high}

    beaten = f"the duplicate does not beat {floor}"
    hurdles = {
        f"{n_clusters} held-out unit{'s' if n_clusters > 1 else ''}: no interval below {T_FROM}": n_clusters >= T_FROM,
        f"no condition with a duplicate of its own ({ALONE} test cells)": alone.any(),
        f"{beaten} (BDS {spanned(bds, bds_low, bds_high)})": bds_low > 0.5,
        f"{floor} is already perfect": room.sum() != 0,
        f"{beaten} (DRF {spanned(drf, drf_low, drf_high)})": drf_low > 0,
    }
    why = next((text for text, taken in hurdles.items() if not taken), "")
    return row | {"passes": not why, "reason": why}


def _nothing(floor: str, tests: pd.DataFrame) -> str:
    """Why no condition has both a floor and a duplicate."""
    if tests.empty:
        return f"{floor} was not scored"
    conditions = tests.groupby(_UNIT, sort=False).agg({"value": "mean", "reason": "first"})
    if conditions["value"].isna().all():
        profiles = conditions["reason"].eq(NO_CELLS).any()
        return NO_FLOOR if profiles else f"undefined in all conditions: {counted(conditions['reason'])}"
    defined = tests[tests["value"].notna()]
    if defined["lacks"].isna().all():
        return f"no condition with a technical duplicate ({ENOUGH} test cells)"
    lacks = defined.loc[defined["duplicate"].isna() & defined["lacks"].notna()]
    if len(lacks):
        return f"the technical duplicate is undefined: {counted(lacks.groupby(_UNIT, sort=False)['lacks'].first())}"
    return f"{floor} is undefined on the halves of the technical duplicate"


def _require(table: pd.DataFrame, columns: list[str], what: str) -> None:
    missing = [c for c in columns if c not in table]
    if missing:
        raise ContractError(f"{what}: the column {missing[0]} is missing; make the file again with this version")
