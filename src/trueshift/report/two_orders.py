"""The order of models by the field's top-k R² beside their order by r2_topk: the same predictions, two readings."""

from collections.abc import Collection

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from scipy.stats import kendalltau

from trueshift.report.leaderboard import TIE
from trueshift.report.legacy import K
from trueshift.report.style import (
    BLUE,
    GREY,
    SMALL,
    WIDTH,
    add_legend,
    colour_of,
    named,
    number,
    panels_of,
    short,
    title_panel,
)
from trueshift.report.tables import headline
from trueshift.results import as_text

SIDES = ("legacy", "honest")
UNDEFINED = "undefined"
_MODEL = ["dataset", "split", "model", "variant"]
_HEADS = (f"legacy r², top {K[0]} genes\none control on both sides", f"R², top {K[0]} genes\ndifferent controls")
_LONGEST = 34  # letters of a name
_VALUE, _SLOT, _LEAST = 0.68, 0.17, 0.6  # inches: numbers beside the names, a line of text, the lines between two sides
_ABOVE, _BELOW = 0.45, 0.1  # inches, of a panel
_TIE = "#bdbdbd"
_HEAD = 2.5  # of the heads, in lines of text


def orders(results: pd.DataFrame, tidy: pd.DataFrame) -> pd.DataFrame:
    """Both values and ranks of every model: dataset, split, model, variant, name, and for each side value and rank.

    ``results`` is what :func:`trueshift.report.legacy.topk_r2_results` gives, ``tidy`` what
    :func:`trueshift.report.tables.topk_r2` gives, both also after a CSV. ``legacy`` is the mean of r2_top20 over the
    rows of the field's table (cell lines, folds, seeds), as the field averages it; ``honest`` the value of r2_topk at
    k = 20 that ``topk_r2.png`` shows. ``*_rank`` counts from 1, best first, within a dataset × split; models that
    differ by less than rounding share the rank of the first of them. NaN where there is no value.
    """
    whole = headline(tidy)
    honest = whole[whole["k"] == K[0]].set_index(_MODEL)["value"]
    legacy = as_text(results, _MODEL).groupby(_MODEL)[f"r2_top{K[0]}"].mean()
    table = pd.concat({"legacy": legacy, "honest": honest}, axis=1).reset_index()
    for side in SIDES:
        table[f"{side}_rank"] = table.groupby(["dataset", "split"])[side].transform(_ranks)
    return named(table)[[*_MODEL, "name", *SIDES, *(f"{side}_rank" for side in SIDES)]]


def _ranks(values: pd.Series) -> pd.Series:
    """Ranks from 1, highest first; values that are apart by no more than rounding share the first of theirs."""
    best_first = values.dropna().sort_values(ascending=False, kind="stable")
    apart = best_first.diff().abs() > TIE * best_first.abs().clip(lower=1)
    place = pd.Series(np.arange(1.0, len(best_first) + 1), index=best_first.index)
    return place.groupby(apart.cumsum()).transform("min").reindex(values.index)


def plot_two_orders(results: pd.DataFrame, tidy: pd.DataFrame, baselines: Collection[str] = ()) -> Figure:
    """One panel per dataset × split: models in the field's order on the left, by r2_topk on the right, joined by lines.

    Arguments are those of :func:`orders`. Models that tie meet in one point. Those without a value stand below.
    """
    panels = list(panels_of(orders(results, tidy)))
    side = _VALUE + max((_inches(name) for _, part in panels for name in part["name"]), default=0)
    columns = 2 if len(panels) > 1 and 2 * side + _LEAST <= WIDTH / 2 - 0.2 else 1
    across = WIDTH / 2 if columns == 2 else 2 * side + 4 * _LEAST
    slots = [len(part) + 0.6 * part[list(SIDES)].isna().any(axis=None) for _, part in panels]
    lines = [max(slots[i : i + columns]) + _HEAD for i in range(0, len(slots), columns)]
    width, height = across * columns, sum(lines) * _SLOT + len(lines) * (_ABOVE + _BELOW) + 0.45
    figure, top = Figure(figsize=(width, height)), height
    for i, (title, part) in enumerate(panels):
        row, column = divmod(i, columns)
        down = lines[row] * _SLOT
        left, bottom = column * across + 0.1, top - _ABOVE - down
        ax = figure.add_axes((left / width, bottom / height, (across - 0.2) / width, down / height))
        ax.set(xlim=(0, across - 0.2), ylim=(lines[row] - _HEAD - 0.5, -_HEAD - 0.5))
        ax.set_axis_off()
        _draw(ax, part, (side, across - 0.2 - side), baselines)
        title_panel(ax, title, _agreement(part))
        if column == columns - 1:
            top = bottom - _BELOW
    handles = [
        Line2D([], [], color=BLUE, marker="o", ms=4, label="learned model"),
        Line2D([], [], color=GREY, marker="o", ms=4, label="baseline"),
        Line2D([], [], color=_TIE, lw=2.5, marker="o", ms=4, mfc=GREY, mew=0, label="tied: the same value"),
        Line2D([], [], color=GREY, ls=":", label="undefined on a side"),
    ]
    add_legend(figure, handles)
    return figure


