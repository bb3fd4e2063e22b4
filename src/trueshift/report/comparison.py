"""The leaderboard as a heatmap: anchored scores of models by metrics, where a metric can tell models apart."""

import re
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from trueshift.report.heatmap import (
    COLOURS,
    TINY,
    bare,
    board,
    colour_bar,
    headings,
    label_axes,
    letters,
    listed,
    stacked,
)
from trueshift.report.style import (
    BLUE,
    CEILING,
    FLOOR,
    GREY,
    LIMITS,
    SMALL,
    TEXT,
    add_legend,
    colour_labels,
    empty,
    number,
    panels_of,
    short,
    span,
)
from trueshift.results import HEADLINE

NOTHING_PASSES = "no metric passes here: nothing can rank models"
MOST_COLUMNS = 12  # metrics side by side: an interval needs 58 pixels where the figure is shown 900 pixels wide


class _Block(NamedTuple):
    """A row of axes: some of the metrics of a panel, or the reason why it has none."""

    title: str
    note: str
    part: pd.DataFrame
    names: list[str]
    metrics: list[str]
    below: str
    nothing: str = ""

    @property
    def inches(self) -> tuple[float, float, float]:
        """Room above, height, room below."""
        if self.nothing:
            return 0.35, 0.5, 0.1
        has_interval = self.part["anchored_low"].notna().any()
        lines = max(len(_wrapped(metric).split("\n")) for metric in self.metrics)
        below = 0.12 * len(self.below.split("\n")) if self.below else 0
        return 0.42 + 0.12 * lines, (0.28 if has_interval else 0.19) * len(self.names), 0.14 + below


def plot_leaderboard(leaderboard: pd.DataFrame, baselines: Collection[str] = ()) -> Figure:
    """Anchored scores with intervals, models by metrics; one panel per dataset × split.

    ``leaderboard`` is what :func:`trueshift.report.leaderboard.leaderboard` gives, also after a CSV. Columns are the
    metrics that may rank models and pass there, in blocks of up to 12; the others are named below. Rows are models,
    best r2_topk first, or best mean rank first where r2_topk does not pass. Framed are those whose rank may be 1.
    Colours end at −1 and 1.2, numbers never.
    """
    blocks = [block for title, part in panels_of(board(leaderboard)) for block in _blocks(title, part)]
    left = letters([name for block in blocks for name in block.names], TEXT)
    figure, axes = stacked([block.inches for block in blocks], left, top=0.62, bottom=0.55)
    scale = TwoSlopeNorm(0, *LIMITS)
    for ax, block in zip(axes, blocks, strict=True):
        headings(ax, block.title, block.note, block.inches)
        if block.nothing:
            empty(ax, block.nothing)
            continue
        _draw_scores(ax, block, scale)
        models = block.part.drop_duplicates("name").set_index("name")["model"]
        colour_labels(ax, models[block.names].tolist(), baselines)
    bar = colour_bar(figure, ScalarMappable(scale, COLOURS), "anchored score, in small print its 95% interval", "both")
    bar.set_ticks([-1, -0.5, 0, 0.5, 1], labels=["−1", "−0.5", "0 = floor", "0.5", "1 = ceiling"])
    bar.ax.axvline(0, color=FLOOR, lw=1.5)
    bar.ax.axvline(1, color=CEILING, lw=1.5)
    handles = [
        Patch(fc="none", ec="black", lw=1.2, label="tied for first: no model is significantly better"),
        Patch(fc="#f2f2f2", ec="#bdbdbd", lw=0.6, label="–: no value, or no range from floor to ceiling"),
        Line2D([], [], color=FLOOR, label="floor: better of no_change, mean_shift"),
        Line2D([], [], color=CEILING, label="ceiling: technical duplicate"),
        Line2D([], [], color=BLUE, marker="s", ls="", label="learned model"),
        Line2D([], [], color=GREY, marker="s", ls="", label="baseline"),
    ]
    add_legend(figure, handles)
    return figure


