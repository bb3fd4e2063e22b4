"""Doses whose text holds a plus of its own: every reader splits ``1e+12+2`` into 1e+12 and 2.

That of chemCPA, which needs torch, is tested in tests/models/torch.
"""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from trueshift.contract import CONDITION, component_doses, make_prediction
from trueshift.data.canonical.canonicalise import canonicalise
from trueshift.evaluation.external import adopt
from trueshift.models.additive import Additive
from trueshift.models.base import Query, Training, total_dose

LARGE, BOTH = "1e+12", "1e+12+2"


def screen(rows: list[tuple[str, str, list[float]]]) -> ad.AnnData:
    """One cell of each row (perturbation, dose, expression), all in one context."""
    obs = pd.DataFrame(
        [row[:2] for row in rows], columns=["perturbation", "dose"], index=[str(i) for i in range(len(rows))]
    )
    obs = obs.assign(context="x", is_control=obs["perturbation"] == "control")
    uns = {"trueshift": {"kind": "lognorm", "normalization": "log1p of counts scaled to 10000 per cell by its total"}}
    return ad.AnnData(np.array([row[2] for row in rows], np.float32), obs, pd.DataFrame(index=["g0", "g1"]), uns=uns)


def question(train: ad.AnnData) -> ad.AnnData:
    """The controls of ``train``, asked for A at 1e+12 and for A+B at 1e+12 and 2."""
    query = train[train.obs["is_control"].to_numpy()].copy()
    conditions = pd.DataFrame([("x", "A", LARGE), ("x", "A+B", BOTH)], columns=CONDITION)
    query.uns["conditions"] = conditions.assign(modality="drug", n_cells=2, n_seen=1)
    return query


TRAIN = screen(
    [
        ("control", "0", [1, 1]),
        ("A", LARGE, [3, 1]),
        ("A", "12", [9, 9]),
        ("B", "2", [1, 5]),
        ("B", "1", [9, 9]),
    ]
)


@pytest.mark.parametrize(("dose", "parts"), [(LARGE, [LARGE]), (BOTH, [LARGE, "2"]), ("2+1E+12", ["2", "1E+12"])])
def test_the_plus_of_an_exponent_joins_nothing(dose: str, parts: list[str]) -> None:
    assert component_doses(dose) == parts


def test_doses_are_summed() -> None:
    assert total_dose(pd.Series([LARGE, BOTH])).tolist() == [1e12, 1e12 + 2]


def test_additive_takes_the_effect_at_the_dose_asked() -> None:
    predicted = Additive().fit(Training(TRAIN)).predict(Query(question(TRAIN))).X
    np.testing.assert_allclose(predicted, [[3, 1], [3, 5]])


def test_what_others_predicted_is_matched() -> None:
    query = question(TRAIN)
    theirs = make_prediction(query, np.array([[1, 1.5], [1.5, 1]]))
    theirs.obs["perturbation"], theirs.obs["dose"] = ["A", "B+A"], ["1e12", "2+1e+12"]
    adopted, _ = adopt(theirs, query, {}, "1", "theirs.h5ad")
    assert adopted.obs["dose"].tolist() == [LARGE, BOTH]
    np.testing.assert_array_equal(adopted.X, theirs.X)


def test_the_import_reads_and_writes_them() -> None:
    raw = ad.AnnData(
        np.ones((4, 2), np.float32),
        pd.DataFrame(
            {"guide": ["NT", "A", "A+B", "B+A"], "amount": ["0", "1e12", BOTH, "2+1E+12"]}, index=list("abcd")
        ),
        pd.DataFrame(index=["g0", "g1"]),
    )
    columns = {"perturbation": {"from": "guide", "control": "NT"}, "dose": "amount", "context": {"value": "x"}}
    settings = {"kind": "counts", "columns": {**columns, "modality": {"value": "drug"}}}
    data = canonicalise(raw, "toy", settings, {"source": "a test", "checksum": "sha256:0"})
    assert data.obs["dose"].tolist() == ["0", LARGE, BOTH, BOTH]
