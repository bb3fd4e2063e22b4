"""A metric: one pure function on a :class:`~trueshift.evaluation.pair.Pair`, and what one must know to read it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from trueshift.evaluation.pair import Values

F = TypeVar("F", bound=Callable[..., Values])

K = ("20", "40", "50", "80", "100", "all")
INFINITY = float("inf")

# Kinds of metric: which way is better, the least and greatest possible value, that of a perfect prediction.
R2: dict[str, Any] = {"direction": "higher", "bounds": (-INFINITY, 1), "optimum": 1}
CORRELATION: dict[str, Any] = {"direction": "higher", "bounds": (-1, 1), "optimum": 1}
SHARE: dict[str, Any] = {"direction": "higher", "bounds": (0, 1), "optimum": 1}
ERROR: dict[str, Any] = {"direction": "lower", "bounds": (0, INFINITY), "optimum": 0}
DISTANCE: dict[str, Any] = {"direction": "lower", "bounds": (-INFINITY, INFINITY), "optimum": 0}


@dataclass(frozen=True)
class Metric:
    """A metric and what one must know to read it.

    ``function`` takes a :class:`~trueshift.evaluation.pair.Pair`, and k if ``per_k``. ``needs`` holds what it is
    undefined without: "controls" (too few of them), "effect" (a differentially expressed gene in truth), "cells" (the
    prediction is one profile), "copies" (as "cells", but copies of a profile will do), "panel" (other conditions of the
    context), "training" (a mean training effect), "samples" (the true cells, one by one). ``direction`` is "higher" or
    "lower", whichever is better; ``bounds`` are the least and greatest possible value, ``optimum`` is that of a perfect
    prediction. ``ranks`` is False where a metric is shown beside the others and never ranks models.
    """

    name: str
    function: Callable[..., Values]
    needs: tuple[str, ...]
    direction: str
    bounds: tuple[float, float]
    optimum: float
    formula: str
    source: str
    per_k: bool = False
    ranks: bool = True


DEFINED: dict[str, Metric] = {}


def metric(**facts: Any) -> Callable[[F], F]:
    """Marks a function as the metric of its name; ``facts`` are the other fields of :class:`Metric`."""

    def defined(function: F) -> F:
        DEFINED[function.__name__] = Metric(function.__name__, function, **facts)
        return function

    return defined
