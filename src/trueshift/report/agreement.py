"""How far metrics agree: Kendall's τ between the orders in which they put the models."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from trueshift.evaluation.registry import METRICS
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
from trueshift.report.leaderboard import TIE
from trueshift.report.style import GREY, SMALL, add_legend, empty, panels_of
from trueshift.results import HEADLINE

LEAST_MODELS = 4
FEW_MODELS = f"fewer than {LEAST_MODELS} models: their order tells nothing about metrics"
NOTHING_TO_COMPARE = f"fewer than 2 metrics with a value for {LEAST_MODELS} models"


class _Agreement(NamedTuple):
    """τ of metrics that may rank models (columns) with those and with the others (rows, the others last)."""

    title: str
    note: str
    tau: pd.DataFrame
    fails: set[str]
    below: str
    nothing: str = ""

    @property
    def inches(self) -> tuple[float, float, float]:
        """Room above, height, room below."""
        if self.nothing:
            return 0.35, 0.5, 0.1
        below = 0.12 * len(self.below.split("\n")) if self.below else 0
        return 0.35 + letters([f"{label} ✗" for label in self.tau.columns], SMALL), 0.19 * len(self.tau), 0.16 + below


def plot_agreement(leaderboard: pd.DataFrame) -> Figure:
    """Kendall's τ-b between the orders in which metrics put the models; one panel per dataset × split.

    ``leaderboard`` is what :func:`trueshift.report.leaderboard.leaderboard` gives, also after a CSV. Values are counted
    so that better is higher, over the models that both metrics have a value for, four at least. Values that differ by
    rounding only are tied. Neighbours are similar (average linkage on 1 − τ); metrics that never rank models
    stand below a line.
    """
    panels = [_agreement(title, part) for title, part in panels_of(board(leaderboard))]
    left = letters([f"{label} ✗" for panel in panels for label in panel.tau.index], SMALL)
    figure, axes = stacked([panel.inches for panel in panels], left, top=0.62, bottom=0.4)
    scale = Normalize(-1, 1)
    for ax, panel in zip(axes, panels, strict=True):
        headings(ax, panel.title, panel.note, panel.inches)
        if panel.nothing:
            empty(ax, panel.nothing)
        else:
            _draw_agreement(ax, panel, scale)
    bar = colour_bar(figure, ScalarMappable(scale, COLOURS), "Kendall’s τ-b between the orders of models")
    bar.set_ticks([-1, 0, 1], labels=["−1: opposite", "0: unrelated", "1: the same"])
    handles = [
        Line2D([], [], color=GREY, marker="$✗$", ls="", label="does not pass there: may not rank models"),
        Line2D([], [], color="black", lw=1.2, label="below this line: shown only, never ranks models"),
    ]
    add_legend(figure, handles)
    return figure


def _agreement(title: str, part: pd.DataFrame) -> _Agreement:
    n_models = part["name"].nunique()
    if n_models < LEAST_MODELS:
        return _Agreement(title, "", pd.DataFrame(), set(), "", FEW_MODELS)
    metrics = part.drop_duplicates("label").set_index("label")
    wide = part.pivot(index="name", columns="label", values="value")[metrics.index]
    enough = wide.notna().sum() >= LEAST_MODELS
    metrics, wide, left_out = metrics[enough], wide.loc[:, enough], metrics.index[~enough].tolist()
    tau = pd.DataFrame(_tau(wide.to_numpy(), list(metrics["metric"])), metrics.index, metrics.index)
    ranking = _similar_side_by_side(tau.loc[metrics["ranks"], metrics["ranks"]])
    others = tau.loc[~metrics["ranks"], ranking]
    others = others.loc[others.mean(axis=1).sort_values(ascending=False, kind="stable").index]
    tau = pd.concat([tau.loc[ranking, ranking], others])
    below = listed(f"left out, fewer than {LEAST_MODELS} models with a value: ", left_out)
    nothing = "" if tau.notna().any(axis=None) else NOTHING_TO_COMPARE
    note = f"{n_models} models, each pair of metrics over those that both have a value for"
    return _Agreement(title, note, tau, set(metrics.index[~metrics["passes"]]), below, nothing)


def _tau(values: np.ndarray, metrics: Sequence[str]) -> np.ndarray:
    """Kendall's τ-b of the columns of ``values`` (models × M), (M, M); NaN on the diagonal and where undefined.

    The sum over pairs of models of sign · sign, divided by √(pairs untied in one × pairs untied in the other), over
    the models that both columns have a value for. As in the leaderboard, differences by rounding are ties.
    """
    sign = np.array([1 if METRICS[name].direction == "higher" else -1 for name in metrics])
    scale = np.array([abs(METRICS[name].optimum) for name in metrics])
    i, j = np.triu_indices(len(values), 1)
    difference = sign * (values[i] - values[j])
    known = ~np.isnan(difference)
    rounding = TIE * np.maximum(np.maximum(np.abs(values[i]), np.abs(values[j])), scale)
    order = np.where(known & (np.abs(difference) > rounding), np.sign(difference), 0)
    untied = (order**2).T @ known
    defined = ~np.isnan(values)
    shared = defined.T.astype(int) @ defined
    possible = (shared >= LEAST_MODELS) & (untied > 0) & (untied.T > 0) & ~np.eye(len(sign), dtype=bool)
    return np.divide(order.T @ order, np.sqrt(untied * untied.T), out=np.full(shared.shape, np.nan), where=possible)


def _similar_side_by_side(tau: pd.DataFrame) -> list[str]:
    """Metrics so that similar ones are neighbours, the headline in the first half."""
    labels = tau.index.tolist()
    if len(labels) < 3:
        return labels
    distance = 1 - tau.fillna(0).to_numpy()
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    order = [labels[i] for i in leaves_list(tree)]
    head = [i for i, label in enumerate(order) if label.split(" ")[0] == HEADLINE]
    return order[::-1] if head and head[0] > (len(order) - 1) / 2 else order


def _draw_agreement(ax: Axes, panel: _Agreement, scale: Normalize) -> None:
    tau = panel.tau.to_numpy()
    ax.pcolormesh(np.ma.masked_invalid(tau), cmap=COLOURS, norm=scale, edgecolors="white", lw=0.6)
    for (y, x), v in np.ndenumerate(tau):
        text = "" if np.isnan(v) else bare(v)
        ax.text(x + 0.5, y + 0.52, text, ha="center", va="center", fontsize=TINY)
    marked = [f"{label} ✗" if label in panel.fails else label for label in panel.tau.index]
    n = tau.shape[1]
    label_axes(ax, marked, marked[:n], 20, size=SMALL, rotation=90)
    for labels in (ax.get_yticklabels(), ax.get_xticklabels()):
        for i, label in enumerate(labels):
            label.set_color(GREY if i >= n or panel.tau.index[i] in panel.fails else "black")
    if n < len(tau):
        ax.plot([0, n], [n, n], color="black", lw=1.2, clip_on=False)
    ax.set_xlabel(panel.below, fontsize=SMALL, color="#595959", loc="left")
