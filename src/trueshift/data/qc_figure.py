"""One page that shows what quality control saw and what it removed."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trueshift.contract import atomic
from trueshift.data.qc import Found
from trueshift.kinds import KINDS

KEPT, GONE, CONTROLS = "#2b6ca3", "#c8553d", "#9a9a9a"
MOST_CONTEXTS = 25


def qc_figure(found: Found, report: dict[str, Any], path: str | Path) -> None:
    """Draws the page for what was ``found`` before quality control and its ``report``, as a PNG at ``path``.

    Panels: total and genes per cell, cells per gene, mitochondrial share where there is one, each with its threshold;
    cells kept and removed per context; cells per condition; and in words what was removed and why.
    """
    chosen = report["settings"]
    stats, cells_per_gene = found
    counted = KINDS[report["kind"]].raw_counts
    with_mito = counted and bool(stats["mito"].notna().any())
    figure = Figure(figsize=(17 if with_mito else 14, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplot_mosaic("ABCM\nDEFF" if with_mito else "ABC\nDEF")

    of_totals = "counts per cell" if counted else "sum of values per cell"
    _histogram(axes["A"], stats["total"].to_numpy(), of_totals, "cells")
    _histogram(axes["B"], stats["genes"].to_numpy(), "genes per cell", "cells", chosen["min_genes"], "min_genes")
    _histogram(axes["C"], cells_per_gene, "cells per gene", "genes", chosen["min_cells"], "min_cells", log=True)
    if with_mito:
        share = stats["mito"].dropna().to_numpy()
        _histogram(axes["M"], share, "mitochondrial share", "cells", chosen["max_mito"], "max_mito")
    _contexts(axes["D"], pd.DataFrame(report["contexts"]))
    _conditions(axes["E"], pd.DataFrame(report["conditions"]))
    _words(axes["F"], report)
    figure.suptitle(f"Quality control of {report['dataset']} ({report['kind']})", fontsize=14)
    with atomic(path, sealed=False) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _histogram(
    axis: Axes,
    values: np.ndarray,
    title: str,
    unit: str,
    threshold: float | None = None,
    name: str = "",
    log: bool = False,
) -> None:
    shown = np.log10(values + 1.0) if log else values
    axis.hist(shown, bins=min(60, max(10, len(np.unique(shown)))), color=KEPT)
    if threshold is not None:
        axis.axvline(np.log10(threshold + 1.0) if log else threshold, color=GONE, lw=2)
        title += f" (line: {name} {threshold:g})"
    if log:
        ticks = [t for t in (0, 1, 10, 100, 1000, 10_000, 100_000, 1_000_000) if t <= max(values.max(), threshold or 0)]
        axis.set_xticks(np.log10(np.array(ticks) + 1.0), [f"{t:,}" for t in ticks])
    axis.set(title=title, ylabel=unit)
    axis.spines[["top", "right"]].set_visible(False)


def _contexts(axis: Axes, table: pd.DataFrame) -> None:
    table = table.sort_values("cells_before", ascending=False)
    rest = len(table) - MOST_CONTEXTS
    table = table.head(MOST_CONTEXTS).iloc[::-1]
    removed = table["cells_before"] - table["cells_after"]
    axis.barh(table["context"], table["controls_after"], color=CONTROLS, label="controls kept")
    perturbed = table["cells_after"] - table["controls_after"]
    axis.barh(table["context"], perturbed, left=table["controls_after"], color=KEPT, label="perturbed kept")
    axis.barh(table["context"], removed, left=table["cells_after"], color=GONE, label="removed")
    axis.set(
        title="cells per context" + (f" (largest {MOST_CONTEXTS}, {rest} more)" if rest > 0 else ""), xlabel="cells"
    )
    axis.legend(frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    axis.spines[["top", "right"]].set_visible(False)


def _conditions(axis: Axes, table: pd.DataFrame) -> None:
    table = table[table["perturbation"] != "control"].sort_values("before", ascending=False)
    rank = np.arange(1, len(table) + 1)
    axis.plot(rank, table["before"], color=GONE, lw=1.5, label="before")
    axis.plot(rank, table["after"], ".", color=KEPT, ms=4, label="after")
    axis.set_yscale("symlog", linthresh=1)
    axis.set_ylim(0, 2 * max(table["before"].max(), 1) if len(table) else 1)
    axis.set(title=f"cells per condition ({len(table)} conditions)", xlabel="condition, by size", ylabel="cells")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)


def _words(axis: Axes, report: dict[str, Any]) -> None:
    lines = []
    for what in ("cells", "genes"):
        part = report[what]
        lines.append(f"{what}: {part['before']:,} before, {part['after']:,} kept")
        for reason, number in part["removed"].items():
            setting = report["settings"][reason]
            if setting is not None:
                lines.append(f"    {number:,} removed by {reason}: {setting:g}")
    vanished = report["vanished_conditions"]
    lines.append(f"conditions without a cell left: {len(vanished)}")
    lines += [f"    {row['context']} | {row['perturbation']} | {row['dose']}" for row in vanished[:8]]
    if len(vanished) > 8:
        lines.append(f"    … {len(vanished) - 8} more in the JSON report")
    lines += report["notes"]
    axis.set_axis_off()
    axis.text(0, 0.97, "\n".join(lines), va="top", fontsize=10, wrap=True, transform=axis.transAxes)
    axis.set_title("what was removed, and why", loc="left")
