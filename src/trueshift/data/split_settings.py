"""The settings of a split, and what it asks of a model.

A type of split is a module of :mod:`trueshift.data.splits`, found by its name alone: a new one is a new file and no
other change. It has

* ``ASKS``: what it demands of a model: seen, partial_context, new_context, new_perturbation, new_combination or
  new_dose. None if the entry says it. :func:`trueshift.data.split_checks.check_split` proves it.
* ``SETTINGS``: its settings beside :data:`COMMON`, with their defaults.
* ``KEYS``: the JSON Schema of those that :data:`KEYS` does not have, or has otherwise. What a setting means is said in
  the module's text, as it is below.
* ``NEEDS``, if it cannot do without: ``("structures",)``.
* ``tested(cells, chosen, fold)``: the mask, shape (N,), of the cells that a fold tests; the other perturbed cells
  train, and a share of them validates. Or ``listed(cells, chosen, fold)``: the role of every cell as files say, shape
  (N,), empty text for controls that they leave open; ``FILES`` is then the setting that names the files.
* ``leaks(roles, cells)``, if it holds out more than ``ASKS`` says: what of that is in training all the same, in words.

Settings that several types have:

- ``k``: Number of folds, named 1 … k.
- ``folds``: Named folds: the contexts, perturbations, scaffolds, doses or file that each holds out.
- ``files``: The file of folds of each context; {data} is the data folder.
- ``validation``: Share of the perturbed training cells that validates; 0 declares it empty.
- ``seed``: Seed of folds, halves and validation.
- ``asks``: What the split asks of models; seen by default.
- ``cluster``: The unit held out, for intervals.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from trueshift.contract import ContractError
from trueshift.data import splits
from trueshift.data.options import did_you_mean, in_range, options

TYPES = tuple(module.name for module in pkgutil.iter_modules(splits.__path__))
COMMON: dict[str, Any] = {"type": None, "validation": 0.1, "seed": 0, "cluster": None}
KEYS: dict[str, dict[str, Any]] = {
    "k": {"type": "integer", "minimum": 2},
    "folds": {"$ref": "#/$defs/folds"},
    "files": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string", "minLength": 1}},
    "validation": {"type": "number", "minimum": 0, "maximum": 0.5},
    "seed": {"type": "integer", "minimum": 0},
    "asks": {"enum": ["seen", "partial_context", "new_context", "new_perturbation", "new_combination", "new_dose"]},
    "cluster": {"enum": ["perturbation", "context", "batch", "dose", "modality"]},
}
QUESTIONS = tuple(KEYS["asks"]["enum"])
CLUSTERS = tuple(KEYS["cluster"]["enum"])


def type_of(settings: Mapping[str, Any]) -> ModuleType:
    """The module of a split's type."""
    name = settings.get("type")
    if name not in TYPES:  # looked up before it is imported: what a user writes is never a path to code
        raise ContractError(f"split: no type {name}{did_you_mean(name, TYPES)}")
    return importlib.import_module(f"trueshift.data.splits.{name}")


def chosen_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with their defaults; raises :class:`ContractError` on what does not go together."""
    kind = type_of(settings)
    given = {key: value for key, value in settings.items() if value is not None}
    chosen = options(given, {**COMMON, **kind.SETTINGS}, f"split of type {settings['type']}")
    if given.get("folds"):
        if "k" in given:
            raise ContractError(f"split: {chosen['type']} has both k and folds; give one")
        chosen |= {"k": None, "folds": {str(name): value for name, value in given["folds"].items()}}
    elif "k" not in kind.SETTINGS:
        raise ContractError(f"split: {chosen['type']} needs folds: {{name: what it holds out}}")
    if chosen.get("asks") not in (None, *QUESTIONS):
        raise ContractError(f"split: asks is {chosen['asks']}{did_you_mean(chosen['asks'], QUESTIONS)}")
    if "files" in kind.SETTINGS and not chosen["files"]:
        raise ContractError(f"split: {chosen['type']} needs files: {{context: path}}")
    if chosen.get("k") is not None:
        in_range(chosen["k"], 1 if hasattr(kind, "listed") else 2, 1000, "split: k")
    # Half at most: then a condition of two or more cells always keeps one in training.
    in_range(chosen["validation"], 0, 0.5, "split: validation (0 declares that there is none)")
    return chosen


def fold_names(chosen: Mapping[str, Any]) -> list[str]:
    """The folds of a split: those named, or 1 to k."""
    return list(chosen["folds"]) if chosen.get("folds") else [str(i + 1) for i in range(int(chosen["k"]))]


def asks(settings: Mapping[str, Any]) -> str:
    """What the split demands of a model: one of :data:`QUESTIONS`."""
    return type_of(settings).ASKS or settings.get("asks") or "seen"


def held_out_unit(settings: Mapping[str, Any]) -> str:
    """The obs column whose values are the units that the split holds out: the clusters of its intervals."""
    default = "context" if asks(settings) == "new_context" else "perturbation"
    cluster = settings.get("cluster") or default
    if cluster not in CLUSTERS:
        raise ContractError(f"split: cluster: no column {cluster}{did_you_mean(cluster, CLUSTERS)}")
    return cluster
