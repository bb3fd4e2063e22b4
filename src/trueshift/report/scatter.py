"""The effect that one prediction gives against the true one, gene by gene."""

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trueshift.contract import CONDITION, ContractError, unanswered
from trueshift.evaluation.pair import Pair
from trueshift.evaluation.predicted import Predicted
from trueshift.evaluation.reference import condition_rows, pseudobulks
from trueshift.evaluation.scoring import make_pair, score_pair
from trueshift.evaluation.truth import Truth
from trueshift.report.style import (
    BLUE,
    SMALL,
    TEXT,
    WIDTH,
    add_legend,
    condition_names,
    empty,
    number,
    short,
    title_panel,
)
from trueshift.report.tables import HEADLINE_K
from trueshift.results import HEADLINE

CONDITIONS = 12
TOP = int(HEADLINE_K)
NAMED = 5
MOST_POINTS = 5000  # beyond, genes are counted in hexagons
_CLOUD = "#b8b8b8"
_HEXAGONS = ListedColormap(mpl.colormaps["Greys"](np.linspace(0.15, 0.6, 256)))
_COLUMNS = 3
_MARGINS = (0.65, 0.08, 0.42, 0.28)  # of a panel, inches: left, right, above, below
_TURNS = np.deg2rad([0, 22, -22, 45, -45, 67, -67, 90, -90, 112, -112, 135, -135, 157, -157, 180])


def predicted_profiles(prediction: ad.AnnData, truth: Truth) -> np.ndarray:
    """x̂ of each condition of ``truth``: the profile or the mean of its cells, (C, G), float64.

    Conditions are matched by name; one that the prediction leaves unanswered has NaN. Raises :class:`ContractError` if
    conditions or genes are not those of the truth.
    """
    if prediction.var_names.tolist() != truth.genes.tolist():
        raise ContractError("prediction: its genes are not those of the truth, in the same order; predict again")
    codes = condition_rows(prediction.obs, truth.conditions, "prediction", unanswered(prediction))
    return pseudobulks(prediction.X, codes, len(truth.conditions))


def plot_scatter(
    truth: Truth, x_hat: np.ndarray, title: str, conditions: int = CONDITIONS, left_out: np.ndarray | None = None
) -> Figure:
    """δ̂ = x̂ − c_in against δ = x − c_ref of every gene, one panel per condition.

    ``x_hat`` (C, G) has the rows of ``truth``. Drawn are the first ``conditions`` of them, those with most
    differentially expressed genes first. Coloured are the 20 genes that the top-k metrics look at, named the 5 of them
    with the largest |δ|. The scores in the corner are those of the tables.

    ``left_out`` (C,) says why a condition is unanswered, empty text where it is answered. The panel of an unanswered
    one shows the reason; its ``x_hat`` is not looked at.
    """
    reasons = np.full(len(truth.conditions), "", dtype=object) if left_out is None else left_out
    answered = reasons == ""
    if x_hat.shape != truth.mean.shape or not np.isfinite(x_hat[answered]).all():
        raise ContractError(f"prediction: not {truth.mean.shape} finite values, conditions × genes; predict again")
    if conditions < 1:
        raise ContractError(f"conditions: {conditions}; draw at least 1")
    n_deg = truth.conditions["n_deg"].astype("Float64").fillna(-1).to_numpy(float)
    drawn = np.argsort(-n_deg, kind="stable")[:conditions]
    names = condition_names(truth.conditions[CONDITION].astype(str))
    pair = make_pair(truth, Predicted(np.where(answered[:, None], x_hat, 0), left_out=reasons))
    scores = score_pair(pair, truth, {"metrics": [HEADLINE, "pearson_delta"], "k": [HEADLINE_K]})

    figure, axes, side = _grid(len(drawn))
    for ax, i in zip(axes, drawn, strict=True):
        degs = "no test for DEGs" if n_deg[i] < 0 else f"{n_deg[i]:.0f} DEG{'s' if n_deg[i] != 1 else ''}"
        title_panel(ax, names[i], degs, TEXT)
        if reasons[i]:
            empty(ax, f"unanswered: {reasons[i]}")
            continue
        _draw_condition(ax, pair, i, truth.genes, _corner(scores.iloc[2 * i : 2 * i + 2]), side * 72)
    total = len(truth.conditions)
    note = f"\n{len(drawn)} of {total} conditions, those with most DEGs" if len(drawn) < total else ""
    top = 1 - 0.1 / figure.get_figheight()
    figure.suptitle(title + note, fontsize=9, x=0.1 / figure.get_figwidth(), y=top, ha="left", va="top")
    handles = [
        Line2D([], [], color=BLUE, marker="o", ms=4, ls="", label=f"top {TOP} genes of the truth"),
        Line2D([], [], color=_CLOUD, marker="o", ms=4, ls="", label="all other genes"),
        Line2D([], [], color="black", lw=0.8, ls="--", label="predicted = true"),
    ]
    add_legend(figure, handles)
    return figure


