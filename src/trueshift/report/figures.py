"""Figures of the top-k R² tables. Each function returns a matplotlib Figure; :func:`save` writes it.

No value is ever clipped. Axes are, to [−1, 1.2]: what lies outside is marked by an arrow and printed as a number.
Models among ``baselines`` (means, additive and linear models, neighbours) are grey, all others blue.
"""

from collections.abc import Collection, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import blended_transform_factory

from trueshift.contract import CONDITION, ContractError
from trueshift.report.style import (
    BLUE,
    CEILING,
    FLOOR,
    GREY,
    LIMITS,
    SMALL,
    TEXT,
    WIDTH,
    add_legend,
    colour_labels,
    colour_of,
    condition_names,
    empty,
    main_k,
    named,
    number,
    panels_of,
    save,
    span,
    spread,
    title_panel,
)
from trueshift.report.tables import NO_EFFECT, headline
from trueshift.results import HEADLINE, RUN, as_text, natural

__all__ = ["plot_conditions", "plot_cost", "plot_topk_r2", "save"]

NOTHING = "no condition has a detectable effect"
MOST_CONDITIONS = 40

# --- top-k R² -----------------------------------------------------------------------------------------


def plot_topk_r2(tidy: pd.DataFrame, baselines: Collection[str] = ()) -> Figure:
    """Models by r2_topk at k = 20 with intervals, other k below in lighter marks, floor and ceiling; best on top.

    ``tidy`` is what :func:`trueshift.report.tables.topk_r2` gives; one panel per dataset × split.
    """
    rows = _headline(tidy)
    k = main_k(rows["k"])
    others = sorted(set(rows["k"]) - {k}, key=natural)
    panels = list(panels_of(rows))
    figure, axes = _grid([_size(part, 4) for _, part in panels], per_model=0.27, extra=0.85)
    for ax, (title, part) in zip(axes, panels, strict=True):
        main = part[part["k"] == k]
        title_panel(ax, title, _counts(main))
        if main["value"].isna().all():
            _nothing(ax, bool(main["n_no_effect"].any()))
        else:
            _draw_models(ax, part, k, others, baselines)
    lighter = [f"k = {', '.join(others)}: below, in this order from dark to light"] if others else []
    handles = [
        Line2D([], [], color=BLUE, marker="o", label=f"learned model, k = {k}, 95% interval"),
        Line2D([], [], color=GREY, marker="o", label="baseline"),
        Line2D([], [], color=GREY, marker="o", mfc="white", ls="", label="too few held-out units for an interval"),
        Line2D([], [], color=FLOOR, ls="--", label="floor: better of no_change, mean_shift"),
        Line2D([], [], color=CEILING, label="ceiling: technical duplicate"),
        *[Line2D([], [], color=GREY, alpha=0.5, marker="o", ms=3, ls="", label=text) for text in lighter],
    ]
    add_legend(figure, handles)
    return figure


def _draw_models(ax: Axes, part: pd.DataFrame, k: str, others: Sequence[str], baselines: Collection[str]) -> None:
    main = part[part["k"] == k].sort_values(["value", "name"], ascending=[False, True], ignore_index=True)
    names = main["name"].tolist()
    ax.set(xlim=LIMITS, ylim=(len(names) - 0.4, -0.6), xticks=[-1, -0.5, 0, 0.5, 1])
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(labelsize=TEXT, length=2)
    colour_labels(ax, main["model"].tolist(), baselines)
    ax.set_xlabel(f"R² against “no effect”, top {k} genes", fontsize=TEXT)
    ax.grid(axis="x", color="#e6e6e6", lw=0.6)
    ax.set_axisbelow(True)
    ax.axvline(0, color="#bdbdbd", lw=0.8, zorder=0.9)
    _draw_range(ax, main)
    lookup = part.set_index(["name", "k"])["value"]
    for y, row in enumerate(main.to_dict("records")):
        colour = colour_of(row["model"], baselines)
        if np.isnan(row["value"]):
            ax.text(LIMITS[0] + 0.03, y, "undefined", va="center", fontsize=SMALL, color="#8c8c8c", style="italic")
            continue
        outside = []
        for i, other in enumerate(others):
            value = lookup.get((row["name"], other), np.nan)
            if LIMITS[0] <= value <= LIMITS[1]:
                alpha = 0.75 - 0.55 * i / max(len(others) - 1, 1)
                ax.plot(value, y + 0.3, "o", ms=2.6, color=colour, alpha=alpha, mew=0)
            elif not np.isnan(value):
                outside.append((other, value))
        if not np.isnan(row["low"]):
            ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=1.6, solid_capstyle="butt")
            for end in (row["low"], row["high"]):
                _arrow(ax, end, y, colour, size=3.5)
        if LIMITS[0] <= row["value"] <= LIMITS[1]:
            fill = "white" if np.isnan(row["low"]) else colour
            ax.plot(row["value"], y, "o", ms=5, color=colour, mfc=fill, mew=1.2, zorder=3)
        else:
            _arrow(ax, row["value"], y, colour, size=5.5)
            _beside(ax, row["value"], y, number(row["value"]), SMALL, colour)
        if outside:
            text = "  ".join(f"{other}: {number(value, 1)}" for other, value in outside)
            _arrow(ax, outside[0][1], y + 0.32, colour, size=2.6)
            _beside(ax, outside[0][1], y + 0.32, f"k = {text}", 6, colour)


