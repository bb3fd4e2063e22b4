"""What a run says at its start of the models that were asked for and are left out."""

from collections.abc import Sequence
from typing import Any

LINES = 20  # reasons that are printed; the table exclusions.csv has all


def left_out(exclusions: Sequence[dict[str, Any]]) -> str:
    """A line for each reason, with the splits it holds for; empty if nothing is left out."""
    splits: dict[str, list[str]] = {}
    for row in exclusions:
        splits.setdefault(row["reason"], []).append(f"{row['dataset']}/{row['split']}")
    lines = [f"  {reason}: {', '.join(dict.fromkeys(where))}" for reason, where in splits.items()]
    more = [f"  … and {len(lines) - LINES} more reasons, see exclusions.csv"] if len(lines) > LINES else []
    return "\n".join(["left out:", *lines[:LINES], *more]) if lines else ""
