"""CellOT: convex networks, transport between distributions whose map is known, what is drawn, chosen and resumed."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
from library.models.model_cases import cells, question, random_screen  # noqa: E402

from trueshift.contract import ContractError, dense  # noqa: E402
from trueshift.models import cellot  # noqa: E402
from trueshift.models.base import CannotLearnError, Query, Training, query_controls  # noqa: E402
from trueshift.models.cellot import CellOT, Draws, Validation  # noqa: E402
from trueshift.models.cellot_network import Autoencoder, ConvexNetworks, Transport  # noqa: E402
from trueshift.networks.cells_on_device import CellsOnDevice  # noqa: E402
from trueshift.tracking import Run  # noqa: E402

BRIEF = {
    "latent": 3,
    "autoencoder_hidden": [8],
    "autoencoder_steps": 12,
    "autoencoder_validate_every": 4,
    "hidden": [6, 5],
    "steps": 12,
    "inner_steps": 2,
    "learning_rate": 1e-2,
    "batch_size": 8,
    "validate_every": 3,
    "threads": 1,
}
LEARNING = {
    **BRIEF,
    "latent": 4,
    "autoencoder_hidden": [32],
    "autoencoder_learning_rate": 5e-3,
    "autoencoder_steps": 600,
    "autoencoder_validate_every": 50,
    "hidden": [16, 16],
    "steps": 300,
    "inner_steps": 4,
    "learning_rate": 5e-3,
    "batch_size": 32,
    "validate_every": 25,
}


def networks(n: int = 2, inputs: int = 4, hidden: tuple[int, ...] = (7, 6, 5)) -> ConvexNetworks:
    """Convex networks with weights of both signs where that is allowed, in float64."""
    torch.manual_seed(0)
    nets = ConvexNetworks(n, inputs, hidden).double()
    with torch.no_grad():
        for A in [*nets.A, *nets.b]:
            A.normal_()
    return nets


def weights(module: "torch.nn.Module") -> dict[str, "torch.Tensor"]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: "torch.nn.Module", b: "torch.nn.Module") -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# --- convex networks ----------------------------------------------------------------------------------


def excess(nets: ConvexNetworks) -> float:
    """By how much the networks rise above a chord, at most, over random chords of all lengths."""
    torch.manual_seed(1)
    P, n, D = nets.A[0].shape[0], 4000, nets.A[0].shape[1]
    x, y = (3 * torch.randn(P, n, D, dtype=torch.float64) for _ in range(2))
    y[:, ::2] = x[:, ::2] + 0.1 * (y[:, ::2] - x[:, ::2])
    t = torch.rand(P, n, dtype=torch.float64)
    with torch.no_grad():
        chord = (1 - t) * nets.value(x) + t * nets.value(y)
        return float((nets.value((1 - t)[..., None] * x + t[..., None] * y) - chord).max())


def test_networks_are_convex_until_a_weight_is_negative() -> None:
    assert excess(networks()) < 1e-9
    for layer in range(3):
        nets = networks()
        with torch.no_grad():
            nets.W[layer][1, 0] = -2.0
        assert excess(nets) > 1e-2, layer
        assert nets.negativity()[0] == 0
        assert nets.negativity()[1].item() == pytest.approx(2 * nets.W[layer].shape[-1] ** 0.5)
        nets.clamp()
        assert excess(nets) < 1e-9
        assert (nets.negativity() == 0).all()


def test_the_gradient_is_that_of_the_value() -> None:
    nets = networks()
    x = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(nets.value(x).sum(), x)
    assert torch.allclose(nets.gradient(x), expected, atol=1e-12)
    with torch.no_grad():
        for i in range(4):
            step = 1e-6 * torch.eye(4, dtype=torch.float64)[i]
            difference = (nets.value(x + step) - nets.value(x - step)) / 2e-6
            assert torch.allclose(nets.gradient(x)[..., i], difference, rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_weights_through_the_map() -> None:
    """The derivative of a function of ∇y by the weights is that of automatic differentiation, applied twice."""
    nets = networks()
    x = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    (twice,) = torch.autograd.grad(nets.value(x).sum(), x, create_graph=True)
    named = {name: weight for name, weight in nets.named_parameters() if name[0] != "b" or name == "b.0"}
    one, other = (torch.autograd.grad(T.pow(3).sum(), list(named.values())) for T in (nets.gradient(x), twice))
    for name, a, b in zip(named, one, other, strict=True):
        assert torch.allclose(a, b, atol=1e-9), name


@pytest.mark.parametrize("hidden", [(8,), (8, 5), (11, 6, 5)])
def test_it_can_start_as_the_identity(hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    maps = Transport(3, 4, hidden, start="identity")
    x = torch.randn(3, 20, 4)
    for network in (maps.f, maps.g):
        assert torch.allclose(network.gradient(x), x, atol=1e-5)
        assert torch.allclose(network.value(x), x.square().sum(-1) / 2, atol=1e-4)
        assert (network.negativity() == 0).all()


def test_weights_start_as_published() -> None:
    nets = ConvexNetworks(1, 50, [64, 64])
    for weight in [*nets.A, *nets.W]:
        assert 0 <= weight.min() < 0.01
        assert 0.09 < weight.max() <= 0.1
    assert all((b == 0).all() for b in nets.b)


def test_one_is_taken_out_of_a_stack() -> None:
    nets, x = networks(3), torch.randn(3, 6, 4, dtype=torch.float64)
    one = nets.take(1).double()
    assert torch.allclose(one.gradient(x[1:2]), nets.gradient(x)[1:2].float().double(), atol=1e-5)


# --- transport ----------------------------------------------------------------------------------------


def optimizers(maps: Transport, rate: float) -> list["torch.optim.Optimizer"]:
    return [torch.optim.Adam(network.parameters(), lr=rate, betas=(0.5, 0.9)) for network in (maps.f, maps.g)]


def test_it_finds_the_optimal_map_between_two_gaussians() -> None:
    """N(0, I) → N(m, SS) with S symmetric and positive: the optimal map is m + S x."""
    S = torch.tensor([[1.5, 0.4], [0.4, 0.6]])
    m = torch.tensor([2.0, -1.0])
    torch.manual_seed(0)
    maps = Transport(1, 2, [16, 16])
    both = optimizers(maps, 3e-3)
    for _ in range(300):
        sources, y = torch.randn(6, 1, 128, 2), torch.randn(1, 128, 2) @ S + m
        maps.step(sources, y, *both)
    assert all((W >= 0).all() for W in maps.f.W)
    x = torch.randn(1, 5000, 2)
    with torch.no_grad():
        moved = maps(x)[0]
    assert torch.allclose(moved.mean(0), m, atol=0.1)  # 4 % of the distance
    assert torch.allclose(torch.cov(moved.T), S @ S, atol=0.25)  # 2.4, 0.8 and 0.5
    error = (moved - (x[0] @ S + m)).square().sum(1).mean()
    assert error < 0.02 * (x[0] - (x[0] @ S + m)).square().sum(1).mean()


def test_a_stack_trains_each_map_as_if_it_were_alone() -> None:
    torch.manual_seed(0)
    maps = Transport(3, 2, [5, 4])
    with torch.no_grad():
        maps.g.W[0][1] -= 0.05  # a penalty on one of them
    alone = [Transport(1, 2, [5, 4]) for _ in range(3)]
    for i, one in enumerate(alone):
        one.load_state_dict({name: value[i : i + 1] for name, value in maps.state_dict().items()})
    together, apart = optimizers(maps, 1e-2), [optimizers(one, 1e-2) for one in alone]
    shift = torch.tensor([1.0, -2.0, 5.0])[:, None, None]
    for _ in range(10):
        sources = torch.randn(3, 3, 16, 2)
        y = torch.randn(3, 16, 2) + shift
        maps.step(sources, y, *together)
        for i, one in enumerate(alone):
            one.step(sources[:, i : i + 1], y[i : i + 1], *apart[i])
    x = torch.randn(3, 16, 2)
    for i, one in enumerate(alone):
        assert torch.allclose(maps(x)[i], one(x[i : i + 1])[0], atol=1e-4)
    assert not torch.allclose(maps(x)[0], alone[1](x[:1])[0], atol=1e-1)


def test_only_f_is_kept_convex() -> None:
    torch.manual_seed(0)
    maps = Transport(1, 3, [5, 4])
    with torch.no_grad():
        for W in [*maps.f.W, *maps.g.W]:
            W.fill_(-0.5)
    maps.step(torch.randn(2, 1, 7, 3), torch.randn(1, 7, 3), *optimizers(maps, 1e-3))
    assert all((W == 0).all() for W in maps.f.W)
    assert all((W < 0).all() for W in maps.g.W)


def test_losses_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    maps = Transport(1, 3, [5, 4])
    with torch.no_grad():
        maps.g.W[0] -= 0.05
    x, y = torch.randn(1, 7, 3), torch.randn(1, 7, 3)
    T = maps(x)
    penalty = sum(W.detach().clamp(max=0).square().sum().sqrt() for W in maps.g.W)
    expected = np.mean([(maps.f.value(T)[0, i] - x[0, i] @ T[0, i]).item() for i in range(7)]) + penalty.item()
    assert penalty > 0
    assert maps.loss_g(x).item() == pytest.approx(expected, rel=1e-5)
    assert maps.loss_f(x, y).item() == pytest.approx((maps.f.value(y) - maps.f.value(T)).mean().item(), rel=1e-5)
    maps.loss_f(x, y).sum().backward()
    assert all(weight.grad is None for weight in maps.g.parameters()), "the loss of f reaches g"
    assert all(weight.grad is not None for weight in maps.f.parameters())


def test_the_best_weights_of_each_map_stay() -> None:
    maps, history = Transport(2, 3, [4]), []
    for values in ([3.0, 5.0], [2.0, 7.0], [9.0, 4.0], [2.0, float("nan")]):
        with torch.no_grad():
            for weight in maps.g.parameters():
                weight.add_(1)
        history.append(weights(maps.g))
        maps.keep(torch.tensor(values))
    for name, kept in maps.best.state_dict().items():
        assert torch.equal(kept[0], history[1][name][0])
        assert torch.equal(kept[1], history[2][name][1])


# --- which cells --------------------------------------------------------------------------------------


def screen() -> ad.AnnData:
    """Contexts x, y of unequal share of drug A; y has one batch without controls; B has no cells for validation."""
    plan = [("x", "control", "b0", 3), ("x", "control", "b1", 4), ("y", "control", "b0", 5), ("z", "control", "b0", 2)]
    plan += [("x", "A", "b0", 6), ("x", "A", "b1", 6), ("y", "A", "b1", 4), ("y", "B", "b0", 3)]
    rows = [(c, p, "0" if p == "control" else "1", b) for c, p, b, n in plan for _ in range(n)]
    values = np.random.default_rng(0).uniform(0, 3, (len(rows), 5))
    train = cells([(c, p, d, list(v)) for (c, p, d, _), v in zip(rows, values, strict=True)])
    train.obs["batch"] = [row[3] for row in rows]
    first = ~train.obs.duplicated(["context", "perturbation", "batch"]) & (train.obs["perturbation"] == "A")
    train.obs.loc[first, "role"] = "val"
    return train


def test_controls_are_of_the_context_and_batch_of_the_cells_they_are_drawn_with() -> None:
    train = screen()
    draws = Draws(train, "cpu")
    torch.manual_seed(0)
    control, perturbed = draws.batches(3, 2000)
    assert draws.perturbations == ["A", "B"]
    assert (control.shape, perturbed.shape) == ((3, 2, 2000), (2, 2000))
    for number, name in enumerate(draws.perturbations):
        drawn, own = train.obs.iloc[perturbed[number]], train.obs.iloc[control[-1, number]]
        assert (drawn["perturbation"] == name).all()
        assert (drawn["role"] == "train").all()
        assert own["is_control"].all()
        learning = (train.obs["perturbation"] == name) & (train.obs["role"] == "train")
        assert len(drawn.index.unique()) == learning.sum()
        assert (own["context"].to_numpy() == drawn["context"].to_numpy()).all()
        in_x = (drawn["context"] == "x").to_numpy()
        assert (own["batch"].to_numpy() == drawn["batch"].to_numpy())[in_x].all()
    for number in range(3):  # every batch of controls has the contexts of the perturbed: 10 of 13 in x
        share = (train.obs["context"].iloc[control[number, 0]] == "x").mean()
        assert share == pytest.approx(10 / 13, abs=0.05)
    assert set(train.obs["batch"].iloc[control[:, 0].flatten()]) == {"b0", "b1"}
    assert len(control[:, 0].unique()) == 12, "all controls of x and y serve"


def test_cells_for_validation_are_never_learnt_from() -> None:
    """With one validation at the end there is nothing to choose: their values change nothing."""
    train = screen()
    changed = train.copy()
    X = dense(train.X)
    X[(train.obs["role"] == "val").to_numpy()] = 50.0
    changed.X = X
    once = {**BRIEF, "autoencoder_validate_every": 12, "validate_every": 12}
    one, other = CellOT(**once).fit(Training(train)), CellOT(**once).fit(Training(changed))
    assert same(one.autoencoder, other.autoencoder)
    assert same(one.maps, other.maps)


def discrepancy(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """Unbiased estimate of the squared MMD without its term in y, pair by pair."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return np.mean([np.exp(-((a - b) ** 2).sum() / (2 * (w * bandwidth) ** 2)) for w in (0.5, 1, 2)])

    within = [kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if not (x[i] == x[j]).all()]
    return float(np.mean(within) - 2 * np.mean([kernel(a, b) for a in x for b in y]))


