"""The table of kinds of data: every field is described, and no other module tests a kind by its name."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import anndata as ad
import pytest

import trueshift
from trueshift.contract import ContractError, kind_of
from trueshift.kinds import KINDS, Kind, is_dense

LIBRARY = Path(trueshift.__file__).parent
# What else has the name of a kind: the layer of counts, and a prediction whose output is a profile.
OTHERS = {"counts": "layers", "profile": "output"}


def test_every_field_has_a_line() -> None:
    described = re.findall(r"^ *- ``(\w+)``: .+$", Kind.__doc__ or "", re.M)
    assert described == [field.name for field in fields(Kind)]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_rows_do_not_contradict_themselves(kind: Kind) -> None:
    assert kind.enough_controls >= kind.min_controls >= 1
    assert not (kind.raw_counts and kind.dense), "counts are stored sparse"
    assert kind.log1p or not kind.raw_counts, "counts are normalised to log1p"
    assert not (kind.log1p and kind.differential)


def test_a_kind_is_found_by_its_name() -> None:
    adata = ad.AnnData(uns={"trueshift": {"kind": "lognorm"}})
    assert kind_of(adata) is KINDS["lognorm"]
    adata.uns["trueshift"]["kind"] = "tpm"
    with pytest.raises(ContractError, match="tpm"):
        kind_of(adata)
    assert [is_dense(name) for name in (*KINDS, "tpm", None, ["counts"])] == [False, False, True, True, *[False] * 3]


def test_no_other_module_names_a_kind() -> None:
    """A test of a kind's name would be missed by a new kind: what it asks belongs into a field of the table."""
    found = []
    for file in sorted(LIBRARY.rglob("*.py")):
        text = file.read_text()
        lines, nodes = text.splitlines(), list(ast.walk(ast.parse(text)))
        parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            if isinstance(node, ast.Constant) and node.value in KINDS and id(node) not in parts:
                line = lines[node.lineno - 1]
                if OTHERS.get(node.value, "\n") not in line:
                    found.append((str(file.relative_to(LIBRARY)), line.strip()))
    assert {file for file, _ in found} == {"kinds.py"}, found
