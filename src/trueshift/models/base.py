"""What every model is: a scikit-learn-like estimator over the artefacts of the contract, and how one is built."""

import difflib
import importlib
import inspect
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, get_origin, get_type_hints

import anndata as ad
import numpy as np
import pandas as pd

from trueshift.contract import (
    CONDITION,
    ContractError,
    Pairs,
    asked,
    column_means,
    component_doses,
    condition_codes,
    input_controls,
    kind_of,
)

if TYPE_CHECKING:
    from trueshift.tracking import Run


# Why a condition has no answer, as scores.parquet and undefined.csv give it.
UNSEEN = "not in training"
NO_FEATURES = "no features"
SAME_FEATURES = "features do not differ"
TOO_FEW_CELLS = "too few cells to train on"


@dataclass(frozen=True)
class Training:
    """What a model learns from: ``cells``, as train.h5ad holds them, and for a model that needs them ``pairs``."""

    cells: ad.AnnData
    pairs: Pairs | None = None


@dataclass(frozen=True)
class Query:
    """What a model is asked: ``cells``, the input controls as query.h5ad holds them, with the conditions asked."""

    cells: ad.AnnData


class Model(ABC):
    """Base of all models.

    The constructor only stores hyperparameters under their own names. ``fit`` learns from the rows of ``train.h5ad``
    (roles train, val and control_input), ``predict`` answers a query in the order asked, ``save`` and ``load`` carry
    weights without pickled code. Same seed, same numbers.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def params(self, *but: str) -> dict[str, Any]:
        """The hyperparameters and the seed by name, as ``get_params`` of scikit-learn, without those named ``but``."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name not in ("self", *but)]
        return {name: getattr(self, name) for name in names}

    def check_fitted(self) -> None:
        """Raises :class:`ContractError` while the instance holds nothing but its hyperparameters."""
        if vars(self).keys() <= self.params().keys():
            raise ContractError(f"{type(self).__name__} has learnt nothing yet: call fit or load before predict")

    def check_choices(self) -> None:
        """Raises :class:`ContractError` if a parameter that is annotated as ``Literal`` is none of its values."""
        for name, hint in get_type_hints(type(self).__init__).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                given, values = getattr(self, name), ", ".join(map(str, get_args(hint)))
                raise ContractError(f"{type(self).__name__}: {name} is one of {values}, not {given}")

    @abstractmethod
    def fit(self, given: Training, run: "Run | None" = None) -> Self:
        """Learns from what is given; ``run`` takes progress and checkpoints."""

    @abstractmethod
    def predict(self, asked_for: Query) -> ad.AnnData:
        """Predicts the conditions of :func:`trueshift.contract.asked`, see ``make_prediction`` there."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes what was learnt into an existing, empty folder."""

    @abstractmethod
    def load(self, folder: Path) -> Self:
        """Reads what :meth:`save` wrote, into an instance built with the same hyperparameters."""


class ArrayModel(Model):
    """A model whose learnt state is a mapping of NumPy arrays, ``self.state``; closed-form models derive from it."""

    _state: dict[str, np.ndarray]

    @property
    def state(self) -> dict[str, np.ndarray]:
        """What was learnt; an error before ``fit`` or ``load``."""
        self.check_fitted()
        return self._state

    @state.setter
    def state(self, state: dict[str, np.ndarray]) -> None:
        self._state = state

    def save(self, folder: Path) -> None:
        """Writes ``weights.npz``."""
        np.savez(Path(folder, "weights.npz"), **self.state)  # type: ignore[arg-type]

    def load(self, folder: Path) -> Self:
        """Reads ``weights.npz``; pickled parts are refused."""
        with np.load(Path(folder, "weights.npz"), allow_pickle=False) as file:
            self.state = dict(file)
        return self


@dataclass(frozen=True)
class Centroids:
    """Pseudobulks of the training cells.

    ``conditions`` has one row per perturbed training condition, shape (C, 3); ``means`` (C, G) are their mean
    expression and ``deltas`` (C, G) the difference to the mean of their context's controls, of paired profiles to that
    of their own controls, in float64.
    ``control`` maps a context to its control mean, shape (G,).
    """

    conditions: pd.DataFrame
    means: np.ndarray
    deltas: np.ndarray
    control: dict[str, np.ndarray]


