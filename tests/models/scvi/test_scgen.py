import functools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("scvi")

from planted import HIDDEN, PERTURBATIONS, make_query, make_train, share_of_error

from trueshift.contract import ContractError, check_prediction
from trueshift.models.base import Query, Training
from trueshift.models.scgen import ScGen
from trueshift.models.scvi_compat import Scgen
from trueshift.models.scvi_training import gene_centre, labelled, seeded
from trueshift.tracking import Run

SMALL = {
    "n_hidden": 32,
    "n_latent": 8,
    "n_layers": 1,
    "epochs": 45,
    "batch_size": 64,
    "learning_rate": 0.02,
    "monitor": "validation_loss",
}


@functools.cache
def fitted(arithmetic: str = "shared") -> ScGen:
    return ScGen(seed=1, arithmetic=arithmetic, **SMALL).fit(Training(make_train()))


@pytest.mark.parametrize("arithmetic", ["all", "shared"])
def test_equals_the_predict_of_the_package(arithmetic: str) -> None:
    train = make_train()
    model = ScGen(seed=1, arithmetic=arithmetic, **SMALL)
    with seeded(model.seed):
        upstream = model.train_upstream(train, None)
    n = int((train.obs["context"] == "hidden").sum())
    query = make_query(train, [("hidden", "P0"), ("hidden", "P2")], n_cells=n)
    prediction = fitted(arithmetic).predict(Query(query))
    for perturbation in ("P0", "P2"):
        np.random.seed(model.seed)
        seen = {"context": ["A", "B", "C"]}
        expected, delta = upstream.predict(
            ctrl_key="control",
            stim_key=perturbation,
            adata_to_predict=upstream.adata[query.obs_names],
            restrict_arithmetic_to="all" if arithmetic == "all" else seen,
        )
        index = PERTURBATIONS.index(perturbation)
        np.testing.assert_allclose(fitted(arithmetic).deltas[index], delta, atol=2e-5)
        ours = prediction[(prediction.obs["perturbation"] == perturbation).to_numpy()].X
        np.testing.assert_allclose(np.sort(ours, axis=0), np.sort(expected.X, axis=0), atol=1e-4)


def test_one_context_is_not_balanced_as_in_the_package() -> None:
    train = make_train()
    train = train[((train.obs["perturbation"] != "P1") | (train.obs["context"] == "A")).to_numpy()].copy()
    model = ScGen(seed=2, arithmetic="shared", **{**SMALL, "epochs": 2})
    with seeded(model.seed):
        upstream = model.train_upstream(train, None)
    model.fit(Training(train))
    np.random.seed(model.seed)
    some = upstream.adata[:5]
    _, delta = upstream.predict("control", "P1", some, restrict_arithmetic_to={"context": ["A"]})
    np.testing.assert_allclose(model.deltas[1], delta, atol=2e-5)


def test_beats_no_change_in_contexts_seen_and_held_out() -> None:
    train = make_train()
    seen = make_query(train, [("A", "P0"), ("B", "P2")])
    held_out = make_query(train, HIDDEN)
    assert share_of_error(fitted().predict(Query(seen)), seen) < 0.3
    assert share_of_error(fitted().predict(Query(held_out)), held_out) < 0.5


def test_takes_as_many_cells_as_asked_in_the_order_asked() -> None:
    train = make_train()
    query = make_query(train, [("hidden", "P1"), ("A", "P0")])
    query.uns["conditions"]["n_cells"] = [500, 3]
    prediction = fitted().predict(Query(query))
    check_prediction(prediction, query, "prediction")
    assert (prediction.obs["perturbation"] == "P1").sum() == 500
    assert prediction.n_obs == 503
    few = prediction[(prediction.obs["context"] == "A").to_numpy()].X
    assert len(np.unique(few, axis=0)) == 3, "cells were taken twice though there are enough"


