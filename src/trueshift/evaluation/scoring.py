"""Scores of one prediction: one row per condition × metric × k, undefined values with their reason."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from trueshift.contract import CONDITION, ContractError
from trueshift.evaluation.metrics import METRICS, K, Metric, Pair
from trueshift.evaluation.metrics.pair import Values
from trueshift.evaluation.reference import Truth, condition_rows, pseudobulks

NO_EFFECT = "no effect"  # the truth has no differentially expressed gene
TOO_FEW_CONTROLS = "too few controls"
LABELS = ("dataset", "split", "fold", "model", "variant", "seed")
CARRIED = [*CONDITION, "cluster", "n_deg", "n_cells", "n_controls", "n_seen", "flags"]
SCORE_COLUMNS = [*CONDITION, "cluster", "metric", "k", "value", "reason", "n_deg", "n_cells", "n_controls", "n_seen"]
SCORE_COLUMNS += ["flags"]


def score(prediction: ad.AnnData, truth: Truth, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Scores a prediction (profiles or cells, see :func:`trueshift.contract.make_prediction`).

    Predicted cells are averaged per condition. Conditions are matched by name; genes must be those of the truth, in
    its order. ``settings`` has ``metrics`` and ``k``. Columns of the result: :data:`SCORE_COLUMNS`.
    """
    if prediction.var_names.tolist() != truth.genes.tolist():
        raise ContractError("prediction: its genes are not those of the truth, in the same order; predict again")
    codes = condition_rows(prediction.obs, truth.conditions, "prediction")
    return score_profiles(pseudobulks(prediction.X, codes, len(truth.conditions)), truth, settings)


def score_profiles(x_hat: np.ndarray, truth: Truth, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Scores predicted mean expression, shape (C, G), rows in the order of ``truth.conditions``.

    One row per condition, metric and k, in this nesting. ``k`` is text, empty for metrics without k. ``value`` is NaN
    where undefined, and then ``reason`` says why:

    - ``too few controls``: fewer than 40 in the context, for metrics that need controls;
    - ``fewer than k genes`` (k = 20, …);
    - ``no effect``: r2_topk where the truth has no differentially expressed gene;
    - ``constant truth``, ``no true difference``: the formula divides by zero.

    ``flags`` are those of the condition, with ``constant_prediction`` where a correlation is 0 because the prediction
    is constant.
    """
    pair = Pair.of(truth.mean, x_hat, truth.control_reference, truth.control_input, truth.order)
    asked_for = chosen(settings)
    results = [_defined(metric, k, pair, truth) for metric, k in asked_for]
    n, m = len(truth.conditions), len(results)
    rows = truth.conditions[CARRIED].iloc[np.repeat(np.arange(n), m)].reset_index(drop=True)
    constant = _interleaved([r.constant for r in results])
    marked = rows["flags"].where(rows["flags"] == "", rows["flags"] + ";") + "constant_prediction"
    return rows.assign(
        metric=[metric.name for metric, _ in asked_for] * n,
        k=[k for _, k in asked_for] * n,
        value=_interleaved([r.value for r in results]),
        reason=_interleaved([r.reason for r in results]),
        flags=rows["flags"].mask(constant, marked),
    )[SCORE_COLUMNS]


def _interleaved(columns: list[np.ndarray]) -> np.ndarray:
    return np.stack(columns, axis=1).ravel()


def _defined(metric: Metric, k: str, pair: Pair, truth: Truth) -> Values:
    """The metric's values, undefined where what it needs is missing."""
    n, n_genes = pair.x.shape
    count = n_genes if k == "all" else int(k or 0)
    lacks: dict[str, np.ndarray] = {}
    if "controls" in metric.needs:
        lacks[TOO_FEW_CONTROLS] = ~truth.controls_suffice
    if count > n_genes:
        lacks[f"fewer than {k} genes"] = np.ones(n, dtype=bool)
        found = Values(np.full(n, np.nan), np.full(n, "", dtype=object), np.zeros(n, dtype=bool))
    else:
        found = metric.function(pair, count) if metric.per_k else metric.function(pair)
    if "effect" in metric.needs:
        lacks[NO_EFFECT] = truth.conditions["n_deg"].eq(0).fillna(False).to_numpy(bool)
    value, reason, constant = (a.copy() for a in found)
    for text, mask in reversed(lacks.items()):  # the first need that is not met gives the reason
        value[mask], reason[mask], constant[mask] = np.nan, text, False
    return Values(value, reason, constant)


def chosen(settings: Mapping[str, Any]) -> list[tuple[Metric, str]]:
    """The metrics and k that ``settings`` asks for; k is empty text for metrics without k.

    Raises :class:`ContractError` for unknown names, with the nearest known one.
    """
    names = [_known(str(name), METRICS, "metrics") for name in settings.get("metrics", ())]
    if not names:
        raise ContractError(f"evaluation: metrics: names none; choose from {', '.join(METRICS)}")
    ks = [_known(str(k), K, "k") for k in settings.get("k", ())]
    if not ks and any(METRICS[name].per_k for name in names):
        raise ContractError(f"evaluation: k: is empty, but top-k metrics are asked for; choose from {', '.join(K)}")
    pairs = [(METRICS[name], k) for name in names for k in (ks if METRICS[name].per_k else [""])]
    return list(dict.fromkeys(pairs))


def _known(name: str, known: Iterable[str], what: str) -> str:
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
        if name.isdecimal():
            near = [min((k for k in known if k.isdecimal()), key=lambda k: abs(int(k) - int(name)))]
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ContractError(f"evaluation: {what}: {name} is unknown{hint} (known: {', '.join(known)})")
    return name


def label(scores: pd.DataFrame, labels: Mapping[str, Any]) -> pd.DataFrame:
    """Puts the columns :data:`LABELS` (text) in front; raises :class:`ContractError` unless exactly those are given."""
    wrong = sorted(set(LABELS) ^ set(labels))
    if wrong:
        raise ContractError(f"labels: {wrong[0]} is missing or unknown; give exactly {', '.join(LABELS)}")
    return pd.concat([pd.DataFrame({name: str(labels[name]) for name in LABELS}, index=scores.index), scores], axis=1)