def _draw_range(ax: Axes, main: pd.DataFrame) -> None:
    """Floor and ceiling of the rows that rest on most conditions: those of the others differ only in what they lack."""
    widest = main.sort_values("n_conditions", ascending=False, kind="stable")
    floor, ceiling = (_first(widest[column]) for column in ("floor", "ceiling"))
    shown = [min(max(end, LIMITS[0]), LIMITS[1]) for end in (floor, ceiling)]
    if shown[0] < shown[1]:
        ax.axvspan(*shown, color="#f4f4ec", zorder=0)
    for value, colour, style in ((floor, FLOOR, "--"), (ceiling, CEILING, "-")):
        if LIMITS[0] <= value <= LIMITS[1]:
            ax.axvline(value, color=colour, ls=style, lw=1.2, zorder=1)
        elif not np.isnan(value):
            at = blended_transform_factory(ax.transData, ax.transAxes)
            left = value < LIMITS[0]
            ax.plot(_edge(value), 1, "<" if left else ">", color=colour, ms=6, transform=at, clip_on=False)
            x, side = (LIMITS[0] + 0.05, "left") if left else (LIMITS[1] - 0.05, "right")
            ax.text(x, 0.99, number(value), ha=side, va="top", fontsize=SMALL, color=colour, transform=at)


def _arrow(ax: Axes, value: float, y: float, colour: str, size: float) -> None:
    """An arrow at the edge of the axis if ``value`` lies outside."""
    if not LIMITS[0] <= value <= LIMITS[1]:
        marker = "<" if value < LIMITS[0] else ">"
        inwards = 0.025 if value < LIMITS[0] else -0.025
        ax.plot(_edge(value) + inwards, y, marker, ms=size, color=colour, mew=0, zorder=4)


def _beside(ax: Axes, value: float, y: float, text: str, size: float, colour: str) -> None:
    """Prints what lies outside, beside its arrow."""
    x, side = (LIMITS[0] + 0.06, "left") if value < LIMITS[0] else (LIMITS[1] - 0.06, "right")
    halo = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.3}
    ax.text(x, y, text, ha=side, va="center", fontsize=size, color=colour, zorder=4, bbox=halo)


# --- conditions ---------------------------------------------------------------------------------------


def plot_conditions(scores: pd.DataFrame, baselines: Collection[str] = ()) -> Figure:
    """Drill-down: r2_topk at k = 20 of every model on every condition, means over folds and seeds.

    ``scores`` holds the rows of any number of ``scores.parquet`` files; one panel per dataset × split. Conditions go
    from most to fewest differentially expressed genes (the number in brackets); the first 40 are drawn.
    """
    rows = scores[scores["metric"] == HEADLINE]
    if rows.empty:
        raise ContractError(f"scores: no row of {HEADLINE}; add it to evaluation: metrics:")
    rows = rows[rows["k"].astype(str) == main_k(rows["k"].astype(str))]
    rows = named(rows.astype(dict.fromkeys(["dataset", "split", "model", "variant", *CONDITION], str)))
    panels = [(title, bool(part["reason"].eq(NO_EFFECT).any()), *_matrix(part)) for title, part in panels_of(rows)]
    heights = [
        0.21 * len(matrix) + 0.062 * max(map(len, labels)) + 0.75 if np.isfinite(matrix).any(axis=None) else 1.0
        for *_, matrix, labels, _ in panels
    ]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.8), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    colours = mpl.colormaps["RdBu"].with_extremes(under="#3d0012")
    scale = Normalize(LIMITS[0], 1.0)
    for ax, (title, no_effect, matrix, labels, total) in zip(axes, panels, strict=True):
        hidden = total - len(labels)
        count = f"{len(labels)} of {total} conditions, {hidden} with fewer DEGs not shown" if hidden else _many(total)
        if np.isfinite(matrix).any(axis=None):
            title_panel(ax, title, f"{count}; in brackets: number of DEGs")
            _draw_matrix(ax, matrix, labels, colours, scale)
            colour_labels(ax, [name.split(" ")[0] for name in matrix.index], baselines)
        else:
            title_panel(ax, title, _many(total))
            _nothing(ax, no_effect)
    bar = figure.colorbar(
        ScalarMappable(scale, colours), ax=list(axes), location="top", extend="min", shrink=0.4, aspect=40, pad=0.01
    )
    bar.set_label("R² against “no effect”, top 20 genes", fontsize=TEXT)
    bar.ax.tick_params(labelsize=SMALL)
    handles = [
        Patch(fc="#f2f2f2", ec="#9a9a9a", hatch="////", lw=0, label="undefined: no effect, too few controls"),
        Patch(fc="white", ec="#bdbdbd", label="model not run on this condition"),
        Line2D([], [], color=BLUE, marker="s", ls="", label="learned model"),
        Line2D([], [], color=GREY, marker="s", ls="", label="baseline"),
    ]
    add_legend(figure, handles)
    return figure


