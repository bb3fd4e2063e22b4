"""The table of costs: what each run took."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from trueshift.contract import ContractError
from trueshift.results import RUN, as_text, ordered

COST_RECORD = ["stage", "seconds", "peak_rss_mb", "gpu_peak_mb", "device", "cpu_fallback"]
COST_COLUMNS = [*RUN, "device", "cpu_fallback", "train_seconds", "predict_seconds"]
COST_COLUMNS += ["train_peak_rss_mb", "predict_peak_rss_mb", "gpu_peak_mb"]


def cost(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """What each run took, one row per run.

    A record is a ``*_cost.json`` (:data:`COST_RECORD`) with the labels of its run (see :func:`path_labels`).
    ``device`` reads ``train / predict`` where the two differ, and so does ``cpu_fallback``, the reason why a job that
    booked a GPU got none; a stage without record is NaN.
    """
    table = pd.DataFrame(list(records), columns=[*RUN, *COST_RECORD])
    table = as_text(table, [*RUN, "stage"])
    if table.duplicated([*RUN, "stage"]).any():
        twice = table.loc[table.duplicated([*RUN, "stage"]), [*RUN, "stage"]].iloc[0]
        raise ContractError(f"cost: {' | '.join(twice)} is there twice; give each file once")
    runs = []
    for names, group in table.groupby(RUN, sort=False):
        stages = group.set_index("stage").reindex(["train", "predict"])
        runs.append(
            {
                **dict(zip(RUN, names, strict=True)),
                **{
                    name: " / ".join(filter(None, stages[name].dropna().unique()))
                    for name in ("device", "cpu_fallback")
                },
                "train_seconds": stages.at["train", "seconds"],
                "predict_seconds": stages.at["predict", "seconds"],
                "train_peak_rss_mb": stages.at["train", "peak_rss_mb"],
                "predict_peak_rss_mb": stages.at["predict", "peak_rss_mb"],
                "gpu_peak_mb": stages["gpu_peak_mb"].max(),
            }
        )
    return ordered(pd.DataFrame(runs, columns=COST_COLUMNS))
