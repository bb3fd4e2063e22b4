"""train.py and predict.py as a rule runs them: files in, files out, one line for a user's mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from running import listed
from scipy import sparse

from trueshift.contract import Pairs, check_prediction, read_h5ad, unanswered, write_h5ad, write_pairs

ROOT = Path(__file__).parents[2]
SETTINGS = {"class": "trueshift.models.mean_shift.MeanShift", "params": {}}


def script(name: str, folder: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-P", ROOT / "workflow" / "scripts" / name, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{path}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def train(folder: Path, settings: dict, *more: str, tracking: str = "disabled", path: str = ""):
    arguments = ["--train", "train.h5ad", "--settings", json.dumps(settings), "--seed", "3"]
    arguments += ["--tracking", json.dumps({"wandb": tracking, "project": "p"}), "--resume", "run/resume"]
    return script("train.py", folder, *arguments, "--out", "run/model", "--cost", "run/cost.json", *more, path=path)


def predict(folder: Path, settings: dict, path: str = ""):
    arguments = ["--model", "run/model", "--query", "query.h5ad", "--settings", json.dumps(settings), "--seed", "3"]
    return script("predict.py", folder, *arguments, "--out", "prediction.h5ad", "--cost", "predict.json", path=path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"perturbation": ["control"] * 4 + ["A"] * 4, "context": list("aabbaabb")})
    obs.index = pd.Index([f"c{i}" for i in range(8)])
    obs["dose"] = ["0"] * 4 + ["1"] * 4
    obs["batch"], obs["modality"], obs["is_control"] = "b", "KO", obs["perturbation"] == "control"
    obs["role"] = np.where(obs["is_control"], "control_input", "train")
    values = sparse.csr_matrix(rng.uniform(0, 2, (8, 3)).astype(np.float32))
    data = ad.AnnData(values, obs, pd.DataFrame(index=["g0", "g1", "g2"]), uns={"trueshift": {"kind": "lognorm"}})
    write_h5ad(data, tmp_path / "train.h5ad")
    query = data[:4].copy()
    conditions = pd.DataFrame([("a", "A", "1", "KO", 5, 1), ("b", "A", "1", "KO", 5, 1)])
    conditions.columns = ["context", "perturbation", "dose", "modality", "n_cells", "n_seen"]
    query.uns["conditions"] = conditions
    write_h5ad(query, tmp_path / "query.h5ad")
    return tmp_path


def test_train_then_predict(folder):
    done = train(folder, SETTINGS, tracking="offline")
    assert done.returncode == 0, done.stderr
    assert listed(folder / "run") == ["cost.json", "model"], "an equation has no curve to track"
    done = predict(folder, SETTINGS)
    assert done.returncode == 0, done.stderr
    query, prediction = read_h5ad(folder / "query.h5ad"), read_h5ad(folder / "prediction.h5ad")
    check_prediction(prediction, query, "prediction.h5ad")
    X = read_h5ad(folder / "train.h5ad").X.toarray()
    shift = (X[4:6].mean(axis=0) - X[0:2].mean(axis=0) + X[6:8].mean(axis=0) - X[2:4].mean(axis=0)) / 2
    np.testing.assert_allclose(prediction.X, [X[0:2].mean(axis=0) + shift, X[2:4].mean(axis=0) + shift], rtol=1e-5)
    for name, stage in (("run/cost.json", "train"), ("predict.json", "predict")):
        assert json.loads((folder / name).read_text())["stage"] == stage


def test_perturbations_without_features_are_left_out_and_declared(folder):
    features = {"f": pd.DataFrame({"f0": [1.0]}, index=["A"])}
    data, query = read_h5ad(folder / "train.h5ad"), read_h5ad(folder / "query.h5ad")
    data.obs["perturbation"] = ["control"] * 4 + ["A", "B"] * 2
    query.uns["conditions"] = query.uns["conditions"].assign(perturbation=["A", "B"])
    for part, name in ((data, "train"), (query, "query")):
        part.uns["perturbation_features"] = features
        write_h5ad(part, folder / f"{name}.h5ad")
    settings = {"class": "trueshift.models.knn_features.KnnFeatures", "params": {"features": "f", "k": 1}}
    assert "perturbation B has no row in perturbation features f" in train(folder, settings).stderr
    settings["needs"] = ["features"]
    done = train(folder, settings)
    assert done.returncode == 0, done.stderr
    assert "left out of training, without features f: 1 of 3 perturbations, 2 of 8 rows; such as B" in done.stdout
    done = predict(folder, settings)
    assert done.returncode == 0, done.stderr
    assert "not asked of the model, without features f: 1 of 2 conditions" in done.stdout
    prediction = read_h5ad(folder / "prediction.h5ad")
    assert prediction.obs["perturbation"].tolist() == ["A"]
    assert unanswered(prediction).to_numpy().tolist() == [["b", "B", "1", "no features"]]


def test_a_training_that_learns_nothing_ends_well_and_every_condition_is_declared(folder):
    for name in ("train", "query"):
        part = read_h5ad(folder / f"{name}.h5ad")
        part.uns["perturbation_features"] = {"f": pd.DataFrame({"f0": [1.0]}, index=["Z"])}
        write_h5ad(part, folder / f"{name}.h5ad")
    settings = {"class": "trueshift.models.linear.Linear", "params": {"features": "f"}, "needs": ["features"]}
    done = train(folder, settings)
    assert done.returncode == 0, done.stderr
    assert listed(folder / "run" / "model") == ["nothing_learnt.json"]
    assert json.loads((folder / "run/cost.json").read_text())["stage"] == "train"
    done = predict(folder, settings)
    assert done.returncode == 0, done.stderr
    prediction = read_h5ad(folder / "prediction.h5ad")
    check_prediction(prediction, read_h5ad(folder / "query.h5ad"), "prediction.h5ad")
    assert prediction.n_obs == 0 and unanswered(prediction)["reason"].tolist() == ["no features"] * 2


def test_mistakes_are_one_line(folder):
    cases = [
        (train(folder, {**SETTINGS, "params": {"rank": 2}}), "has no parameter rank"),
        (train(folder, SETTINGS, "--train", "other.h5ad"), "other.h5ad: no such file"),
        (predict(folder, SETTINGS), "run/model: no such file"),
    ]
    for done, message in cases:
        assert done.returncode == 1
        assert done.stderr.startswith("error: "), done.stderr
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (folder / "run" / "model").exists()


# A model that shows what it was given, and fails on request.
SPY = """
import json
from pathlib import Path
from trueshift.contract import make_prediction
from trueshift.models.base import Model
class Spy(Model):
    def __init__(self, *, seed=0, fails=False, extra=0):
        super().__init__(seed=seed)
        self.fails = fails
        self.extra = extra
    def fit(self, given, run=None):
        run.log(1, loss=0.5)
        if self.fails:
            raise RuntimeError("out of memory")
        self.seen = [self.seed, str(run.resume), given.pairs.perturbed.tolist()]
        return self
    def save(self, folder):
        Path(folder, "seen.json").write_text(json.dumps(self.seen))
    def load(self, folder):
        self.seen = json.loads(Path(folder, "seen.json").read_text())
        return self
    def predict(self, asked_for):
        import numpy as np
        query = asked_for.cells
        return make_prediction(query, np.full((2, 3), np.nan if self.extra else 1.0))
