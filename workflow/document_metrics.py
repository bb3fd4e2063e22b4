"""Writes the table of docs/metrics.md from the registry of metrics, so that the two cannot disagree: ``make docs``.

Needs the library's own packages (NumPy, pandas), so it runs in the test environment, not in the driver's.
"""

from document_config import ROOT, filled
from trueshift.evaluation.metric import Metric
from trueshift.evaluation.registry import METRICS

START, END = "<!-- metrics, written from src/trueshift/evaluation/metrics by make docs -->", "<!-- end of metrics -->"


def row(metric: Metric) -> str:
    """One metric as a line of the table."""
    low, high = ("−∞" if b < -1e9 else "∞" if b > 1e9 else f"{b:g}".replace("-", "−") for b in metric.bounds)
    cells = [f"`{metric.name}`", metric.formula, f"{low} … {high}", metric.direction]
    cells += [
        ", ".join(metric.needs),
        "yes" if metric.per_k else "",
        "" if metric.ranks else "shown only",
        metric.source,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table() -> str:
    """All metrics, in the order of the registry, as Markdown."""
    head = [
        "| metric | formula | from … to | better | needs | per k | ranks | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *map(row, METRICS.values()), ""])


def written(page: str) -> str:
    """docs/metrics.md as it should be, from docs/metrics.md as it is."""
    return filled(page, START, END, table())


def main() -> None:
    """Writes the page anew."""
    page = ROOT / "docs/metrics.md"
    page.write_text(written(page.read_text()))


if __name__ == "__main__":
    main()