def test_refuses_what_it_was_never_shown() -> None:
    with pytest.raises(ContractError, match="perturbation P9"):
        fitted().predict(Query(make_query(make_train(), [("A", "P9")])))
    with pytest.raises(ContractError, match="genes"):
        fitted().predict(Query(make_query(make_train(), [("A", "P0")])[:, ::-1].copy()))
    with pytest.raises(ContractError, match="fit or load"):
        ScGen().predict(Query(make_query(make_train(), [("A", "P0")])))
    with pytest.raises(ContractError, match="arithmetic is one of all, shared"):
        ScGen(arithmetic="some").fit(Training(make_train()))


def test_saved_and_loaded_it_answers_the_same(tmp_path: Path) -> None:
    query = make_query(make_train(), HIDDEN)
    fitted().save(tmp_path)
    loaded = ScGen(seed=1, arithmetic="shared", **SMALL).load(tmp_path)
    assert np.array_equal(loaded.predict(Query(query)).X, fitted().predict(Query(query)).X)
    with pytest.raises(ContractError, match="weights of another size"):
        ScGen(**{**SMALL, "n_hidden": 16}).load(tmp_path)


def test_the_package_loads_what_was_saved_and_so_does_torch_without_pickled_code(tmp_path: Path) -> None:
    train = make_train()
    model = ScGen(seed=1, **SMALL)
    with seeded(model.seed):
        upstream = model.train_upstream(train, None)
    fitted().save(tmp_path)
    torch.load(tmp_path / "model.pt", weights_only=True)
    loaded = Scgen.load(str(tmp_path), labelled(train, ["perturbation", "context"], gene_centre(train)))
    latent = loaded.get_latent_representation()
    np.testing.assert_allclose(latent, upstream.get_latent_representation(), atol=1e-5)
    (tmp_path / "again").mkdir()
    for again in (ScGen(seed=1, **SMALL).load(tmp_path), model.fit(Training(train))):
        again.save(tmp_path / "again")
        assert (tmp_path / "again/model.pt").read_bytes() == (tmp_path / "model.pt").read_bytes()

    # what the package writes by itself is not read so: when it is, Scgen.saved is no longer needed
    upstream.save(str(tmp_path / "own"))
    with pytest.raises(pickle.UnpicklingError, match="Unsupported global"):
        torch.load(tmp_path / "own/model.pt", weights_only=True)


def test_validation_cells_end_the_training_and_are_not_trained_on(capsys: pytest.CaptureFixture) -> None:
    settings = {**SMALL, "epochs": 40, "patience": 2, "monitor": "elbo_validation"}
    train = make_train()
    ScGen(**settings).fit(Training(train), run=Run())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert "val_elbo" in lines[0]
    assert len(lines) < 40, "no early stop"
    with seeded(0):
        upstream = ScGen(**{**settings, "epochs": 1}).train_upstream(train, None)
    assert set(upstream.train_indices) == set(np.flatnonzero(train.obs["role"] != "val"))
    ScGen(**{**settings, "epochs": 12}).fit(Training(make_train(validation=False)), run=Run())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) == 12
    assert "val" not in "".join(lines)


@pytest.mark.parametrize("name", ["ScGen", "Biolord"])
def test_two_processes_agree_and_leave_nothing_behind(name: str, tmp_path: Path) -> None:
    """The same seed in two processes; global generators, the working folder and stderr stay as they were."""
    settings = {
        "ScGen": {**SMALL, "epochs": 3},
        "Biolord": {"n_latent": 4, "decoder_width": 16, "decoder_depth": 1, "epochs": 3, "batch_size": 64},
    }[name]
    code = f"""
import json, random, sys
import numpy as np, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
from planted import HIDDEN, make_query, make_train
from trueshift.models.base import Query, Training
from trueshift.models.{name.lower()} import {name}
random.seed(5), np.random.seed(5), torch.manual_seed(5)
before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
train = make_train(cells=20)
model = {name}(seed=4, **json.loads({json.dumps(settings)!r})).fit(Training(train))
values = model.predict(Query(make_query(train, HIDDEN))).X
assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()), "state changed"
print(values.tobytes().hex())
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    how = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", code], **how) for _ in range(2)]
    outputs = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs[0][1]
    assert outputs[0][0] == outputs[1][0]
    assert outputs[0][0].count("\n") == 1, "the package writes to stdout"
    assert outputs[0][1] == ""
    assert list(tmp_path.iterdir()) == []
