"""The metrics by name: all functions that modules of :mod:`trueshift.evaluation.metrics` mark as one.

A new metric is a new module there and no other change. What a job hashes are the modules of the metrics that the
configuration names.
"""

import importlib
import pkgutil

from trueshift.evaluation import metrics
from trueshift.evaluation.metric import DEFINED, Metric

# The order in which tables and figures show the modules; others follow by name.
FIRST = ("topk", "raw", "legacy", "delta", "systema", "weighted", "panel", "effect", "de", "cells", "errors")


def _all() -> dict[str, Metric]:
    names = {module.name for module in pkgutil.iter_modules(metrics.__path__)}
    order = [*FIRST, *sorted(names - set(FIRST))]
    for name in order:
        importlib.import_module(f"{metrics.__name__}.{name}")
    module_of = {metric.name: metric.function.__module__.rpartition(".")[2] for metric in DEFINED.values()}
    return dict(sorted(DEFINED.items(), key=lambda entry: order.index(module_of[entry[0]])))


METRICS: dict[str, Metric] = _all()
