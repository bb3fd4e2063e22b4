"""The table of costs: what every job took, by rule."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from trueshift.contract import ContractError
from trueshift.results import RUN, as_text, natural

BENCHMARKS = "benchmarks"  # the folder that holds what Snakemake measured of each job
MEASURED = {"s": "seconds", "cpu_time": "cpu_seconds", "max_rss": "peak_rss_mb"}  # its columns, and ours
OF_MODELS = ["computing_seconds", "gpu_peak_mb", "device", "cpu_fallback"]
COLUMNS = ["rule", *RUN, *MEASURED.values(), *OF_MODELS]
# The order of the rules in the table: that in which they run. Others follow by name.
RULES = ["fetch", "import_data", "qc", "normalize", "split", "select_genes", "partition", "pair", "reference"]
RULES += ["ceiling", "train", "predict", "adopt", "score", "calibrate"]


def cost(benchmarks: Iterable[Path], records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """What every job took: one row per job, sorted by rule, then by what the job was for.

    ``benchmarks`` are the files that Snakemake writes of its jobs, ``…/benchmarks/{…}/{rule}.tsv``; their folders say
    what a job was for (:func:`job_labels`). ``records`` are the ``*_cost.json`` of trainings and predictions, each with
    the labels of its run.

    Columns :data:`COLUMNS`: ``seconds``, ``cpu_seconds`` and ``peak_rss_mb`` (MB) are those of the whole job, from the
    start of its interpreter. Snakemake looks at the memory of a job every half second at first, then every 30 s, so a
    short peak can be missed; trainings and predictions say theirs themselves. NaN where a job ended before it was
    looked at. Of trainings and predictions also ``computing_seconds``, without start and imports, ``gpu_peak_mb`` (MB),
    ``device`` and ``cpu_fallback``: why a job that booked a GPU got none. Labels that a job does not have are empty.
    """
    rows = []
    for file in benchmarks:
        measured = pd.read_csv(file, sep="\t", na_values=["-", "NA"])
        absent = [name for name in MEASURED if name not in measured]
        if absent:
            raise ContractError(f"{file}: no column {absent[0]}; this is no benchmark of Snakemake")
        rows.append(job_labels(file) | measured.iloc[-1][list(MEASURED)].rename(MEASURED).to_dict())
    table = as_text(pd.DataFrame(rows, columns=COLUMNS[: -len(OF_MODELS)]), ["rule", *RUN])
    keys = ["rule", *RUN]
    if table.duplicated(keys).any():
        twice = table.loc[table.duplicated(keys), keys].iloc[0]
        raise ContractError(f"cost: {' | '.join(twice)} is there twice; give each file once")
    own = pd.DataFrame(list(records), columns=[*RUN, "stage", "seconds", "peak_rss_mb", *OF_MODELS[1:]])
    own = own.rename(columns={"stage": "rule", "seconds": "computing_seconds"})
    own = as_text(own.astype({"peak_rss_mb": float}), keys)
    table = table.merge(own, on=keys, how="left", validate="one_to_one", suffixes=("_seen", ""))
    table["peak_rss_mb"] = table["peak_rss_mb"].fillna(table["peak_rss_mb_seen"])
    return table[COLUMNS].sort_values(keys, key=_places, ignore_index=True)


def job_labels(file: str | Path) -> dict[str, str]:
    """The rule and the labels of the job that a benchmark file is of.

    ``benchmarks/{dataset}/{split}/{fold}/{model}/{variant}/seed{n}/{rule}.tsv``, as many of the folders as the job has
    labels. ``pair_S32`` is rule ``pair`` with variant ``S32``.
    """
    parts = PurePath(file).parts
    if BENCHMARKS not in parts:
        raise ContractError(f"{file}: not below a folder {BENCHMARKS}, so it cannot be told which job it is of")
    *folders, name = parts[len(parts) - parts[::-1].index(BENCHMARKS) :]
    rule, _, size = PurePath(name).stem.partition("_S")
    labels = dict(zip(RUN, folders, strict=False)) | {"rule": rule} | ({"variant": f"S{size}"} if size else {})
    return labels | ({"seed": labels["seed"].removeprefix("seed")} if "seed" in labels else {})


def _places(column: pd.Series) -> pd.Series:
    if column.name == "rule":
        return column.map(lambda rule: (RULES.index(rule) if rule in RULES else len(RULES), rule))
    return column.map(natural)
