"""What a model cannot be asked, condition by condition: declared unanswered, so that scoring counts it.

Models that need features or structures of perturbations meet data where some have none. Such perturbations are left out
of training and not asked: zeros in the place of features would be an answer to another question. And a fold that holds
out lines, or samples, may hold the only ones of a perturbation: a model that knows perturbations by name alone leaves
that one unanswered. Where a fold does not let a model learn at all, :class:`NothingLearnt` takes its place and leaves
every condition unanswered. See :func:`unanswered` of :mod:`trueshift.contract`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from trueshift.contract import (
    CONDITION,
    ContractError,
    Pairs,
    asked,
    components,
    make_prediction,
    read_json,
    target_gene,
    unanswered,
    write_json,
)
from trueshift.models.base import NO_FEATURES, CannotLearnError, Model, Query, Training, UnseenError, build
from trueshift.models.features import TARGET_EXPRESSION
from trueshift.tracking import Run

NOTHING_LEARNT = "nothing_learnt.json"
SHOWN = 5


@dataclass(frozen=True)
class NothingLearnt:
    """Stands in the place of a model that could not learn from its fold; it answers nothing.

    ``message`` says why in full, ``reason`` in the few words that the tables count by.
    """

    message: str
    reason: str

    def predict(self, asked_for: Query) -> ad.AnnData:
        """A prediction without rows, every condition asked in its ``uns["unanswered"]``."""
        query = asked_for.cells
        print(f"left unanswered: all {len(asked(query))} conditions; {self.message}")
        return _left_out(_without_rows(asked_for), query, np.full(len(asked(query)), True), self.reason)

    def save(self, folder: Path) -> None:
        """Writes ``nothing_learnt.json``."""
        write_json(asdict(self), Path(folder, NOTHING_LEARNT))


def fit_covered(
    model: Model, given: Training, settings: Mapping[str, Any], run: Run | None = None
) -> Model | NothingLearnt:
    """Trains a model on what :func:`train_on_covered` leaves it; returns it, or what stands for it if it cannot learn.

    Only a :class:`trueshift.models.base.CannotLearnError` is taken for that. Any other error is raised.
    """
    try:
        return model.fit(train_on_covered(given, settings), run)
    except CannotLearnError as error:
        print(f"nothing learnt, all conditions will be left unanswered: {error}")
        return NothingLearnt(str(error), error.reason)


def load_trained(folder: Path, settings: Mapping[str, Any], seed: int) -> Model | NothingLearnt:
    """Reads what a model, or :class:`NothingLearnt`, saved in ``folder``."""
    file = Path(folder, NOTHING_LEARNT)
    return NothingLearnt(**read_json(file)) if file.exists() else build(dict(settings), seed).load(folder)


def covered(perturbations: Iterable[str], adata: ad.AnnData, settings: Mapping[str, Any]) -> np.ndarray:
    """Which perturbations a model can be given: those whose components all have what it needs. Controls are.

    ``settings`` are those :func:`trueshift.models.base.build` takes, ``needs`` (features, structures) among them;
    ``adata`` carries the tables, of which ``params: features`` names one. Boolean, shape (P,).
    """
    known = _known(adata, settings)
    answers: dict[str, bool] = {}
    for perturbation in (perturbations := [str(label) for label in perturbations]):
        if perturbation not in answers:
            parts = components(perturbation)
            answers[perturbation] = all(name(part) in names for names, name in known for part in parts)
    return np.array([answers[perturbation] for perturbation in perturbations], dtype=bool)


def _known(adata: ad.AnnData, settings: Mapping[str, Any]) -> list[tuple[set[str], Callable[[str], str]]]:
    """For every need the names that fulfil it, and how a component is looked up among them."""
    needs = settings.get("needs", [])
    known: list[tuple[set[str], Callable[[str], str]]] = []
    if "structures" in needs:
        if "structures" not in adata.uns:
            raise ContractError(
                f"{settings['class']} needs structures, the dataset has none; bring SMILES in columns: smiles, or "
                "structures, of config/datasets.yaml"
            )
        known.append((set(adata.uns["structures"].index), str))
    if "features" in needs:
        tables, name = adata.uns.get("perturbation_features", {}), settings["params"].get("features")
        if name is None and len(tables) == 1:
            name = next(iter(tables))
        if name == TARGET_EXPRESSION:
            known.append((set(adata.var_names), target_gene))
        elif name in tables:  # a model says itself what it lacks where there is no such table
            known.append((set(tables[name].index), str))
    return known


def train_on_covered(given: Training, settings: Mapping[str, Any]) -> Training:
    """What a model can learn from: controls, the covered perturbations and their sets. Prints what is left out.

    The rows of the pairs returned are those of the cells returned. Raises
    :class:`trueshift.models.base.CannotLearnError` if no training cell or profile of a covered perturbation is left.
    """
    train, pairs = given.cells, given.pairs
    labels = train.obs["perturbation"].astype(str).to_numpy()
    kept = covered(labels, train, settings)
    if kept.all():
        return given
    left_out = sorted(set(labels[~kept]))
    learnt = kept & ~train.obs["is_control"].to_numpy(bool) & (train.obs["role"] == "train").to_numpy()
    if not learnt.any():
        raise CannotLearnError(
            f"none of the perturbations in training has the {_words(settings)} that {settings['class']} needs (such as "
            f"{left_out[0]}); give it others in config/datasets.yaml, or leave the model out",
            NO_FEATURES,
        )
    print(
        f"left out of training, without {_words(settings)}: {len(left_out)} of {len(set(labels))} perturbations, "
        f"{(~kept).sum()} of {len(kept)} rows; such as {', '.join(left_out[:SHOWN])}"
    )
    if pairs is not None:
        sets, row = kept[pairs.perturbed].all(axis=1), (np.cumsum(kept) - 1).astype(np.int32)
        values = {name: value[sets] for name, value in vars(pairs).items()}
        values |= {name: row[values[name]] for name in ("perturbed", "control")}
        pairs = Pairs(**values)
    return replace(given, cells=train[kept].copy(), pairs=pairs)


def predict_covered(model: Model | NothingLearnt, asked_for: Query, settings: Mapping[str, Any]) -> ad.AnnData:
    """The prediction of what can be asked of the model; the rest in its ``uns["unanswered"]``, with the reason.

    Where nothing can be asked, the prediction has no rows.
    """
    query = asked_for.cells
    kept = covered(asked(query)["perturbation"], query, settings)
    if kept.all():
        return _predict_seen(model, asked_for)
    print(f"not asked of the model, without {_words(settings)}: {(~kept).sum()} of {len(kept)} conditions")
    prediction = _predict_seen(model, _asking(asked_for, kept)) if kept.any() else _without_rows(asked_for)
    return _left_out(prediction, query, ~kept, NO_FEATURES)


def _predict_seen(model: Model | NothingLearnt, asked_for: Query) -> ad.AnnData:
    try:
        return model.predict(asked_for)
    except UnseenError as error:
        print(f"left unanswered: {error.unseen.sum()} of {len(error.unseen)} conditions; {error}")
        answered = ~error.unseen
        prediction = _predict_seen(model, _asking(asked_for, answered)) if answered.any() else _without_rows(asked_for)
        return _left_out(prediction, asked_for.cells, error.unseen, error.reason)


def _without_rows(asked_for: Query) -> ad.AnnData:
    """A prediction of none of the conditions asked."""
    query = asked_for.cells
    nothing = np.empty((0, query.n_vars), dtype=np.float32)
    return make_prediction(_asking(asked_for, np.full(len(asked(query)), False)).cells, nothing)


def _left_out(prediction: ad.AnnData, query: ad.AnnData, left: np.ndarray, reason: str) -> ad.AnnData:
    table = asked(query).loc[left, CONDITION].astype(str).assign(reason=reason)
    table = pd.concat([unanswered(prediction), table], ignore_index=True)
    prediction.uns["unanswered"] = table.set_axis(table.index.astype(str))
    return prediction


def _asking(asked_for: Query, chosen: np.ndarray) -> Query:
    """The same query, asking for the ``chosen`` of its conditions only, (C,) bool."""
    query = asked_for.cells
    conditions = asked(query)[chosen].reset_index(drop=True)
    uns = {**query.uns, "conditions": conditions.set_axis(conditions.index.astype(str))}
    return replace(asked_for, cells=ad.AnnData(query.X, obs=query.obs, var=query.var, uns=uns, layers=query.layers))


def _words(settings: Mapping[str, Any]) -> str:
    name = settings["params"].get("features")
    features = f"features {name}" if name else "features"
    return " or ".join({"features": features, "structures": "structures"}[need] for need in settings["needs"])