def _grid(n: int) -> tuple[Figure, list[Axes], float]:
    """Square axes, up to three a line, with their side in inches: known beforehand, so that names can be placed."""
    columns = min(n, _COLUMNS)
    lines = -(-n // columns)
    left, right, above, below = _MARGINS
    across = WIDTH / max(columns, 2)
    side = across - left - right
    down = above + side + below
    width, height = across * columns, 0.4 + down * lines + 0.5
    figure, axes = Figure(figsize=(width, height)), []
    for i in range(n):
        line, column = divmod(i, columns)
        bottom = height - 0.4 - line * down - above - side
        box = ((column * across + left) / width, bottom / height, side / width, side / height)
        axes.append(figure.add_axes(box))
        if i + columns >= n:
            axes[-1].set_xlabel(r"true effect $\delta$", fontsize=TEXT)
        if not column:
            axes[-1].set_ylabel(r"predicted effect $\hat{\delta}$", fontsize=TEXT)
    return figure, axes, side


def _corner(scores: pd.DataFrame) -> str:
    """The scores of a condition, or why they are undefined."""
    names = scores["metric"] + scores["k"].map(lambda k: f" ({k})" if k else "")
    found = zip(names, scores["value"], scores["reason"], strict=True)
    return "\n".join(f"{name}: {reason}" if reason else f"{name} = {number(value)}" for name, value, reason in found)


def _draw_condition(ax: Axes, pair: Pair, i: int, genes: np.ndarray, corner: str, side: float) -> None:
    x, y = pair.delta[i], pair.delta_hat[i]
    if not np.isfinite(x + y).all():
        empty(ax, "no controls: effects are undefined")
        return
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    margin = 0.06 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    ax.set(xlim=limits, ylim=limits)
    ax.locator_params(nbins=5)
    ax.tick_params(labelsize=SMALL, length=2)
    ax.axhline(0, color="#d9d9d9", lw=0.8, zorder=0)
    ax.axvline(0, color="#d9d9d9", lw=0.8, zorder=0)
    top = pair.order[i, :TOP]
    rest = np.setdiff1d(np.arange(len(x)), top)
    if len(rest) > MOST_POINTS:
        ax.hexbin(x[rest], y[rest], gridsize=60, extent=(*limits, *limits), mincnt=1, bins="log", cmap=_HEXAGONS, lw=0)
    else:
        ax.plot(x[rest], y[rest], "o", ms=2.2, color=_CLOUD, mew=0)
    ax.plot(limits, limits, color="black", lw=0.8, ls="--")
    ax.plot(x[top], y[top], "o", ms=3.6, color=BLUE, mew=0, zorder=3)
    halo = {"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.5}
    ax.text(4 / side, 1 - 4 / side, corner, transform=ax.transAxes, va="top", fontsize=SMALL, bbox=halo, zorder=4)

    named = top[np.argsort(-np.abs(x[top]), kind="stable")[:NAMED]]
    texts = [short(str(gene), 18) for gene in genes[named]]
    points = (np.stack([x, y], axis=1) - limits[0]) / (limits[1] - limits[0]) * side
    away = np.arctan2(y[named], x[named])
    places = _free_places(points[named], away, texts, points[top], corner, side)
    for gene, text, place in zip(named, texts, places, strict=True):
        ax.annotate(
            text,
            xy=(x[gene], y[gene]),
            xytext=tuple(place),
            textcoords="axes points",
            ha="center",
            va="center",
            fontsize=SMALL,
            color=BLUE,
            bbox=halo,
            arrowprops={"arrowstyle": "-", "color": BLUE, "alpha": 0.6, "lw": 0.5, "shrinkA": 0, "shrinkB": 2},
            zorder=4,
        )


def _free_places(
    points: np.ndarray, away: np.ndarray, texts: list[str], taken: np.ndarray, corner: str, side: float
) -> list[np.ndarray]:
    """Centres of the names of ``points`` in a square of this ``side``, all in typographic points.

    As near as there is room, in the direction ``away`` from the cloud if possible; over neither the coloured points
    ``taken`` nor other names nor the corner's text.
    """
    boxes = [(point, np.array([2.5, 2.5])) for point in taken]  # centre, half of width and height
    half = _half(max(corner.split("\n"), key=len), lines=2)
    boxes.append((np.array([half[0] + 4, side - half[1] - 4]), half))
    places = []
    for point, angle, text in zip(points, away, texts, strict=True):
        half = _half(text)
        best, least = point, np.inf
        for distance in range(3, 80, 5):
            for turn in _TURNS:
                direction = np.array([np.cos(angle + turn), np.sin(angle + turn)])
                # the box touches a circle around the point
                centre = point + direction * distance + np.sign(direction.round(6)) * half * np.abs(direction) ** 0.5
                if (centre < half + 1).any() or (centre > side - half - 1).any():
                    continue
                covered = sum(_overlap(centre, half, *box) for box in boxes)
                if covered < least:
                    best, least = centre, covered
                if not covered:
                    break
            if not least:
                break
        boxes.append((best, half))
        places.append(best)
    return places


def _half(text: str, lines: int = 1) -> np.ndarray:
    """Half of the width and height of small text."""
    return np.array([0.33 * len(text) + 0.2, 0.65 * lines]) * SMALL


def _overlap(centre: np.ndarray, half: np.ndarray, other: np.ndarray, other_half: np.ndarray) -> float:
    return float(np.prod(np.clip(half + other_half - np.abs(centre - other), 0, None)))