"""


@pytest.fixture
def spy(folder):
    (folder / "spy.py").write_text(SPY)
    text = np.array(["a"])
    write_pairs(Pairs(np.array([[4, 5]], np.int32), np.array([[0, 1]], np.int32), *[text] * 5), folder / "pairs.npz")
    return {"class": "spy.Spy", "params": {}}


def test_the_model_receives_seed_pairs_and_resume_folder(folder, spy):
    done = train(folder, spy, "--pairs", "pairs.npz", path=str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("step 1  loss 0.5")
    assert json.loads((folder / "run/model/seen.json").read_text()) == [3, "run/resume", [[4, 5]]]


def test_a_failed_training_leaves_the_model_of_before(folder, spy):
    assert train(folder, spy, "--pairs", "pairs.npz", path=str(folder)).returncode == 0
    before = (folder / "run/cost.json").read_text()
    spy["params"] = {"fails": True}
    done = train(folder, spy, "--pairs", "pairs.npz", path=str(folder))
    assert done.returncode == 1
    assert "RuntimeError: out of memory" in done.stderr
    assert (folder / "run/model/seen.json").exists()
    assert (folder / "run/cost.json").read_text() == before


def test_a_prediction_that_breaks_the_contract_is_not_written(folder, spy):
    assert train(folder, spy, "--pairs", "pairs.npz", path=str(folder)).returncode == 0
    spy["params"] = {"extra": 1}
    done = predict(folder, spy, path=str(folder))
    assert done.returncode == 1
    assert "error: prediction.h5ad: predicted values are NaN" in done.stderr
    assert not (folder / "prediction.h5ad").exists()
