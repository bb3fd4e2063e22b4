import numpy as np
import pandas as pd
import pytest

from trueshift.report.challenge import VCC_COLUMNS, vcc2025


def rows(model: str, mae: float, pds: float, overlap: float, split: str = "s") -> pd.DataFrame:
    """Two conditions, two seeds: the values given are the means."""
    made = []
    for metric, value in (("mae", mae), ("vcc2025_pds", pds), ("vcc2025_overlap", overlap)):
        for perturbation, shift in (("A", 0.05), ("B", -0.05)):
            for seed, noise in (("0", 0.01), ("1", -0.01)):
                made.append((split, model, seed, perturbation, metric, value + shift + noise))
    table = pd.DataFrame(made, columns=["split", "model", "seed", "perturbation", "metric", "value"])
    return table.assign(dataset="d", fold="1", variant="default", context="c", dose="1")


def test_scaled_parts_by_hand() -> None:
    table = vcc2025(
        pd.concat([rows("train_mean", 0.2, 0.5, 0.1), rows("good", 0.1, 0.75, 0.55), rows("bad", 0.4, 1, 0)])
    )
    assert table.columns.tolist() == VCC_COLUMNS
    table = table.set_index("model")
    assert table.index.tolist() == ["good", "bad", "train_mean"]
    np.testing.assert_allclose(table.loc["good", ["mae_scaled", "pds_scaled", "overlap_scaled"]].astype(float), 0.5)
    # an error twice the baseline's and a lower overlap are floored, so that a perfect part still pays
    np.testing.assert_allclose(
        table.loc["bad", ["mae_scaled", "pds_scaled", "overlap_scaled"]].astype(float), [0, 1, 0]
    )
    assert table["vcc2025"].tolist() == pytest.approx([0.5, 1 / 3, 0])


def test_without_baseline_or_parts_it_says_so() -> None:
    alone = vcc2025(pd.concat([rows("good", 0.1, 0.7, 0.5), rows("train_mean", 0.1, 0.7, 0.5, split="other")]))
    note = alone.set_index(["split", "model"])["note"]
    assert note["s", "good"] == "the baseline train_mean was not run"
    nothing = pd.concat([rows("train_mean", 0.1, 0.7, 0.5), rows("good", 0.1, 0.7, np.nan)])
    undefined = vcc2025(nothing).set_index("model")
    assert undefined.loc["good", "note"] == "a part is undefined everywhere"
    assert np.isnan(undefined.loc["good", "vcc2025"])
    assert vcc2025(rows("good", 0.1, 0.7, 0.5).assign(metric="mse")).empty
