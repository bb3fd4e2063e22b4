"""What heatmaps of the leaderboard share: the rows they draw, cells of a fixed size, and numbers that fit into them."""

import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

from trueshift.contract import ContractError
from trueshift.evaluation.registry import METRICS
from trueshift.report.style import SMALL, TEXT, WIDTH, main_k, named, number, short
from trueshift.results import as_text, require

TINY = 6
# Not to its dark ends, so that black text and frames stand out everywhere.
_PALE = LinearSegmentedColormap.from_list("pale", mpl.colormaps["RdBu"](np.linspace(0.2, 0.8, 256)))
COLOURS: Colormap = _PALE.with_extremes(bad="#f2f2f2")
_RIGHT = 0.1  # inches
_LONGEST = 28  # letters of a name
_LABELS = ["dataset", "split", "metric", "k", "model", "variant", "note"]
_NUMBERS = ["value", "anchored", "anchored_low", "anchored_high", "rank", "rank_last", "n_conditions", "n_units"]
_METRIC = ["dataset", "split", "metric"]


def board(leaderboard: pd.DataFrame) -> pd.DataFrame:
    """The rows of a leaderboard that are drawn, in the order of the registry; labels are text, also after a CSV.

    Metrics with a k are drawn at k = 20 only, or at the smallest k if 20 is not in the table. Adds name (of the model),
    label (of the metric) and ranks (whether the registry lets it rank models).
    """
    require(leaderboard, [*_LABELS, *_NUMBERS, "passes"], "leaderboard")
    rows = named(as_text(leaderboard, _LABELS)).astype(dict.fromkeys(_NUMBERS, float) | {"passes": bool})
    if rows.empty:
        raise ContractError("leaderboard: no row; score at least one model")
    unknown = sorted(set(rows["metric"]) - set(METRICS))
    if unknown:
        raise ContractError(f"leaderboard: metric {unknown[0]} is not in the registry; make it again with this version")
    rows["k"] = rows["k"].str.removesuffix(".0")  # a CSV without k = all, but with empty k, reads as numbers
    rows = rows[rows["k"] == rows.groupby(_METRIC)["k"].transform(main_k)]
    twice = rows.duplicated([*_METRIC, "name"])
    if twice.any():
        raise ContractError(f"leaderboard: {' | '.join(rows.loc[twice, [*_METRIC, 'name']].iloc[0])} is there twice")
    return rows.assign(
        label=rows["metric"].where(rows["k"] == "", rows["metric"] + " (" + rows["k"] + ")"),
        ranks=[METRICS[name].ranks for name in rows["metric"]],
        place=[list(METRICS).index(name) for name in rows["metric"]],
    ).sort_values("place", kind="stable", ignore_index=True)


def stacked(
    blocks: Sequence[tuple[float, float, float]], left: float, top: float, bottom: float
) -> tuple[Figure, list[Axes]]:
    """Axes one below another, each with the room above it, its height and the room below it; all in inches."""
    total = top + sum(map(sum, blocks)) + bottom
    figure = Figure(figsize=(WIDTH, total))
    y, axes = total - top, []
    for above, height, below in blocks:
        y -= above + height
        axes.append(figure.add_axes((left / WIDTH, y / total, 1 - (left + _RIGHT) / WIDTH, height / total)))
        y -= below
    return figure, axes


def letters(names: Sequence[str], size: int) -> float:
    """Inches that the longest of these names needs, and a margin."""
    return 0.15 + min(max(map(len, names), default=0), _LONGEST) * size / 120


def headings(ax: Axes, title: str, note: str, inches: tuple[float, float, float]) -> None:
    """A title, and a note on the right, above the names of columns; ``inches`` are those of :func:`stacked`."""
    y = 1 + (inches[0] - 0.25) / inches[1]
    ax.set_title(short(title, 50), fontsize=9, fontweight="bold", loc="left", y=y, pad=0)
    ax.set_title(note, fontsize=SMALL, color="#595959", loc="right", y=y, pad=0)


def label_axes(ax: Axes, rows: Sequence[str], columns: Sequence[str], least: int, size: int, rotation: int = 0) -> None:
    """Names of rows and columns; a panel of few columns keeps narrow cells, as if it had ``least``."""
    ax.set(xlim=(0, max(len(columns), least)), ylim=(len(rows), 0))
    ax.xaxis.tick_top()
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=SMALL, rotation=rotation)
    ax.set_yticks(np.arange(len(rows)) + 0.5, [short(name, _LONGEST) for name in rows], fontsize=size)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def colour_bar(figure: Figure, colours: ScalarMappable, label: str, extend: str = "neither") -> Colorbar:
    """A colour bar in the room at the top."""
    height = figure.get_figheight()
    ax = figure.add_axes((0.32, 1 - 0.36 / height, 0.4, 0.1 / height))
    bar = figure.colorbar(colours, cax=ax, orientation="horizontal", extend=extend)
    ax.set_title(label, fontsize=TEXT)
    ax.tick_params(labelsize=SMALL)
    return bar


def listed(start: str, names: Sequence[str], width: int = 120) -> str:
    """``names`` on at most two lines, the rest counted."""
    for n in range(len(names), 0, -1):
        rest = f" and {len(names) - n} more" if n < len(names) else ""
        lines = textwrap.wrap(start + ", ".join(names[:n]) + rest, width, break_long_words=False)
        if len(lines) <= 2:
            return "\n".join(lines)
    return ""


def bare(value: float) -> str:
    """A number in little space: ``.40``, ``1.05``, ``−3.2``, ``−12``, ``−4k``."""
    size = abs(value)
    if size >= 999.5:
        return f"{number(value / 1000, 0)}k"
    text = number(value, 2 if -0.995 < value < 1.995 else 1 if size < 9.95 else 0)
    return text.replace("0.", ".", 1) if size < 0.995 else text