def _matrix(part: pd.DataFrame) -> tuple[pd.DataFrame, list[str], int]:
    """Values (models × conditions; inf where undefined, NaN where not run), labels of conditions, their number."""
    facts = part.groupby(CONDITION)["n_deg"].max().reset_index()
    facts = facts.sort_values(["n_deg", *CONDITION], ascending=[False, True, True, True], ignore_index=True)
    shown = facts.head(MOST_CONDITIONS)
    cells = part.groupby(["name", *CONDITION])["value"].mean()
    means = part.groupby("name")["value"].mean()  # by name, so that a stable sort breaks ties by name
    best_first = means.sort_values(ascending=False, kind="stable").index
    matrix = cells.fillna(np.inf).unstack(CONDITION).reindex(index=best_first)
    matrix = matrix.reindex(columns=pd.MultiIndex.from_frame(shown[CONDITION]))
    names = condition_names(facts)[: len(shown)]
    labels = [f"{name} ({'–' if pd.isna(n) else int(n)})" for name, n in zip(names, shown["n_deg"], strict=True)]
    return matrix, labels, len(facts)


def _draw_matrix(ax: Axes, matrix: pd.DataFrame, labels: list[str], colours: Colormap, scale: Normalize) -> None:
    values = matrix.to_numpy()
    drawn = np.ma.masked_invalid(values)
    ax.pcolormesh(drawn, cmap=colours, norm=scale, edgecolors="white", lw=0.8)
    for y, x in np.argwhere(np.isposinf(values)):
        ax.add_patch(Rectangle((x, y), 1, 1, fc="#f2f2f2", ec="#9a9a9a", hatch="////", lw=0))
    if values.shape[1] <= 16:  # wide cells: room for the number
        for y, x in np.argwhere(np.isfinite(values)):
            colour = "white" if abs(values[y, x]) > 0.6 else "black"
            ax.text(x + 0.5, y + 0.5, number(values[y, x]), ha="center", va="center", fontsize=SMALL, color=colour)
    # a panel of few conditions keeps narrow cells
    ax.set(xlim=(0, max(values.shape[1], 16)), ylim=(len(values), 0))
    ax.set_xticks(np.arange(len(labels)) + 0.5, labels, rotation=90, fontsize=SMALL)
    ax.set_yticks(np.arange(len(values)) + 0.5, list(matrix.index), fontsize=TEXT)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


# --- cost ---------------------------------------------------------------------------------------------


def plot_cost(costs: pd.DataFrame, tidy: pd.DataFrame, baselines: Collection[str] = ()) -> Figure:
    """Seconds to train and predict (mean over folds and seeds, log axis) against r2_topk at k = 20.

    ``costs`` is what :func:`trueshift.report.cost.cost` gives, ``tidy`` what
    :func:`trueshift.report.tables.topk_r2` gives; one panel per dataset × split.
    """
    rows = _headline(tidy)
    rows = rows[rows["k"] == main_k(rows["k"])]
    keys = ["dataset", "split", "model", "variant"]
    jobs = as_text(costs[costs["rule"].isin(["train", "predict"])], RUN)
    runs = jobs.groupby(RUN, as_index=False).agg(seconds=("computing_seconds", "sum"), gpu=("gpu_peak_mb", "max"))
    spent = runs.groupby(keys, as_index=False).agg(seconds=("seconds", "mean"), gpu=("gpu", "max"))
    spent["gpu"] = spent["gpu"] > 0
    panels = list(panels_of(rows.merge(spent, on=keys, how="left")))
    figure, axes = _grid([_size(part, 8) for _, part in panels], per_model=0.19, extra=1.0)
    for ax, (title, part) in zip(axes, panels, strict=True):
        drawn = part.dropna(subset=["value", "seconds"])
        left_out = sorted(set(part["name"]) - set(drawn["name"]))
        title_panel(ax, title, f"without value or cost: {', '.join(left_out)}" if left_out and len(drawn) else "")
        if len(drawn):
            _draw_cost(ax, drawn, baselines)
        else:
            _nothing(ax, bool(part["n_no_effect"].any()))
    markers = (("o", "learned model, CPU", BLUE), ("s", "learned model, GPU", BLUE), ("o", "baseline", GREY))
    add_legend(figure, [Line2D([], [], color=c, marker=m, ls="", label=text) for m, text, c in markers])
    return figure


