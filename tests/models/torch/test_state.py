"""State ST: its network, its losses, its training and its answers."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from scipy.spatial.distance import cdist, pdist

torch = pytest.importorskip("torch")

from trueshift.contract import ContractError, Pairs, asked, check_prediction, dense  # noqa: E402
from trueshift.models.base import CannotLearnError, Query, Training, build, query_controls  # noqa: E402
from trueshift.models.mean_shift import MeanShift  # noqa: E402
from trueshift.models.perturbation_mean import PerturbationMean  # noqa: E402
from trueshift.models.state import State  # noqa: E402
from trueshift.models.state_network import StateNetwork  # noqa: E402
from trueshift.models.state_training import Order, Trainer  # noqa: E402
from trueshift.networks.layers import RisingReLU  # noqa: E402
from trueshift.networks.set_losses import distances, energy_distance, median_bandwidth, rbf_mmd  # noqa: E402
from trueshift.tracking import Run  # noqa: E402

SMALL = {"set_size": 16, "hidden": 32, "layers": 2, "heads": 4, "mlp_hidden": 32, "threads": 1}
BRIEF = {**SMALL, "hidden": 8, "mlp_hidden": 8, "layers": 1, "max_steps": 12, "validate_every": 3, "batch_size": 2}


# --- data ---------------------------------------------------------------------------------------------


def planted(
    effects: dict[str, np.ndarray], contexts: int = 3, n_cells: int = 48, genes: int = 24, held_out: bool = True
) -> tuple[ad.AnnData, ad.AnnData, ad.AnnData]:
    """Train, query and truth: log-normal cells, each context with a level of its own, each perturbation with an effect.

    With ``held_out`` the last context has controls only (zero-shot); else each context is asked for its own conditions.
    """
    rng = np.random.default_rng(7)
    blocks, rows = [], []
    for c in range(contexts):
        level = rng.uniform(1, 3, genes)
        for name in ["control", *effects]:
            state = rng.normal(size=(n_cells, 1)) * np.linspace(-0.5, 0.5, genes)
            effect = effects[name] if name in effects else np.zeros(genes)
            blocks.append(np.maximum(level + state + effect + 0.3 * rng.normal(size=(n_cells, genes)), 0))
            last = held_out and c == contexts - 1
            for i in range(n_cells):
                if name == "control":
                    role = ("control_input" if i % 2 else "control_reference") if last else "train"
                else:
                    role = "test" if last else ("val" if i % 6 == 0 else "train")
                rows.append((name, "drug", f"C{c}", f"batch{i % 2}", "0" if name == "control" else "1", role))
    obs = pd.DataFrame(rows, columns=["perturbation", "modality", "context", "batch", "dose", "role"])
    obs["is_control"] = obs["perturbation"] == "control"
    obs.index = [f"cell{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=[f"gene{i}" for i in range(genes)])
    X = sparse.csr_matrix(np.concatenate(blocks).astype(np.float32))
    cells = ad.AnnData(X, obs=obs, var=var, uns={"trueshift": {"schema_version": 1, "kind": "lognorm"}})
    roles = obs["role"].to_numpy()
    train = cells[np.isin(roles, ["train", "val", "control_input"])].copy()
    query = cells[roles == "control_input" if held_out else obs["is_control"].to_numpy()].copy()
    truth = cells[np.isin(roles, ["test", "control_reference"])].copy()
    wanted = obs[roles == "test"] if held_out else obs[~obs["is_control"]]
    keys = ["context", "perturbation", "dose", "modality"]
    query.uns["conditions"] = wanted.groupby(keys).size().reset_index(name="n_cells").assign(n_seen=1)
    return train, query, truth


def pair(train: ad.AnnData, set_size: int = 16) -> Pairs:
    """Sets of each (context, perturbation, batch), with controls of the same context and batch."""
    rng = np.random.default_rng(3)
    obs = train.obs.reset_index(drop=True)
    sets = []
    for keys, group in obs[~obs["is_control"]].groupby(["role", "context", "perturbation", "batch"]):
        role, context, perturbation, batch = keys
        same = obs["is_control"] & (obs["context"] == context) & (obs["batch"] == batch)
        rows = rng.permutation(group.index.to_numpy())
        n_sets = -(-len(rows) // set_size)
        rows = np.concatenate([rows, rng.choice(rows, n_sets * set_size - len(rows))])
        for chunk in rows.reshape(n_sets, set_size):
            controls = rng.choice(np.flatnonzero(same), set_size)
            sets.append((chunk, controls, context, perturbation, batch, role, "batch"))
    target, control, *texts = zip(*sets, strict=True)
    return Pairs(np.array(target, np.int32), np.array(control, np.int32), *(np.array(text) for text in texts))


def effects(names: str = "ABCD", genes: int = 24) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    return {name: np.where(rng.random(genes) < 0.3, rng.choice([-1, 1], genes), 0.0) for name in names}


@pytest.fixture(scope="module")
def data() -> tuple[ad.AnnData, ad.AnnData, ad.AnnData, Pairs]:
    train, query, truth = planted(effects())
    return train, query, truth, pair(train)


def weights(model: State) -> dict[str, "torch.Tensor"]:
    return model.network.state_dict()


def equal(a: State, b: State) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values(), strict=True))


class Recorder(Run):
    """A run that keeps what was logged."""

    def __init__(self, resume: Path | None = None) -> None:
        super().__init__(resume=resume)
        self.lines: list[dict[str, float]] = []

    def log(self, step: int, **values: float) -> None:
        self.lines.append({"step": step, **values})


# --- the network --------------------------------------------------------------------------------------


def network(**changes: object) -> StateNetwork:
    torch.manual_seed(0)
    sizes = {"genes": 10, "perturbations": 3, "batches": 2, "hidden": 16, "layers": 3, "heads": 4, "mlp_hidden": 32}
    rest = {"encoder_layers": 2, "dropout": 0.1, "residual": "none", "nonnegative": False}
    return StateNetwork(**{**sizes, **rest, **changes}).eval()


def inputs(n: int = 7) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    torch.manual_seed(1)
    return torch.rand(2, n, 10), torch.eye(3)[:2], torch.randint(0, 3, (2, n))


@pytest.mark.parametrize("residual", ["none", "bottleneck", "control"])
def test_permuting_the_cells_permutes_the_output(residual: str) -> None:
    net, (cells, perturbation, batch) = network(residual=residual), inputs()
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    with torch.no_grad():
        there = net(cells[:, order], perturbation, batch[:, order])
        torch.testing.assert_close(there, net(cells, perturbation, batch)[:, order])


@pytest.mark.parametrize("changed", [0, 3, 6])
def test_every_cell_sees_every_other(changed: int) -> None:
    net, (cells, perturbation, batch) = network(), inputs()
    other = cells.clone()
    other[:, changed] += 1
    with torch.no_grad():
        moved = (net(other, perturbation, batch) - net(cells, perturbation, batch)).abs().amax(-1)
    assert (moved > 1e-6).all()


def test_sets_do_not_see_each_other_and_may_have_any_length() -> None:
    net, (cells, perturbation, batch) = network(), inputs()
    with torch.no_grad():
        alone = net(cells[:1, :3], perturbation[:1], batch[:1, :3])
        other = net(torch.cat([cells[:1, :3], cells[1:, 3:6]]), perturbation, batch[:, :3])
        one = net(cells[:1, :1], perturbation[:1], batch[:1, :1])
    torch.testing.assert_close(alone[0], other[0])
    assert one.shape == (1, 1, 10)


def test_the_unknown_batch_is_the_mean_of_the_known() -> None:
    net, (cells, perturbation, _) = network(), inputs()
    net.batch.data[:] = torch.randn(2, 16)
    mean = net.batch.mean(0)
    with torch.no_grad():
        unknown = net(cells, perturbation, torch.zeros(2, 7, dtype=torch.long))
        known = net(cells, perturbation, torch.ones(2, 7, dtype=torch.long))
        net.batch.data[:] = mean
        torch.testing.assert_close(unknown, net(cells, perturbation, torch.ones(2, 7, dtype=torch.long)))
    assert not torch.allclose(unknown, known)


def test_a_difference_network_starts_at_no_effect() -> None:
    cells, perturbation, batch = inputs()
    assert torch.equal(network(residual="control")(cells, perturbation, batch), cells)


def test_rising_relu_lets_only_rising_gradients_through_where_it_is_zero() -> None:
    x = torch.tensor([-1.0, -1.0, 0.0, 2.0, 2.0], requires_grad=True)
    y = RisingReLU.apply(x)
    assert y.tolist() == [0, 0, 0, 2, 2]
    y.backward(torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0]))  # descent follows the negative gradient
    assert x.grad.tolist() == [-1, 0, -1, 1, -1]


# --- the losses ---------------------------------------------------------------------------------------


def test_energy_distance_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, 3)), rng.normal(1, 2, size=(2, 4, 3))
    expected = []
    for a, b in zip(x, y, strict=True):
        between = np.mean([np.linalg.norm(i - j) for i in a for j in b])
        own = np.mean([np.linalg.norm(i - j) for i in a for j in a])
        other = np.mean([np.linalg.norm(i - j) for i in b for j in b])
        expected.append(2 * between - own - other)
    np.testing.assert_allclose(energy_distance(torch.tensor(x), torch.tensor(y)), expected, rtol=1e-12)


def test_energy_distance_in_one_dimension_is_that_of_scipy_squared() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=30), rng.gamma(2, size=20)
    ours = energy_distance(torch.tensor(x)[:, None], torch.tensor(y)[:, None]).item()
    assert ours == pytest.approx(stats.energy_distance(x, y) ** 2, rel=1e-10)


@pytest.mark.parametrize("sigma", [0.7, 3.0])
def test_mmd_is_its_definition(sigma: float) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(5, 3)), rng.normal(1, 1, size=(6, 3))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return np.exp(-cdist(a, b, "sqeuclidean") / (2 * sigma**2)).mean()

    expected = kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
    assert rbf_mmd(torch.tensor(x), torch.tensor(y), sigma).item() == pytest.approx(expected, rel=1e-10)


def test_the_median_heuristic_is_the_median_distance_of_the_pooled_sets() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 4, 3)), rng.normal(1, 1, size=(2, 3, 3))  # 21 pairs: one middle value
    expected = [np.median(pdist(np.concatenate(both))) for both in zip(x, y, strict=True)]
    x, y = torch.tensor(x, requires_grad=True), torch.tensor(y)
    width = median_bandwidth(x, y)
    np.testing.assert_allclose(width, expected, rtol=1e-12)
    assert not width.requires_grad
    for i in range(2):
        one = rbf_mmd(x[i], y[i], float(expected[i]))
        torch.testing.assert_close(rbf_mmd(x, y, "median")[i], one)


LOSSES = [energy_distance, partial(rbf_mmd, sigma="median"), partial(rbf_mmd, sigma=1.0)]


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_at_distance_zero_are_finite(loss: Callable) -> None:
    cells = torch.rand(2, 6, 50) * 5
    cells[:, 3:] = cells[:, :3]  # the same cell twice, as in sets that were filled up
    x = cells.clone().requires_grad_()
    value = loss(x, cells)
    value.sum().backward()
    assert torch.isfinite(x.grad).all()
    torch.testing.assert_close(value, torch.zeros(2), atol=1e-5, rtol=0)
    constant = torch.ones(1, 4, 50, requires_grad=True)
    loss(constant, torch.ones(1, 4, 50)).sum().backward()
    assert torch.isfinite(constant.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_value_that_is_not_a_number_is_not_hidden(loss: Callable) -> None:
    x = torch.rand(4, 5)
    x[1, 2] = torch.nan
    assert torch.isnan(loss(x, torch.rand(4, 5)))


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 5, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: energy_distance(z, y), (x,))
    assert torch.autograd.gradcheck(lambda z: rbf_mmd(z, y, 1.3), (x,))


def test_distances_keep_their_digits_far_from_zero() -> None:
    rng = np.random.default_rng(4)
    x, y = 1000 + rng.normal(size=(20, 200)), 1000 + rng.normal(size=(10, 200))
    ours = distances(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))
    np.testing.assert_allclose(ours, cdist(x, y), rtol=1e-4)
    own = distances(torch.tensor(x, dtype=torch.float32), torch.tensor(x, dtype=torch.float32))
    assert (own.diagonal() == 0).all()


# --- training -----------------------------------------------------------------------------------------


def test_beats_no_change_and_nears_the_perturbation_mean_in_an_unseen_context(data: tuple) -> None:
    train, query, truth, pairs = data
    model = State(**SMALL, seed=0, max_steps=120, validate_every=20, learning_rate=3e-3).fit(Training(train, pairs))
    prediction = model.predict(Query(query))
    check_prediction(prediction, query, "prediction")
    names = asked(query)["perturbation"]
    of = {name: dense(truth[truth.obs["perturbation"] == name].X).mean(0) for name in names}
    truth_means = np.stack([of[name] for name in names])
    ours = np.stack([prediction[prediction.obs["perturbation"] == name].X.mean(0) for name in names])

    def error(means: np.ndarray) -> float:
        return float(np.square(means - truth_means).mean())

    ceiling = error(PerturbationMean().fit(Training(train)).predict(Query(query)).X)
    floor = error(query_controls(query))
    assert error(ours) < 0.15 * floor
    assert error(ours) < 3 * ceiling
    assert error(ours) < error(MeanShift().fit(Training(train)).predict(Query(query)).X)


@pytest.mark.parametrize("loss", ["energy", "mmd", "mse"])
def test_overfits_a_tiny_set_beyond_a_shift(loss: str) -> None:
    """Half of the treated cells respond: the mean is easy, the distribution is not."""
    train, _, _ = planted({"A": np.zeros(24)}, contexts=1, n_cells=32, held_out=False)
    values = dense(train.X)
    low = values[:, 0] < np.median(values[:, 0])
    values[(train.obs["perturbation"] == "A").to_numpy() & low, 12:] += 3
    train.X = values
    train.obs["role"] = "train"
    pairs = pair(train)
    settings = {**SMALL, "loss": loss, "dropout": 0.0, "learning_rate": 3e-3, "max_steps": 150}
    recorder = Recorder()
    model = State(**settings, validate_every=10).fit(Training(train, pairs), recorder)
    assert recorder.lines[-1]["loss"] < 0.6 * recorder.lines[0]["loss"]
    if loss != "mse":
        control, target = (torch.from_numpy(values[rows]) for rows in (pairs.control, pairs.perturbed))
        with torch.no_grad():
            code = torch.ones(len(control), 1)
            predicted = model.network(control, code, torch.zeros(control.shape[:2], dtype=torch.long))
        shifted = control + torch.from_numpy(MeanShift().fit(Training(train)).state["shift"]).float()
        assert energy_distance(predicted, target).mean() < 0.7 * energy_distance(shifted, target).mean()


def test_same_seed_same_numbers_and_the_global_generator_is_left_alone(data: tuple) -> None:
    train, query, _, pairs = data
    torch.manual_seed(5)
    a = State(**BRIEF, seed=1).fit(Training(train, pairs))
    torch.manual_seed(6)
    before = torch.get_rng_state()
    b = State(**BRIEF, seed=1).fit(Training(train, pairs))
    assert torch.equal(before, torch.get_rng_state())
    assert equal(a, b)
    np.testing.assert_array_equal(a.predict(Query(query)).X, b.predict(Query(query)).X)
    assert not equal(a, State(**BRIEF, seed=2).fit(Training(train, pairs)))


def test_dense_and_sparse_cells_give_the_same_weights(data: tuple) -> None:
    train, _, _, pairs = data
    other = train.copy()
    other.X = dense(train.X)
    assert equal(State(**BRIEF).fit(Training(train, pairs)), State(**BRIEF).fit(Training(other, pairs)))


def test_stops_early_when_validation_no_longer_improves(data: tuple) -> None:
    train, _, _, pairs = data
    still = {**BRIEF, "learning_rate": 0.0, "max_steps": 100, "patience": 4}
    recorder = Recorder()
    State(**still).fit(Training(train, pairs), recorder)
    assert [line["step"] for line in recorder.lines] == [3, 6, 9, 12, 15]  # one best, then four without a better one
    assert recorder.lines[0]["learning_rate"] == 0


def test_without_validation_sets_all_steps_are_run(data: tuple, capsys: pytest.CaptureFixture) -> None:
    train, _, _, pairs = data
    some = pairs.role == "train"
    declared = Pairs(*(getattr(pairs, name)[some] for name in pairs.__dataclass_fields__))
    recorder = Recorder()
    State(**{**BRIEF, "learning_rate": 0.0, "max_steps": 20, "patience": 1}).fit(Training(train, declared), recorder)
    assert [line["step"] for line in recorder.lines] == [3, 6, 9, 12, 15, 18, 20]
    assert all("val_loss" not in line for line in recorder.lines)
    assert "no validation sets" in capsys.readouterr().out


def test_the_best_weights_on_validation_are_kept(data: tuple) -> None:
    train, _, _, pairs = data
    recorder = Recorder()
    settings = {**BRIEF, "learning_rate": 0.1, "max_steps": 60, "patience": 100}
    model = State(**settings).fit(Training(train, pairs), recorder)
    losses = [line["val_loss"] for line in recorder.lines]
    assert min(losses) < losses[-1]  # else the test shows nothing
    val = pairs.role == "val"
    X = dense(train.X)
    codes = [[label[0] for label in model.facts["labels"]].index(name) for name in pairs.perturbation[val]]
    with torch.no_grad():
        control, target = torch.from_numpy(X[pairs.control[val]]), torch.from_numpy(X[pairs.perturbed[val]])
        predicted = model.network(control, torch.eye(4)[codes], torch.zeros(control.shape[:2], dtype=torch.long))
    assert energy_distance(predicted, target).mean().item() == pytest.approx(min(losses), rel=1e-4)


def test_every_set_is_seen_once_a_round() -> None:
    order = Order(0, 0, 10)
    seen = np.concatenate([order.batch(step, 4) for step in range(5)])
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])
    np.testing.assert_array_equal(Order(0, 0, 10).batch(3, 4), seen[12:16])
    assert sorted(Order(0, 0, 3).batch(0, 6)) == [0, 0, 1, 1, 2, 2]


RESUMED = {
    **BRIEF,
    "batch_encoder": True,
    "identity_sets": True,
    "pretrain_contexts": ["C0"],
    "pretrain_steps": 10,
    "finetune_steps": 11,
}


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("at", [2, 5, 10, 12, 19])
def test_an_interrupted_training_resumes_to_the_same_bits(
    at: int, data: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    train, _, _, pairs = data
    undisturbed = State(**RESUMED).fit(Training(train, pairs))
    step = Trainer._step
    calls = []

    def stop(self: Trainer, *args: object) -> float:
        if len(calls) == at:
            raise StoppedError
        calls.append(at)
        return step(self, *args)

    monkeypatch.setattr(Trainer, "_step", stop)
    with pytest.raises(StoppedError):
        State(**RESUMED).fit(Training(train, pairs), Run(resume=tmp_path))
    monkeypatch.undo()
    capsys.readouterr()
    recorder = Recorder(tmp_path)
    resumed = State(**RESUMED).fit(Training(train, pairs), recorder)
    assert equal(undisturbed, resumed)
    done = (at // 3) * 3 if at < 10 else 10 + (at - 10) // 3 * 3
    assert recorder.lines[0]["step"] == min(done + 3, 10) if at < 10 else done + 3  # nothing done twice
    assert ("resumed at step" in capsys.readouterr().out) == (at >= 3)
    assert not list(tmp_path.iterdir())  # a finished training leaves no checkpoint


def train_until_killed(folder: str) -> None:
    """Trains and kills its own process, without warning, in the middle of a step."""
    train, _, _ = planted(effects())
    step = Trainer._step
    calls: list[int] = []

    def die(self: Trainer, *args: object) -> float:
        calls.append(0)
        if len(calls) == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *args)

    Trainer._step = die
    State(**BRIEF).fit(Training(train, pair(train)), Run(resume=Path(folder)))


def test_a_killed_training_resumes_to_the_same_bits(data: tuple, tmp_path: Path) -> None:
    train, _, _, pairs = data
    child = "import sys, test_state; test_state.train_until_killed(sys.argv[1])"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", child, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    (tmp_path / ".state.1.partial.pt").write_bytes(b"half a checkpoint")
    recorder = Recorder(tmp_path)
    resumed = State(**BRIEF).fit(Training(train, pairs), recorder)
    assert recorder.lines[0]["step"] == 9
    assert equal(State(**BRIEF).fit(Training(train, pairs)), resumed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["settings", "cells", "pairs"])
def test_a_checkpoint_of_another_training_is_not_resumed(
    what: str, data: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    train, _, _, pairs = data

    class Stopping(Run):
        def log(self, step: int, **values: float) -> None:
            raise StoppedError

    with pytest.raises(StoppedError):
        State(**BRIEF).fit(Training(train, pairs), Stopping(resume=tmp_path))
    assert (tmp_path / "state.pt").exists()
    settings = BRIEF
    if what == "settings":
        settings = {**BRIEF, "learning_rate": 1e-3}
    elif what == "cells":
        train = train.copy()
        train.X = train.X * 1.01
    else:
        pairs = Pairs(**{**vars(pairs), "control": pairs.control[:, ::-1]})
    capsys.readouterr()
    fresh = State(**settings).fit(Training(train, pairs), Run(resume=tmp_path))
    assert "of other settings or data: started afresh" in capsys.readouterr().out
    assert equal(fresh, State(**settings).fit(Training(train, pairs)))


def test_pretraining_then_fine_tuning() -> None:
    train, query, _ = planted(effects(), held_out=False)
    obs = train.obs
    asked_here = (obs["context"] == "C2") & obs["is_control"] & (np.arange(len(obs)) % 2 == 0)
    obs.loc[asked_here, "role"] = "control_input"
    pairs = pair(train)
    settings = {**BRIEF, "pretrain_contexts": "others", "pretrain_steps": 6, "finetune_steps": 9}
    model = State(**settings)
    model._check()
    _, sets, _ = model._sets(train, pairs)
    first, second = model._phases(train, sets)
    assert (first.name, second.name, first.steps, second.steps) == ("pretraining", "fine-tuning", 6, 9)
    assert set(first.train.context) == set(first.val.context) == {"C0", "C1"}
    assert set(second.train.context) == set(second.val.context) == {"C2"}
    assert set(first.train.role) == {"train"}
    recorder = Recorder()
    model.fit(Training(train, pairs), recorder)
    assert [line["step"] for line in recorder.lines] == [3, 6, 9, 12, 15]
    check_prediction(model.predict(Query(query)), query, "prediction")


def test_a_fold_without_sets_to_train_on_teaches_nothing(data: tuple) -> None:
    train, _, _, pairs = data
    with pytest.raises(CannotLearnError, match="no set of role train"):
        State(**BRIEF).fit(Training(train, dataclasses.replace(pairs, role=np.full(len(pairs.role), "val"))))


def test_pretraining_without_sets_for_a_phase_is_an_error(data: tuple) -> None:
    train, _, _, pairs = data  # the asked context C2 has controls only
    with pytest.raises(ContractError, match="no sets are left for fine-tuning"):
        State(**BRIEF, pretrain_contexts="others").fit(Training(train, pairs))
    with pytest.raises(ContractError, match="C9, which is not a training context"):
        State(**BRIEF, pretrain_contexts=["C9"]).fit(Training(train, pairs))
    model = State(**BRIEF, pretrain_contexts="others", identity_sets=True)
    _, sets, _ = model._sets(train, pairs)
    assert set(model._phases(train, sets)[1].train.perturbation) == {4}  # A B C D control: identities adapt to C2


def test_identity_sets_map_controls_to_controls(data: tuple) -> None:
    train, _, _, pairs = data
    _, plain, _ = State(**BRIEF)._sets(train, pairs)
    table, sets, batches = State(**BRIEF, identity_sets=True)._sets(train, pairs)
    more = slice(len(plain), None)
    assert table["perturbation"].tolist() == ["A", "B", "C", "D", "control"]
    obs = train.obs.reset_index(drop=True)
    for rows in (sets.target[more], sets.control[more]):
        assert obs.loc[rows.ravel(), "is_control"].all()
        for context, batch, row in zip(sets.context[more], sets.batch[more], rows, strict=True):
            assert set(obs.loc[row, "context"]) == {context}
            assert set(obs.loc[row, "batch"]) == {batches[batch - 1]}
    assert set(sets.target[more].ravel()) == set(np.flatnonzero(obs["is_control"]))
    assert set(sets.role[more]) == {"train"}


def test_a_loss_that_is_not_finite_names_the_step_and_the_remedy(data: tuple) -> None:
    train, _, _, pairs = data
    with pytest.raises(ContractError, match=r"loss is (nan|inf) at step \d+ of training; lower learning_rate"):
        State(**{**BRIEF, "learning_rate": 1e30}).fit(Training(train, pairs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "sinkhorn"}, "loss is one of energy, mmd, mse"),
        ({"residual": "yes"}, "residual is one of"),
        ({"hidden": 10}, "multiple of heads"),
        ({"sigma": "mean"}, "sigma is a number or median"),
        ({"set_size": 8}, "pairs hold sets of 16 cells, set_size is 8"),
        ({"features": "programs"}, "features are for perturbation_encoder"),
        ({"precision": "bfloat16"}, "needs a GPU"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict, message: str, data: tuple) -> None:
    if "precision" in changes and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ContractError, match=message):
        State(**{**BRIEF, **changes}).fit(Training(data[0], data[3]))


def test_pairs_are_needed(data: tuple) -> None:
    with pytest.raises(ContractError, match=r"needs: \[pairs\]"):
        State(**BRIEF).fit(Training(data[0]))


# --- answers ------------------------------------------------------------------------------------------


def untrained(data: tuple, **changes: object) -> State:
    """A model of no steps: it predicts the input controls it drew."""
    return State(**{**BRIEF, "max_steps": 0, **changes}).fit(Training(data[0], data[3]))


@pytest.mark.parametrize(("n_cells", "least"), [(5, 1), (24, 1), (60, 2)])
def test_input_controls_are_drawn_without_replacement_then_again(n_cells: int, least: int, data: tuple) -> None:
    query = data[1].copy()  # 24 controls of C2
    query.uns["conditions"] = query.uns["conditions"].assign(n_cells=n_cells)
    prediction = untrained(data).predict(Query(query))
    check_prediction(prediction, query, "prediction")
    assert prediction.n_obs == 4 * n_cells
    cells = {tuple(row) for row in dense(query.X)}
    draws = []
    for name in "ABCD":
        block = dense(prediction[prediction.obs["perturbation"] == name].X)
        assert {tuple(row) for row in block} <= cells
        assert len({tuple(row) for row in block}) == min(n_cells, 24)
        draws.append(block)
    assert n_cells == 24 or not np.array_equal(draws[0], draws[1])


def test_answers_do_not_depend_on_what_else_is_asked(data: tuple) -> None:
    train, query, _, pairs = data
    model = State(**BRIEF).fit(Training(train, pairs))
    fewer = query.copy()
    fewer.uns["conditions"] = query.uns["conditions"].iloc[2:3]
    all_cells = model.predict(Query(query))
    np.testing.assert_allclose(
        model.predict(Query(fewer)).X, all_cells[all_cells.obs["perturbation"] == "C"].X, rtol=1e-5, atol=1e-6
    )


def test_one_hot_refuses_what_it_was_never_shown(data: tuple) -> None:
    model = untrained(data)
    for column, value, message in (("perturbation", "A+B", r"A\+B at dose 1"), ("dose", "10", "A at dose 10")):
        query = data[1].copy()
        query.uns["conditions"] = query.uns["conditions"].iloc[:1].assign(**{column: value})
        with pytest.raises(ContractError, match=message + ".*give perturbation features"):
            model.predict(Query(query))


def with_features(data: tuple) -> tuple[ad.AnnData, ad.AnnData, Pairs]:
    train, query = data[0].copy(), data[1].copy()
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(7, 5)), index=list("ABCDXYZ"))
    table.loc["X"] = table.loc["A"]
    table.loc["Y"] = table.loc["A"] + table.loc["B"]
    train.uns["perturbation_features"] = {"programs": table}
    return train, query, data[3]


def ask(query: ad.AnnData, names: list[str], doses: list[str]) -> ad.AnnData:
    query = query.copy()
    table = {"context": "C2", "perturbation": names, "dose": doses, "modality": "drug", "n_cells": 12, "n_seen": 0}
    query.uns["conditions"] = pd.DataFrame(table)
    return query[:12].copy()  # all twelve are drawn each time, and one set holds them


def test_features_answer_unseen_perturbations_and_combinations(data: tuple, tmp_path: Path) -> None:
    train, query, pairs = with_features(data)
    settings = {**BRIEF, "perturbation_encoder": "features", "features": "programs", "learning_rate": 1e-2}
    model = State(**settings).fit(Training(train, pairs))
    model.save(tmp_path)
    wanted = ask(query, ["A", "A+B", "X", "Y", "Z"], ["1", "0.5+0.5", "1", "1", "1"])
    prediction = State(**settings).load(tmp_path).predict(Query(wanted))
    check_prediction(prediction, wanted, "prediction")
    mean = {name: prediction[prediction.obs["perturbation"] == name].X.mean(0) for name in ["A", "A+B", "X", "Y", "Z"]}
    np.testing.assert_allclose(mean["X"], mean["A"], atol=1e-5)
    np.testing.assert_allclose(mean["A+B"], mean["Y"], atol=1e-5)
    assert np.abs(mean["Z"] - mean["A"]).max() > 1e-3
    with pytest.raises(ContractError, match="W has no row in perturbation features programs"):
        model.predict(Query(ask(query, ["W"], ["1"])))
    dosed = model.predict(Query(ask(query, ["A"], ["100"]))).X.mean(0)
    assert np.abs(dosed - mean["A"]).max() > 1e-3


def test_the_batch_encoder_learns_and_takes_unseen_batches(data: tuple) -> None:
    train, query, _, pairs = data
    model = State(**{**BRIEF, "batch_encoder": True, "learning_rate": 1e-2}).fit(Training(train, pairs))
    wanted = ask(query, ["A"], ["1"])
    outputs = []
    for batch in ("batch0", "batch1", "elsewhere"):
        wanted.obs["batch"] = batch
        outputs.append(np.sort(model.predict(Query(wanted)).X, axis=0))
    assert not np.allclose(outputs[0], outputs[1], atol=1e-4)
    assert not np.allclose(outputs[2], outputs[0], atol=1e-4)
    assert np.isfinite(outputs[2]).all()
    assert "batch" not in untrained(data).network.state_dict()


def test_expression_stays_nonnegative_where_it_was(data: tuple) -> None:
    train, query, _, pairs = data
    settings = {**BRIEF, "max_steps": 0, "residual": "none"}  # random weights: about half of all values fall below 0
    assert State(**settings).fit(Training(train, pairs)).predict(Query(query)).X.min() == 0
    scaled = train.copy()
    scaled.X = dense(train.X) - 2
    below = query.copy()
    below.X = dense(query.X) - 2
    assert State(**settings).fit(Training(scaled, pairs)).predict(Query(below)).X.min() < 0


def test_save_and_load_keep_the_answers(data: tuple, tmp_path: Path) -> None:
    train, query, _, pairs = data
    settings = {"class": "trueshift.models.state.State", "params": {**BRIEF, "residual": "bottleneck"}}
    model = build(settings, 3).fit(Training(train, pairs))
    model.save(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["model.json", "weights.pt"]
    np.testing.assert_array_equal(
        build(settings, 3).load(tmp_path).predict(Query(query)).X, model.predict(Query(query)).X
    )
    with pytest.raises(ContractError, match="weights of other settings"):
        State(**{**BRIEF, "hidden": 16}).load(tmp_path)
    with pytest.raises(ContractError, match="other genes than the training"):
        model.predict(Query(query[:, ::-1].copy()))


def test_a_context_without_input_controls_is_named(data: tuple) -> None:
    query = data[1].copy()
    query.uns["conditions"] = query.uns["conditions"].assign(context="C7")
    with pytest.raises(ContractError, match="no input control cells in context C7"):
        untrained(data).predict(Query(query))