@pytest.mark.parametrize("n_cells", [1, 2])
def test_validation_is_the_unbiased_discrepancy(n_cells: int) -> None:
    train = screen()
    latents = torch.from_numpy(dense(train.X))
    draws = Draws(train, "cpu")
    draws.val = [np.flatnonzero(train.obs["perturbation"] == name)[:n] for name, n in (("A", 5), ("B", n_cells))]
    torch.manual_seed(0)
    measure = Validation(latents, draws, most=100, least=3, seed=0)
    assert measure.some.tolist() == [True, True]
    assert measure.enough.tolist() == [True, False]
    values = measure.of(measure.source * 1.5 + 0.1)
    for number, rows in enumerate(draws.val):
        x, y = measure.source[number].numpy(), latents[rows].numpy()
        bandwidth = np.sort([np.linalg.norm(a - b) for a in y for b in x])
        expected = discrepancy(x * 1.5 + 0.1, y, bandwidth[(len(bandwidth) - 1) // 2])
        assert values[number].item() == pytest.approx(expected, abs=1e-5)
    assert Validation(latents, draws, most=2, least=1, seed=0).source.shape[1] == 2


# --- the autoencoder ----------------------------------------------------------------------------------


def test_the_autoencoder_reconstructs_and_its_latent_is_standard() -> None:
    rng = np.random.default_rng(0)
    train = random_screen(["A", "B"], contexts=2, genes=20)
    values = 5 + rng.normal(size=(train.n_obs, 3)) @ rng.normal(size=(3, 20))
    train.X = values.astype(np.float32)
    model = CellOT(**{**LEARNING, "steps": 1, "autoencoder_steps": 1000}).fit(Training(train))
    with torch.no_grad():
        latent = model.autoencoder.encode(torch.from_numpy(dense(train.X)))
        error = (model.autoencoder.decode(latent).numpy() - values) ** 2
    assert error.sum() < 0.02 * ((values - values.mean(0)) ** 2).sum()
    assert latent.mean(0).abs().max() < 1e-4
    assert latent.square().mean().item() == pytest.approx(1, abs=1e-3)


def test_the_autoencoder_keeps_its_best_weights_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    train = screen()
    losses: list[float] = []
    plain = Autoencoder.loss

    def falling_and_rising(self: Autoencoder, x: "torch.Tensor") -> "torch.Tensor":
        if torch.is_grad_enabled():
            return plain(self, x)
        losses.append(abs(len(losses) - 1) + 1.0)
        return torch.tensor(losses[-1])

    monkeypatch.setattr(Autoencoder, "loss", falling_and_rising)
    kept = CellOT(**BRIEF).fit(Training(train))
    assert losses == [2.0, 1.0, 2.0]
    monkeypatch.setattr(Autoencoder, "loss", plain)
    train.obs["role"] = train.obs["role"].replace("val", "test")  # the last weights
    stopped = CellOT(**{**BRIEF, "autoencoder_steps": 8}).fit(Training(train))
    assert same(kept.autoencoder.decoder, stopped.autoencoder.decoder)


# --- the model ----------------------------------------------------------------------------------------


def planted(effects: dict[str, np.ndarray], n: int = 40, seed: int = 0, doses: tuple[str, ...] = ("1",)) -> ad.AnnData:
    """Two contexts, cells that differ along two directions, and effects the same in both."""
    rng = np.random.default_rng(seed)
    genes = len(next(iter(effects.values())))
    levels, spread = 6 + rng.normal(size=(2, genes)), 0.3 * rng.normal(size=(2, genes))
    rows = []
    for c in range(2):
        for name in ["control", *effects]:
            for i in range(n):
                noise = rng.normal(size=2) @ spread + 0.1 * rng.normal(size=genes)
                dose = "0" if name == "control" else doses[i % len(doses)]
                rows.append((f"x{c}", name, dose, list(levels[c] + effects.get(name, 0) + noise)))
    train = cells(rows)
    perturbed = ~train.obs["is_control"].to_numpy()
    train.obs.loc[perturbed & (np.arange(len(rows)) % 4 == 0), "role"] = "val"
    return train


def ask(train: ad.AnnData, conditions: list[tuple[str, str, str]], n_cells: int = 40) -> ad.AnnData:
    query = train[train.obs["is_control"].to_numpy()].copy()
    query.uns["conditions"] = question(conditions, x0=[0.0]).uns["conditions"].assign(n_cells=n_cells)
    return query


def deltas(model: CellOT, query: ad.AnnData) -> np.ndarray:
    prediction = model.predict(Query(query))
    keys = [prediction.obs[name].astype(str).to_numpy() for name in ("context", "perturbation", "dose")]
    means = pd.DataFrame(dense(prediction.X)).groupby(keys).mean()
    asked = query.uns["conditions"][["context", "perturbation", "dose"]]
    return means.loc[list(asked.itertuples(index=False, name=None))].to_numpy() - query_controls(query)


@pytest.fixture(scope="module")
def opposite() -> tuple[np.ndarray, ad.AnnData, CellOT]:
    shift = np.where(np.arange(24) % 3 == 0, 1.5, 0.0)
    train = planted({"up": shift, "down": -shift}, doses=("1", "10"))
    return shift, train, CellOT(**LEARNING).fit(Training(train))


def test_opposite_effects_are_told_apart(opposite: tuple) -> None:
    shift, train, model = opposite
    found = deltas(model, ask(train, [(c, p, "1") for c in ("x0", "x1") for p in ("up", "down")]))
    for delta, sign in zip(found, (1, -1, 1, -1), strict=True):
        explained = 1 - ((delta - sign * shift) ** 2).sum() / (shift**2).sum()
        assert explained > 0.8, explained


def test_doses_share_a_map_and_unseen_perturbations_are_refused(opposite: tuple) -> None:
    _, train, model = opposite
    found = model.predict(Query(ask(train, [("x0", "up", "1"), ("x0", "up", "77")])))  # all controls, in another order
    assert np.allclose(np.sort(dense(found.X)[:40], 0), np.sort(dense(found.X)[40:], 0), atol=1e-4)
    with pytest.raises(ContractError, match="CellOT was never shown perturbation sideways"):
        model.predict(Query(ask(train, [("x0", "sideways", "1")])))


def test_cells_keep_their_differences(opposite: tuple) -> None:
    """The map moves cells, not their mean: along the directions in which cells differ they still differ as much."""
    _, train, model = opposite
    query = ask(train, [("x0", "up", "1")])
    moved, controls = dense(model.predict(Query(query)).X), dense(query.X[(query.obs["context"] == "x0").to_numpy()])
    ratio = np.trace(np.cov(moved.T)) / np.trace(np.cov(controls.T))
    assert 0.5 < ratio < 1.6, ratio


def test_a_few_cells_are_learnt_by_heart() -> None:
    """Three cells of one context and as many controls: the map carries controls onto the cells."""
    rng = np.random.default_rng(0)
    values = {"control": rng.normal(5, 1, (3, 6)), "A": rng.normal(8, 1, (3, 6))}
    train = cells([("x", name, "1", list(row)) for name, block in values.items() for row in block])
    model = CellOT(**{**LEARNING, "steps": 250}).fit(Training(train))
    query = ask(train, [("x", "A", "1")], n_cells=3)
    moved = dense(model.predict(Query(query)).X)
    gap = np.linalg.norm(values["A"].mean(0) - values["control"].mean(0))
    nearest = np.linalg.norm(moved[:, None] - values["A"][None], axis=2).min(1)
    assert nearest.max() < 0.3 * gap
    assert np.linalg.norm(moved.mean(0) - values["A"].mean(0)) < 0.15 * gap


@pytest.mark.parametrize("least", [1, 100])
def test_weights_of_the_best_validation_stay(monkeypatch: pytest.MonkeyPatch, least: int) -> None:
    """A training whose second half is sabotaged ends as one that had only the first."""
    train = planted({"A": np.full(6, 2.0), "B": np.full(6, -2.0)}, n=16)
    settings = {**BRIEF, "steps": 30, "validate_every": 10, "least_validation": least}
    good = CellOT(**settings).fit(Training(train))
    step, calls = Transport.step, []

    def sabotaged(self: Transport, *arguments: object) -> tuple:
        calls.append(1)
        losses = step(self, *arguments)
        if len(calls) > 30:
            with torch.no_grad():
                self.g.A[-1].add_(20.0)
        return losses

    monkeypatch.setattr(Transport, "step", sabotaged)
    late = CellOT(**{**settings, "steps": 60}).fit(Training(train))
    assert len(calls) == 60
    assert same(good.maps, late.maps)
    train.obs["role"] = train.obs["role"].replace("val", "test")
    calls.clear()
    last = CellOT(**{**settings, "steps": 60}).fit(Training(train))
    assert last.maps.A[-1].max() > 100, "without validation the last weights stay"


def test_few_validation_cells_share_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    train = screen()
    train.obs.iloc[-1, train.obs.columns.get_loc("role")] = "val"  # one cell of B, three of A
    given = iter([[1.0, 9.0], [2.0, 1.0], [3.0, 5.0], [4.0, 8.0]])  # best: A first, both together second
    monkeypatch.setattr(Validation, "of", lambda *_: torch.tensor(next(given)))
    kept: list[list[float]] = []
    monkeypatch.setattr(Transport, "keep", lambda _, values: kept.append(values.tolist()))
    CellOT(**{**BRIEF, "least_validation": 3}).fit(Training(train))
    assert kept == [[1.0, 5.0], [2.0, 1.5], [3.0, 4.0], [4.0, 6.0]]


# --- resuming -----------------------------------------------------------------------------------------


class StoppedError(Exception):
    """The job was taken away."""


class Stopping(Run):
    """A run that is stopped when it has logged ``at`` times."""

    def __init__(self, resume: Path | None, at: int = -1) -> None:
        super().__init__(resume=resume)
        self.at, self.steps = at, []

    def log(self, step: int, **values: float) -> None:
        self.steps.append(step)
        if len(self.steps) == self.at:
            raise StoppedError


@pytest.mark.parametrize("at", [2, 3, 4, 6, 7])  # autoencoder: 1 to 3, maps: 4 to 7
def test_an_interrupted_training_resumes_to_the_same_bits(at: int, tmp_path: Path) -> None:
    train = screen()
    undisturbed = CellOT(**BRIEF).fit(Training(train))
    with pytest.raises(StoppedError):
        CellOT(**BRIEF).fit(Training(train), run=Stopping(tmp_path, at))
    again = Stopping(tmp_path)
    resumed = CellOT(**BRIEF).fit(Training(train), run=again)
    assert again.steps == list(range(at + 1, 8))
    assert same(undisturbed.autoencoder, resumed.autoencoder)
    assert same(undisturbed.maps, resumed.maps)
    assert not list(tmp_path.iterdir()), "checkpoints are left"


def test_a_training_stopped_between_its_phases_resumes_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train = screen()
    undisturbed = CellOT(**BRIEF).fit(Training(train))
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(Transport, "step", lambda *_: (_ for _ in ()).throw(StoppedError))
        CellOT(**BRIEF).fit(Training(train), run=Run(resume=tmp_path))
    assert same(undisturbed.maps, CellOT(**BRIEF).fit(Training(train), run=Run(resume=tmp_path)).maps)


def test_a_checkpoint_of_other_labels_is_not_resumed(tmp_path: Path) -> None:
    train = screen()
    with pytest.raises(StoppedError):
        CellOT(**BRIEF).fit(Training(train), run=Stopping(tmp_path, 5))
    train.obs.loc[train.obs["perturbation"] == "B", "perturbation"] = "C"
    again = Stopping(tmp_path)
    CellOT(**BRIEF).fit(Training(train), run=again)
    assert again.steps == list(range(1, 8))


# --- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batch_size": 0}, "batch_size is at least 1"),
        ({"hidden": []}, "at least one layer"),
        ({"start": "warm"}, "start is one of uniform, identity"),
        ({"start": "identity", "hidden": [5]}, "needs a first layer of 6 units"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        CellOT(**{**BRIEF, **change}).fit(Training(screen()))


def test_data_without_controls_or_perturbed_cells_is_refused() -> None:
    train = screen()
    lonely = train[~(train.obs["is_control"] & (train.obs["context"] == "y")).to_numpy()].copy()
    with pytest.raises(ContractError, match="context y has perturbed cells but no control cells"):
        CellOT(**BRIEF).fit(Training(lonely))
    with pytest.raises(CannotLearnError, match="no perturbed cells to learn from"):
        CellOT(**BRIEF).fit(Training(train[train.obs["is_control"].to_numpy()].copy()))


def test_a_training_that_diverges_says_so() -> None:
    with pytest.raises(ContractError, match=r"CellOT, maps: a loss is not finite.*lower the learning rate"):
        CellOT(**{**BRIEF, "learning_rate": 1e15}).fit(Training(screen()))


def test_other_genes_and_other_settings_are_refused(tmp_path: Path) -> None:
    train = screen()
    model = CellOT(**BRIEF).fit(Training(train))
    with pytest.raises(ContractError, match="other genes"):
        model.predict(Query(ask(train[:, ::-1].copy(), [("x", "A", "1")])))
    model.save(tmp_path)
    with pytest.raises(ContractError, match="weights of other settings"):
        CellOT(**{**BRIEF, "hidden": [6, 6]}).load(tmp_path)


def test_cells_are_densified_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    train = screen()
    whole = CellOT(**BRIEF).fit(Training(train))
    sizes: list[int] = []
    rows = CellsOnDevice.rows
    monkeypatch.setattr(CellsOnDevice, "rows", lambda self, index: (sizes.append(len(index)), rows(self, index))[1])
    monkeypatch.setattr(cellot, "CHUNK", 7)
    parts = CellOT(**BRIEF).fit(Training(train))
    assert max(sizes) == 8  # a batch
    query = ask(train, [("x", "A", "1"), ("y", "B", "1")])
    assert np.allclose(dense(whole.predict(Query(query)).X), dense(parts.predict(Query(query)).X), atol=1e-3)