def _draw(ax: Axes, part: pd.DataFrame, ends: tuple[float, float], baselines: Collection[str]) -> None:
    """One panel: x in inches, y in lines of text; the lines between the sides have these ``ends``."""
    sides = [_places(part, name) for name in SIDES]
    for x, head, align in zip(ends, _HEADS, ("right", "left"), strict=True):
        ax.text(x, -0.85, head, ha=align, va="bottom", fontsize=SMALL, linespacing=1.3)
    for x, (at, meeting) in zip(ends, sides, strict=True):
        for y in np.unique(meeting):
            tied = at[meeting == y]
            ax.plot([x, x], [tied.min(), tied.max()], color=_TIE, lw=2.5, zorder=1)
    for i, row in enumerate(part.to_dict("records")):
        colour = colour_of(row["model"], baselines)
        known = not np.isnan([row[name] for name in SIDES]).any()
        y = [float(meeting[i]) for _, meeting in sides]
        ax.plot(ends, y, ls="-" if known else ":", lw=1.1, alpha=0.75, color=colour, zorder=2)
        for x, (at, meeting), name, away in zip(ends, sides, SIDES, (-1, 1), strict=True):
            defined = not np.isnan(row[name])
            if defined:
                ax.plot(x, meeting[i], "o", ms=3.6, mew=0, color=colour, zorder=3, clip_on=False)
            texts = ((0.08, _shown(row[name]) if defined else UNDEFINED), (_VALUE, short(row["name"], _LONGEST)))
            for distance, text in texts:
                align = "right" if away < 0 else "left"
                ax.text(x + away * distance, at[i], text, ha=align, va="center", fontsize=SMALL, color=colour)


def _places(part: pd.DataFrame, side: str) -> tuple[np.ndarray, np.ndarray]:
    """For each model the line of text on one side, and where its line ends: there, or amid those that it ties with.

    Best on top, models without a value below a gap.
    """
    value, rank = part[side].to_numpy(float), part[f"{side}_rank"].to_numpy(float)
    order = np.lexsort((part["name"].to_numpy(str), -value))  # NaN last
    at = np.empty(len(part))
    at[order] = np.arange(len(part)) + 0.6 * np.isnan(value[order])
    meeting = at.copy()
    for shared in np.unique(rank[~np.isnan(rank)]):
        meeting[rank == shared] = at[rank == shared].mean()
    return at, meeting


def _agreement(part: pd.DataFrame) -> str:
    both = part.dropna(subset=list(SIDES))
    models = f"{len(part)} model{'s' if len(part) != 1 else ''}"
    tau = kendalltau(both["legacy_rank"], both["honest_rank"]).statistic if len(both) > 1 else np.nan
    return models if np.isnan(tau) else f"{models}, Kendall's τ of the two orders {number(float(tau))}"


def _inches(name: str) -> float:
    """How wide a name is drawn, and a little more: pixels widen letters."""
    return float(TextPath((0, 0), short(name, _LONGEST), size=SMALL).get_extents().width) / 72 * 1.06


def _shown(value: float) -> str:
    """A number that fits beside a name, however large."""
    if abs(value) >= 10_000:
        return f"{value:.0e}".replace("-", "−")
    return number(value, 3 if abs(value) < 10 else 1)