def centroids(train: ad.AnnData) -> Centroids:
    """Means of every perturbed training condition (validation cells included) and of each context's controls."""
    is_control = train.obs["is_control"].to_numpy()
    context = train.obs["context"].astype(str).to_numpy()
    control = {
        str(name): column_means(train.X, np.flatnonzero(is_control & (context == name)))
        for name in np.unique(context[is_control])
    }
    perturbed = np.flatnonzero(~is_control)
    if not len(perturbed):
        raise CannotLearnError("train: there are no perturbed cells to learn from; check the split", TOO_FEW_CELLS)
    table, codes = condition_codes(train.obs.iloc[perturbed])
    lost = sorted(set(table["context"]) - set(control))
    if lost:
        raise ContractError(f"train: context {lost[0]} has perturbed cells but no control cells to compare them with")
    means = np.stack([column_means(train.X, perturbed[codes == i]) for i in range(len(table))])
    deltas = means - np.stack([control[name] for name in table["context"]])
    if "control_id" in train.obs:
        controls, matched = matched_controls(train)
        own = [controls[matched[codes == i]].mean(axis=0, dtype=np.float64) for i in range(len(table))]
        deltas = means - np.stack(own)
    return Centroids(table, means, deltas, control)


def query_controls(query: ad.AnnData) -> np.ndarray:
    """For each asked condition the mean of its input controls, shape (C, G), float64."""
    means: dict[bytes, np.ndarray] = {}
    chosen = input_controls(query)
    for rows in chosen:
        if rows.tobytes() not in means:
            means[rows.tobytes()] = column_means(query.X, rows)
    return np.stack([means[rows.tobytes()] for rows in chosen])


