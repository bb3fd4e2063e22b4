"""The arrays of an export against the files they come from."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from trueshift.contract import ContractError, make_prediction
from trueshift.report.export import sample_arrays, write_arrays

GENES = [f"G{i}" for i in range(6)]
TESTS = [("B", "P", "1"), ("A", "Q", "1"), ("A", "P", "10"), ("A", "Q", "1")]  # mixed: one row per sample


def truth_file(paired=False, dense=False):
    rng = np.random.default_rng(0)
    obs = [("control_input", "A", "control", "0")] * 3 + [("control_input", "B", "control", "0")] * 2
    obs += [("control_reference", "A", "control", "0")] * 2 + [("test", *condition) for condition in TESTS]
    matrix = rng.normal(size=(len(obs), len(GENES))).astype(np.float32)
    table = pd.DataFrame(sorted(set(TESTS)), columns=["context", "perturbation", "dose"])
    table = table.assign(modality="drug", n_cells=[1, 2, 1], n_seen=0)
    if paired:
        table = table.assign(control_id=["s2", "s0\ts1", "s4"], context_seen=True)
    return ad.AnnData(
        matrix if dense else sparse.csr_matrix(matrix),
        obs=pd.DataFrame(
            obs, columns=["role", "context", "perturbation", "dose"], index=[f"s{i}" for i in range(len(obs))]
        ).astype("category"),
        var=pd.DataFrame(index=GENES),
        uns={"conditions": table, "trueshift": {"schema_version": 1, "kind": "profile"}},
    )


PROFILES = np.arange(18, dtype=np.float32).reshape(3, 6)  # of A P 10, A Q 1, B P 1: sorted, as asked


@pytest.mark.parametrize("dense", [True, False])
def test_rows_are_samples_in_the_order_of_the_truth(dense):
    truth = truth_file(dense=dense)
    found = sample_arrays(make_prediction(truth, PROFILES), truth)
    assert list(found)[:5] == ["predictions", "treated_test", "diseased_test", "sample_ids", "gene_names"]
    np.testing.assert_array_equal(found["predictions"], PROFILES[[2, 1, 0, 1]])
    matrix = np.asarray(truth.to_df())
    np.testing.assert_array_equal(found["treated_test"], matrix[7:])
    of_a, of_b = matrix[:3].mean(axis=0), matrix[3:5].mean(axis=0)
    np.testing.assert_allclose(found["diseased_test"], [of_b, of_a, of_a, of_a], rtol=1e-6)
    assert found["sample_ids"].tolist() == ["s7", "s8", "s9", "s10"]
    assert found["gene_names"].tolist() == GENES
    assert list(zip(found["context"], found["perturbation"], found["dose"], strict=True)) == TESTS
    assert found["unanswered_ids"].tolist() == []


def test_paired_profiles_have_their_own_controls():
    truth = truth_file(paired=True)
    found = sample_arrays(make_prediction(truth, PROFILES), truth)
    matrix = np.asarray(truth.to_df())
    own = [matrix[4], matrix[:2].mean(axis=0), matrix[2], matrix[:2].mean(axis=0)]
    np.testing.assert_allclose(found["diseased_test"], own, rtol=1e-6)


def test_predicted_cells_are_averaged():
    truth = truth_file()
    cells = np.repeat(PROFILES, 2, axis=0) + np.tile([[-1.0], [1.0]], (3, 1)).astype(np.float32)
    found = sample_arrays(make_prediction(truth, cells, np.repeat(np.arange(3), 2)), truth)
    np.testing.assert_allclose(found["predictions"], PROFILES[[2, 1, 0, 1]])


def unanswering(truth, left):
    prediction = make_prediction(truth, PROFILES)
    gone = prediction.obs["perturbation"].isin(left).to_numpy()
    table = prediction.obs.loc[gone].assign(reason="no features").reset_index(drop=True)
    prediction = prediction[~gone].copy()
    prediction.uns["unanswered"] = table
    return prediction


def test_samples_of_conditions_left_unanswered_are_listed_and_not_exported():
    truth = truth_file()
    found = sample_arrays(unanswering(truth, ["Q"]), truth)
    assert found["unanswered_ids"].tolist() == ["s8", "s10"]
    assert found["sample_ids"].tolist() == ["s7", "s9"]
    np.testing.assert_array_equal(found["predictions"], PROFILES[[2, 0]])
    assert found["treated_test"].shape == found["diseased_test"].shape == (2, 6)
    none = sample_arrays(unanswering(truth, ["P", "Q"]), truth)
    assert none["predictions"].shape == (0, 6)
    assert len(none["unanswered_ids"]) == 4


def test_what_is_written_needs_no_pickle_and_comes_back(tmp_path):
    truth = truth_file()
    arrays = sample_arrays(make_prediction(truth, PROFILES), truth)
    write_arrays(arrays, tmp_path / "prediction.npz")
    with np.load(tmp_path / "prediction.npz", allow_pickle=False) as file:
        assert all(file[name].dtype.kind in "fU" for name in file.files)
        assert {file[name].dtype.name for name in ("predictions", "treated_test", "diseased_test")} == {"float32"}
        back = {name: file[name] for name in file.files}
    assert list(back) == list(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(back[name], values)


def test_other_genes_and_missing_conditions_are_refused():
    truth = truth_file()
    prediction = make_prediction(truth, PROFILES)
    with pytest.raises(ContractError, match="genes are not those of the truth"):
        sample_arrays(prediction[:, ::-1].copy(), truth)
    with pytest.raises(ContractError, match=r"A \| Q \| 1 was asked for but has no rows"):
        sample_arrays(prediction[[0, 2]].copy(), truth)