def _blocks(title: str, part: pd.DataFrame) -> list[_Block]:
    ranking = part[part["ranks"]]
    shown, failed = ranking[ranking["passes"]], ranking[~ranking["passes"]]
    if shown.empty:
        why = _frequent(failed) if len(failed) else "all its metrics are shown only"
        return [_Block(title, "", part, [], [], "", f"{NOTHING_PASSES}\n{why}")]
    names, order = _best_first(shown)
    metrics = shown["label"].unique().tolist()
    has = shown[shown["value"].notna()]
    note = f"{span(has['n_conditions'])} conditions of {span(has['n_units'])} held-out units; {order}"
    below = listed("do not pass: ", failed["label"].unique().tolist())
    n = -(-len(metrics) // MOST_COLUMNS)
    chunks = [list(chunk) for chunk in np.array_split(np.array(metrics, dtype=object), n)]
    return [
        _Block(
            title if i == 0 else f"{title}, continued",
            note if i == 0 else "",
            shown,
            names,
            chunk,
            below if i == n - 1 else "",
        )
        for i, chunk in enumerate(chunks)
    ]


def _best_first(shown: pd.DataFrame) -> tuple[list[str], str]:
    """The names of models, and by what they are ordered."""
    names = sorted(shown["name"].unique())
    head = shown[shown["metric"] == HEADLINE]
    if len(head):
        values = head.set_index("name")["value"].reindex(names)
        return values.sort_values(ascending=False, kind="stable").index.tolist(), f"best {head['label'].iloc[0]} on top"
    ranks = shown.groupby("name")[["rank", "rank_last"]].mean().reindex(names)
    return ranks.sort_values(["rank", "rank_last"], kind="stable").index.tolist(), "best mean rank on top"


def _draw_scores(ax: Axes, block: _Block, scale: Normalize) -> None:
    columns = ["anchored", "anchored_low", "anchored_high", "rank"]
    value, low, high, rank = (
        block.part.pivot(index="name", columns="label", values=column)
        .reindex(index=block.names, columns=block.metrics)
        .to_numpy()
        for column in columns
    )
    ax.pcolormesh(np.ma.masked_invalid(value), cmap=COLOURS, norm=scale, edgecolors="white", lw=0.8)
    for (y, x), v in np.ndenumerate(value):
        spanned = not np.isnan(low[y, x])
        text = "–" if np.isnan(v) else number(v) if abs(v) < 10 else bare(v)
        ax.text(x + 0.5, y + (0.32 if spanned else 0.52), text, ha="center", va="center", fontsize=SMALL)
        if spanned:
            text = f"[{bare(low.item(y, x))}, {bare(high.item(y, x))}]"
            ax.text(x + 0.5, y + 0.74, text, ha="center", va="center", fontsize=TINY)
    for x, first in enumerate((rank == 1).T):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], first, [0]])))
        for start, end in edges.reshape(-1, 2):  # one frame around neighbours
            frame = Rectangle((x + 0.03, start + 0.04), 0.94, end - start - 0.08, fc="none", ec="black", lw=1.2)
            ax.add_patch(frame)
    label_axes(ax, block.names, [_wrapped(metric) for metric in block.metrics], MOST_COLUMNS, size=TEXT)
    ax.set_xlabel(block.below, fontsize=SMALL, color="#595959", loc="left")


def _frequent(failed: pd.DataFrame) -> str:
    """The most frequent reason why metrics fail, without its numbers, and of how many metrics."""
    notes = failed.groupby("metric", sort=False)["note"].first()
    reasons = Counter(r for note in notes for r in dict.fromkeys(re.sub(r" \([^)]*\)", "", note).split("; ")))
    reason, n = reasons.most_common(1)[0]
    return short(f"{n} of {len(notes)} metrics: {reason or 'no value'}", 110)


def _wrapped(name: str, most: int = 9) -> str:
    """The name of a metric in lines that a column has room for, broken after ``_``, its k on a line of its own."""
    name, _, k = name.partition(" ")
    lines = [""]
    for word in re.findall(r"[^_]+_?", name):
        if lines[-1] and len(lines[-1] + word) > most:
            lines.append("")
        lines[-1] += word
    return "\n".join([*lines, f"k = {k.strip('()')}"] if k else lines)
