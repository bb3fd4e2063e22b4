"""Scores of one prediction: one row per condition × metric × k, undefined values with their reason."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from trueshift.contract import CONDITION, ContractError
from trueshift.evaluation.halves import Halves
from trueshift.evaluation.metric import K, Metric
from trueshift.evaluation.pair import CellTerms, Pair, Values
from trueshift.evaluation.predicted import Predicted, predicted_side
from trueshift.evaluation.reference import TestCells
from trueshift.evaluation.registry import METRICS
from trueshift.evaluation.truth import FDR, Truth

NO_EFFECT = "no effect"  # the truth has no differentially expressed gene
TOO_FEW_CONTROLS = "too few controls"
NO_CELLS = "no cells"  # the prediction is one profile per condition
NOT_ON_HALVES = "not on halves"
LABELS = ("dataset", "split", "fold", "model", "variant", "seed")
CARRIED = [*CONDITION, "cluster", "n_deg", "n_cells", "n_controls", "n_seen", "flags"]
SCORE_COLUMNS = [*CONDITION, "cluster", "metric", "k", "value", "reason", "value_half", "n_halvings"]
SCORE_COLUMNS += ["n_deg", "n_cells", "n_controls", "n_seen", "flags"]


def score(
    prediction: ad.AnnData,
    cells: ad.AnnData,
    truth: Truth,
    settings: Mapping[str, Any],
    halves: Halves | None = None,
) -> pd.DataFrame:
    """Scores a prediction (profiles or cells, see :func:`trueshift.contract.make_prediction`).

    ``cells`` is ``truth.h5ad``, ``truth`` what :func:`trueshift.evaluation.reference.truth_statistics` makes of it.
    Conditions are matched by name; genes must be those of the truth, in its order. ``settings`` has ``metrics`` and
    ``k``. Columns of the result: :data:`SCORE_COLUMNS`. ``value`` is the score against all test cells;
    ``value_half`` the mean over ``n_halvings`` of the scores against half B of them, the halves that the technical
    duplicate is scored against, NaN for conditions that are not halved.
    """
    test = TestCells(cells)
    needs = {need for metric, _ in chosen(settings) for need in metric.needs}
    predicted = predicted_side(prediction, test, truth, needs)
    members = [test.of(i) for i in range(len(truth.conditions))]
    whole = make_pair(truth, predicted, predicted.terms(truth, members), test)
    scores = score_pair(whole, truth, settings)
    value, n = np.full(len(scores), np.nan), np.zeros(len(scores), dtype=int)
    if halves is not None and len(halves.conditions):
        part = predicted.take(halves.conditions)
        found = []
        for halving in range(len(halves)):
            half = halves.truth(halving, truth)
            terms = part.terms(half, halves.members(halving, test))
            pair = make_pair(half, part, terms)
            found.append(_interleaved([_defined(metric, k, pair, half).value for metric, k in chosen(settings)]))
        per_condition = len(scores) // len(truth.conditions)
        rows = (halves.conditions[:, None] * per_condition + np.arange(per_condition)).ravel()
        value[rows], n[rows] = mean_defined(np.stack(found))
    return scores.assign(value_half=value, n_halvings=n)[SCORE_COLUMNS]


def mean_defined(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean over the first axis of what is not NaN, and how many that are."""
    n = (~np.isnan(values)).sum(axis=0)
    return np.where(n > 0, np.nansum(values, axis=0) / np.maximum(n, 1), np.nan), n


def make_pair(
    truth: Truth,
    predicted: Predicted,
    terms: tuple[CellTerms | None, CellTerms | None] = (None, None),
    test: TestCells | None = None,
) -> Pair:
    """Sets truth and prediction side by side; ``test`` gives the single cells, to metrics that need them."""
    n_input, n_reference = (
        truth.conditions[f"n_control_{half}"].to_numpy()[:, None] for half in ("input", "reference")
    )
    total = np.maximum(n_input + n_reference, 1)
    pooled = (n_input * truth.control_input + n_reference * truth.control_reference) / total
    distance, kernel = terms
    return Pair.of(
        truth.mean,
        predicted.mean,
        truth.control_reference,
        truth.control_input,
        truth.order,
        panel=truth.panel,
        targets=truth.targets,
        centre=truth.train_centre,
        mean_delta=truth.train_delta,
        z=truth.z,
        significant=truth.p_adjusted < FDR,
        variance=truth.variance,
        variance_hat=predicted.variance,
        test_hat=predicted.test,
        test_copies=predicted.copies,
        distance=distance,
        kernel=kernel,
        samples=None if test is None else test.cells,
        left_out=predicted.left_out,
        shared_control=np.where(truth.paired[:, None], truth.control_input, pooled),
    )


def score_pair(pair: Pair, truth: Truth, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Scores of a pair; its rows are the conditions of ``truth``.

    One row per condition, metric and k, in this nesting. ``k`` is text, empty for metrics without k. ``value`` is NaN
    where undefined, and then ``reason`` says why:

    - what the prediction itself says of a condition that it leaves unanswered: ``no features``, ``not in training``;
    - ``too few controls``: fewer than 40 in the context (2 profiles), for metrics that need controls;
    - ``no cells``: the prediction is one profile per condition, for metrics that need cells;
    - ``fewer than k genes`` (k = 20, …);
    - ``no effect``: the truth has no differentially expressed gene, for metrics that need one;
    - what the metric itself finds: ``constant truth``, ``no true difference``, ``panel of one``, ….

    ``flags`` are those of the condition, with ``constant_prediction`` where a correlation is 0 because the prediction
    is constant.
    """
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
    )


def _interleaved(columns: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(columns, axis=1).ravel()


def _defined(metric: Metric, k: str, pair: Pair, truth: Truth) -> Values:
    """The metric's values, undefined where what it needs is missing."""
    n, n_genes = pair.x.shape
    count = n_genes if k == "all" else int(k or 0)
    lacks: dict[str, np.ndarray] = {}
    if "controls" in metric.needs:
        lacks[TOO_FEW_CONTROLS] = ~truth.controls_suffice
    everywhere = np.ones(n, dtype=bool)
    missing = {
        NO_CELLS: ("cells" in metric.needs and pair.test_hat is None)
        or ("copies" in metric.needs and pair.test_copies is None),
        NOT_ON_HALVES: "samples" in metric.needs and pair.samples is None,
        f"fewer than {k} genes": count > n_genes,
    }
    lacks |= {reason: everywhere for reason, lacking in missing.items() if lacking}
    if any(missing.values()):
        found = Values(np.full(n, np.nan), np.full(n, "", dtype=object), np.zeros(n, dtype=bool))
    else:
        found = metric.function(pair, count) if metric.per_k else metric.function(pair)
    if "effect" in metric.needs:
        lacks[NO_EFFECT] = truth.conditions["n_deg"].eq(0).fillna(False).to_numpy(bool)
    if pair.left_out is not None:
        lacks = {str(text): pair.left_out == text for text in np.unique(pair.left_out) if text} | lacks
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