def input_cells(query: ad.AnnData, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the query to start from, and the number of the asked condition of each, both shape (N,), in order.

    Each condition gets as many cells as its test has, drawn without replacement from its input controls; where these
    are too few, all of them and some again. Of profiles, which are no sample of cells, it gets every input control.
    """
    table, controls, kind = asked(query), input_controls(query), kind_of(query)
    sizes = table["n_cells"].to_numpy(int)
    chosen = []
    for rows, n, names in zip(controls, sizes, table[CONDITION].astype(str).itertuples(index=False), strict=True):
        rng = np.random.default_rng([seed, zlib.crc32("|".join(names).encode())])
        if not kind.has_cells:
            chosen.append(rows)
        elif n <= len(rows):
            chosen.append(rng.choice(rows, n, replace=False))
        else:
            chosen.append(np.append(rows, rng.choice(rows, n - len(rows))))
    return np.concatenate(chosen), np.repeat(np.arange(len(table)), [len(rows) for rows in chosen])


def control_pools(train: ad.AnnData) -> tuple[list[np.ndarray], np.ndarray]:
    """What every perturbed row of ``train`` may be compared with: pools of control rows, and its pool's number, (N,).

    A paired profile has its own control (``control_id``), as far as that is in training; every other row has the
    controls of its context and batch, or of its context where that batch has none. Both follow the order of ``train``.
    Raises :class:`ContractError` for a context without controls.
    """
    obs = train.obs
    control = obs["is_control"].to_numpy(bool)
    if control.all():
        raise CannotLearnError("train: there are no perturbed cells to learn from; check the split", TOO_FEW_CELLS)
    context = obs["context"].astype(str)
    keys = {"own": pd.Series(obs.index, obs.index), "batch": context.str.cat(obs["batch"].astype(str), sep="\t")}
    keys |= {"context": context}
    pools = {
        (scope, name): np.flatnonzero(control)[rows]
        for scope, key in keys.items()
        for name, rows in pd.Series(np.arange(control.sum())).groupby(key[control].to_numpy(str)).indices.items()
    }
    keys["own"] = obs["control_id"].astype(str) if "control_id" in obs else pd.Series("", obs.index)
    wanted = []
    for names in zip(*(key[~control].to_numpy(str) for key in keys.values()), strict=True):
        found = next((pool for pool in zip(keys, names, strict=True) if pool in pools), None)
        if found is None:
            raise ContractError(f"train: context {names[-1]} has perturbed cells but no control cells")
        wanted.append(found)
    used = {pool: code for code, pool in enumerate(dict.fromkeys(wanted))}
    return [pools[pool] for pool in used], np.array([used[pool] for pool in wanted])


def matched_controls(train: ad.AnnData) -> tuple[np.ndarray, np.ndarray]:
    """The means of :func:`control_pools`, float32 (M, G), and for each perturbed row of ``train`` one of them, (N,)."""
    pools, pool_of = control_pools(train)
    return np.stack([column_means(train.X, rows) for rows in pools]).astype(np.float32), pool_of


def total_dose(doses: pd.Series) -> np.ndarray:
    """The dose of each label, summed over the components of a combination (``"1+0.5"`` is 1.5), shape (N,)."""
    amounts = {dose: sum(map(float, component_doses(dose))) for dose in doses.astype(str).unique()}
    return doses.astype(str).map(amounts).to_numpy(np.float64)


def check_genes(query: ad.AnnData, genes: list[str], model: str) -> None:
    """Raises :class:`ContractError` unless the query has the genes of the training, in order."""
    if query.var_names.tolist() != genes:
        raise ContractError(f"{model}: the query has other genes than the training; take the query of the same fold")


class UnseenError(ContractError):
    """Some of the conditions asked cannot be predicted, though the configuration is right; the others can.

    ``unseen``, (C,) bool, says which of the conditions asked. ``reason`` is why, in the few words that the tables
    count by.
    """

    def __init__(self, message: str, unseen: np.ndarray, reason: str = UNSEEN) -> None:
        super().__init__(message)
        self.unseen, self.reason = unseen, reason


class CannotLearnError(ContractError):
    """A model cannot learn from a fold, though the configuration is right.

    The model then answers nothing in this fold, and the run goes on. ``reason`` is why, in the few words that the
    tables count by. What the user must change, such as an unknown value of a parameter, is a plain
    :class:`ContractError`.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def refuse_unseen(query: ad.AnnData, known: set[tuple[str, ...]], columns: list[str], model: str) -> None:
    """Raises :class:`UnseenError` if an asked condition, reduced to ``columns``, is not among those known."""
    rows = list(asked(query)[columns].astype(str).itertuples(index=False, name=None))
    refuse(query, np.array([row not in known for row in rows]), columns, model)


def refuse(query: ad.AnnData, unseen: np.ndarray, columns: list[str], model: str) -> None:
    """Raises :class:`UnseenError` if any condition asked is ``unseen``, (C,) bool; names the first by ``columns``."""
    if unseen.any():
        first = asked(query)[columns].astype(str).iloc[np.flatnonzero(unseen)[0]]
        what = ", ".join(f"{column} {value}" for column, value in first.items())
        raise UnseenError(
            f"{model} was never shown {what} in training and cannot predict it; exclude it from this split", unseen
        )


def build(settings: dict[str, Any], seed: int) -> Model:
    """Makes a model from ``{"class": dotted path, "params": {…}}``; unknown parameters are refused, nearest named."""
    module, _, name = settings["class"].rpartition(".")
    if not module:
        raise ContractError(f"config/models.yaml: class {name} is no dotted path such as trueshift.models.{name}")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name != module:
            raise
        raise ContractError(f"config/models.yaml: class {settings['class']} does not exist ({error})") from error
    if inspect.isabstract(cls):
        lacks = ", ".join(sorted(cls.__abstractmethods__))
        raise ContractError(f"{settings['class']} has no {lacks}; a model needs fit, predict, save and load")
    known = [p for p in inspect.signature(cls.__init__).parameters if p not in ("self", "seed")]
    for parameter in settings["params"]:
        if parameter not in known:
            near = difflib.get_close_matches(parameter, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ContractError(
                f"{settings['class']} has no parameter {parameter}{hint} (it has: {', '.join(known) or 'none'})"
            )
    return cls(seed=seed, **settings["params"])
