"""The schema, the registry of metrics and the tables written from them say the same."""

import re

import pytest
from project import ROOT

import document_config
import document_metrics
from code_hash import Code
from schema import config_schema
from trueshift.evaluation.metric import K
from trueshift.evaluation.registry import METRICS
from trueshift.kinds import KINDS

SCHEMA = config_schema(Code(ROOT))
EVALUATION = SCHEMA["properties"]["evaluation"]["properties"]


def test_the_schema_has_the_metrics_of_the_registry():
    assert sorted(EVALUATION["metrics"]["items"]["enum"]) == sorted(METRICS)


def test_the_schema_has_the_k_of_the_registry():
    assert [str(k) for k in EVALUATION["k"]["items"]["enum"]] == list(K)


def test_the_schema_has_the_kinds_of_the_table():
    definitions = SCHEMA["$defs"]
    assert definitions["dataset"]["properties"]["kind"]["enum"] == list(KINDS)
    assert definitions["model"]["properties"]["kinds"]["items"]["enum"] == list(KINDS)


def test_the_schema_has_the_rules_of_the_workflow():
    rules = {name for file in ROOT.glob("rules/*.smk") for name in re.findall(r"^rule (\w+):", file.read_text(), re.M)}
    bookable = SCHEMA["properties"]["resources"]["propertyNames"]["enum"]
    assert sorted(bookable) == sorted({*rules, "every"})


@pytest.mark.parametrize(
    ("page", "written"),
    [
        ("config/README.md", document_config.written),
        ("docs/parameters.md", document_config.of_models),
        ("docs/metrics.md", document_metrics.written),
    ],
)
def test_the_written_tables_are_current(page, written):
    text = (ROOT / page).read_text()
    assert text == written(text), f"{page} is not current: run make docs"


def test_every_key_is_described():
    definitions = SCHEMA["$defs"]
    rows = list(document_config.rows(SCHEMA, definitions))
    rows += [row for _, entries in document_config.shared(definitions) for row in entries]
    assert len(rows) > 60
    assert not [key for key, _, _, meaning in rows if not meaning]
    assert not [key for key, value, _, _ in rows if not value]


def test_a_stale_table_is_noticed():
    page = (ROOT / "docs/metrics.md").read_text()
    stale = document_metrics.filled(page, document_metrics.START, document_metrics.END, "| an old table |\n")
    assert document_metrics.written(stale) == page != stale
