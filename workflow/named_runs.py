"""Tables and figures of several runs beside one another: what a run would replace."""

import csv
from pathlib import Path

from plan import Plan

SHOWN = 3  # lines of a table that a message names


def replaced(plan: Plan) -> str:
    """What the tables hold that this run would take out of them, in one line; empty where it takes nothing out."""
    table = Path(plan.table("topk_r2_wide.csv"))
    if not table.exists():
        return ""
    with table.open(newline="") as file:
        there = {tuple(row[name] for name in ("dataset", "split", "model", "variant")) for row in csv.DictReader(file)}
    lost = sorted(there - {(chain.dataset, chain.split, chain.model, chain.variant) for chain in plan.chains})
    if not lost:
        return ""
    named = ", ".join("/".join(line) for line in lost[:SHOWN]) + (", …" if len(lost) > SHOWN else "")
    return (
        f"{table.parent}: this run replaces the tables of another selection; {len(lost)} of their lines are not in "
        f"this one: {named}. To keep both, stop it and give it a name, as in run: {{name: mine}}: its tables and "
        "figures then go to results/runs/mine"
    )
