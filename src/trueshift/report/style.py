"""What all figures share: colours, sizes, names, small parts of axes, and how a figure is written."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trueshift.contract import CONDITION, atomic
from trueshift.report.tables import HEADLINE_K
from trueshift.results import natural

LIMITS = (-1.0, 1.2)
GREY, BLUE, FLOOR, CEILING = "#6e6e6e", "#0072B2", "#D55E00", "#009E73"  # Okabe-Ito: safe for the colour-blind
WIDTH = 9.0  # inches: 8-point text is 11 pixels high where the figure is shown 900 pixels wide
SMALL, TEXT = 7, 8


def save(figure: Figure, path: str | Path) -> None:
    """Writes a PNG atomically; the same figure gives the same bytes."""
    with atomic(path, sealed=False) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def named(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds ``name``: the model, with its variant unless that is the default."""
    default = rows["variant"].isin(["default", ""])
    return rows.assign(name=rows["model"].where(default, rows["model"] + " " + rows["variant"]))


def main_k(ks: pd.Series) -> str:
    """The k that a figure is about: 20, or the smallest of ``ks`` (text) if 20 is not among them."""
    return HEADLINE_K if (ks == HEADLINE_K).any() else min(ks, key=natural)


def panels_of(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each dataset × split, with the title of its panel."""
    for (dataset, split), part in rows.groupby(["dataset", "split"]):
        yield f"{dataset} · {split}", part


def condition_names(conditions: pd.DataFrame) -> list[str]:
    """One text of up to 32 letters per row, of those among context, perturbation and dose that vary."""
    varying = [c for c in CONDITION if conditions[c].nunique() > 1] or ["perturbation"]
    names = []
    for row in conditions[varying].itertuples(index=False):
        parts = list(row)
        longest = max(range(len(parts)), key=lambda i: len(parts[i]))
        rest = len(" · ".join(parts)) - len(parts[longest])
        parts[longest] = short(parts[longest], max(32 - rest, 8))
        names.append(short(" · ".join(parts)))
    return names


def title_panel(ax: Axes, title: str, note: str, size: int = 9) -> None:
    """A title in bold and, below it, a note in small print."""
    ax.set_title(title, fontsize=size, fontweight="bold", loc="left", pad=16)
    ax.annotate(note, (0, 1), (0, 4), "axes fraction", "offset points", fontsize=SMALL, color="#595959")


def add_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend of the whole figure, at its lower edge."""
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)


def empty(ax: Axes, text: str) -> None:
    """Says why a panel is empty."""
    ax.set(xticks=[], yticks=[], facecolor="#f7f7f7")
    ax.spines[:].set_color("#d9d9d9")
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=TEXT, style="italic")


def colour_of(model: str, baselines: Collection[str]) -> str:
    """Grey for baselines, blue for all others."""
    return GREY if model in baselines else BLUE


def colour_labels(ax: Axes, models: Sequence[str], baselines: Collection[str]) -> None:
    """Colours the labels of the y axis, which name ``models``."""
    for label, model in zip(ax.get_yticklabels(), models, strict=True):
        label.set_color(colour_of(model, baselines))


def span(column: pd.Series) -> str:
    """Least and greatest of whole numbers: ``12`` or ``9–12``."""
    low, high = column.min(), column.max()
    return f"{high:.0f}" if low == high else f"{low:.0f}–{high:.0f}"


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign, none before 0."""
    return f"{value:z.{digits}f}".replace("-", "−")


def short(text: str, most: int = 32) -> str:
    """``text``, cut where it is longer than ``most``."""
    return text if len(text) <= most else text[: most - 1] + "…"


def spread(wanted: np.ndarray, gap: float) -> np.ndarray:
    """The positions nearest to ``wanted`` (ascending, in 0…1) that are ``gap`` apart; those that collide fan out."""
    groups: list[list[float]] = []  # [sum of wanted first positions, members]
    for i, value in enumerate(wanted):
        groups.append([value - i * gap, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] >= groups[-1][0] / groups[-1][1]:
            total, members = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += members
    base = np.repeat([total / members for total, members in groups], [int(members) for _, members in groups])
    return np.clip(base, gap / 2, 1 - gap * (len(wanted) - 0.5)) + gap * np.arange(len(wanted))