def _draw_cost(ax: Axes, part: pd.DataFrame, baselines: Collection[str]) -> None:
    """Points, and their names in a column on the right, in the order of the points, joined by thin lines."""
    part = part.sort_values(["value", "name"], ascending=[False, True], ignore_index=True)
    ax.set_xscale("log")
    ax.grid(color="#e6e6e6", lw=0.6)
    ax.set_axisbelow(True)
    ax.set_xlabel("seconds to train and predict", fontsize=TEXT)
    ax.set_ylabel("R², top 20 genes", fontsize=TEXT)
    ax.tick_params(labelsize=TEXT, length=2)
    seconds = part["seconds"].clip(lower=1e-3)
    inside = part.loc[part["value"].between(*LIMITS), "value"]
    low = max(LIMITS[0], inside.min() - 0.1) if len(inside) else LIMITS[0]
    high = min(LIMITS[1], inside.max() + 0.1) if len(inside) else LIMITS[1]
    ax.set(xlim=(seconds.min() / 2, seconds.max() * 2), ylim=(low, high))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    wanted = (part["value"].clip(low, high) - low) / (high - low)
    places = spread(wanted.to_numpy()[::-1], 1 / max(len(part), 10))[::-1]
    for place, x, (_, row) in zip(places, seconds, part.iterrows(), strict=True):
        colour, y = colour_of(row["model"], baselines), min(max(row["value"], low), high)
        marker = ("s" if row["gpu"] else "o") if y == row["value"] else ("v" if y == low else "^")
        ax.plot(x, y, marker, color=colour, ms=5, clip_on=False, zorder=3)
        text = row["name"] if y == row["value"] else f"{row['name']} ({number(row['value'])})"
        ax.annotate(
            text,
            xy=(x, y),
            xytext=(1.06, place),
            textcoords="axes fraction",
            fontsize=TEXT,
            color=colour,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.45, "lw": 0.6, "shrinkB": 2, "relpos": (0, 0.5)},
            annotation_clip=False,
        )


# --- shared -------------------------------------------------------------------------------------------


def _headline(tidy: pd.DataFrame) -> pd.DataFrame:
    rows = headline(tidy)
    if rows.empty:
        raise ContractError(f"the table has no row of {HEADLINE}; add it to evaluation: metrics:")
    return named(rows)


def _grid(sizes: Sequence[int], per_model: float, extra: float) -> tuple[Figure, list[Axes]]:
    """Panels in two columns (one, if there is one panel), rows as high as their longest list of models asks."""
    columns = min(len(sizes), 2)
    heights = [per_model * max(sizes[i : i + columns]) + extra for i in range(0, len(sizes), columns)]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.7), layout="constrained")
    axes = figure.subplots(len(heights), columns, squeeze=False, gridspec_kw={"height_ratios": heights}).ravel()
    for ax in axes[len(sizes) :]:
        ax.remove()
    return figure, list(axes[: len(sizes)])


def _nothing(ax: Axes, no_effect: bool) -> None:
    """Says why a panel is empty."""
    empty(ax, NOTHING if no_effect else "no value is defined: see the reasons in scores.parquet")


def _size(part: pd.DataFrame, least: int) -> int:
    """How many lines a panel needs; an empty one needs few."""
    return max(part["name"].nunique(), least) if part["value"].notna().any() else 2


def _counts(main: pd.DataFrame) -> str:
    text = f"{span(main['n_conditions'])} conditions"
    for column, what in (("n_no_effect", "without effect"), ("n_undefined", "undefined")):
        text += f", {span(main[column])} {what}" if main[column].any() else ""
    return text


def _edge(value: float) -> float:
    return min(max(value, LIMITS[0]), LIMITS[1])


def _first(column: pd.Series) -> float:
    known = column.dropna()
    return float(known.iloc[0]) if len(known) else float("nan")


def _many(n: int) -> str:
    return "1 condition" if n == 1 else f"{n} conditions"
