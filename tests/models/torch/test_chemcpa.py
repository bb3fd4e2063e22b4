"""chemCPA: its networks and losses, how drugs and doses enter, its training and its answers."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.special import expit, softmax

torch = pytest.importorskip("torch")

from trueshift.contract import ContractError, asked, check_prediction, dense, input_controls  # noqa: E402
from trueshift.models import chemcpa  # noqa: E402
from trueshift.models.base import CannotLearnError, Query, Training, build  # noqa: E402
from trueshift.models.chemcpa import ChemCPA  # noqa: E402
from trueshift.models.chemcpa_data import Rows, Treatments, drugs_of  # noqa: E402
from trueshift.models.chemcpa_network import (  # noqa: E402
    Adversaries,
    Batch,
    ChemCPANetwork,
    Norm,
    adversary_loss,
    autoencoder_loss,
    gradient_penalty,
)
from trueshift.tracking import Run  # noqa: E402

LINEAR = {"layers": 0, "drug_layers": 0, "doser_layers": 0, "hidden": 4, "drug_hidden": 4, "doser_hidden": 4}
SHALLOW = {"layers": 1, "drug_layers": 1, "doser_layers": 1, "adversary_layers": 1}
NARROW = {"latent": 4, "hidden": 16, "drug_hidden": 8, "doser_hidden": 4, "adversary_hidden": 8}
BRIEF = {**SHALLOW, **NARROW, "epochs": 6, "validate_every": 2, "batch_size": 16, "threads": 1}
LEARNS = {
    **BRIEF,
    **{"hidden": 64, "latent": 8, "drug_hidden": 32, "adversary_hidden": 32, "drug_weight": 1.0, "context_weight": 1.0},
    **{
        "epochs": 80,
        "batch_size": 32,
        "learning_rate": 1e-2,
        "adversary_learning_rate": 1e-2,
        "validate_every": 10,
        "decay": 0.95,
    },
}


# --- data ---------------------------------------------------------------------------------------------

DRUGS = [f"D{i}" for i in range(12)]


def planted(
    drugs: list[str] = DRUGS,
    contexts: int = 2,
    repeats: int = 4,
    genes: int = 20,
    noise: float = 0.2,
    zero_shot: bool = False,
) -> ad.AnnData:
    """Profiles whose effects are linear in the drugs' four features, half as strong at dose 1 as at dose 10.

    D10 and D11 are in the table of features alone, D10 with the features of D0.
    With ``zero_shot`` the last context has controls only. About every eighth perturbed profile has role val.
    """
    rng = np.random.default_rng(5)
    table = pd.DataFrame(rng.normal(size=(len(DRUGS), 4)), index=DRUGS)
    table.loc["D10"] = table.loc["D0"]
    slopes = rng.normal(size=(4, genes))
    level = rng.uniform(9, 13, (contexts, genes))
    blocks, rows = [], []
    for c in range(contexts):
        for name in ["control", *drugs]:
            if name in ("D10", "D11") or (zero_shot and c == contexts - 1 and name != "control"):
                continue
            n = 4 * repeats if name == "control" else repeats
            doses = ["0"] * n if name == "control" else [("10", "1")[i % 2] for i in range(n)]
            effect = np.zeros(genes) if name == "control" else table.loc[name].to_numpy() @ slopes
            strength = np.array([{"0": 0.0, "1": 0.5, "10": 1.0}[dose] for dose in doses])
            blocks.append(level[c] + strength[:, None] * effect + noise * rng.normal(size=(n, genes)))
            rows += [(f"C{c}", name, "b", dose, "drug") for dose in doses]
    obs = pd.DataFrame(rows, columns=["context", "perturbation", "batch", "dose", "modality"])
    obs["is_control"] = obs["perturbation"] == "control"
    val = ~obs["is_control"] & (np.arange(len(obs)) % 8 == 3)
    obs["role"] = np.where(obs["is_control"], "control_input", np.where(val, "val", "train"))
    obs.index = pd.Index([f"p{i}" for i in range(len(obs))])
    uns = {"trueshift": {"schema_version": 1, "kind": "profile"}, "perturbation_features": {"linear": table}}
    var = pd.DataFrame(index=pd.Index([f"g{i}" for i in range(genes)]))
    X = sparse.csr_matrix(np.concatenate(blocks).astype(np.float32))
    return ad.AnnData(X, obs=obs, var=var, uns={**uns, "truth": (table @ slopes).to_numpy()})


def ask(train: ad.AnnData, conditions: list[tuple[str, ...]]) -> ad.AnnData:
    """A query of conditions (context, perturbation, dose 10 unless given), with all controls of training."""
    query = train[train.obs["is_control"].to_numpy()].copy()
    rows = [(context, name, dose[0] if dose else "10") for context, name, *dose in conditions]
    table = pd.DataFrame(rows, columns=["context", "perturbation", "dose"])
    query.uns["conditions"] = table.assign(modality="drug", n_cells=4, n_seen=1)
    return query


def effects(model: ChemCPA, query: ad.AnnData) -> np.ndarray:
    """Predicted mean of each condition minus that of its controls, (C, G)."""
    prediction = model.predict(Query(query))
    check_prediction(prediction, query, "prediction")
    keys = [prediction.obs[name].astype(str) for name in ("context", "perturbation", "dose")]
    means = pd.DataFrame(prediction.X.astype(np.float64)).groupby([key.to_numpy() for key in keys], sort=False).mean()
    controls = np.stack([dense(query.X)[rows].mean(0) for rows in input_controls(query)])
    return means.to_numpy() - controls


def equal(one: ChemCPA, other: ChemCPA) -> bool:
    a, b = one.network.state_dict(), other.network.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Recorder(Run):
    """Keeps what is logged."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(resume=folder)
        self.lines: list[dict] = []

    def log(self, step: int, **values: float) -> None:
        self.lines.append({"step": step, **values})


@pytest.fixture(scope="module")
def train() -> ad.AnnData:
    return planted()


@pytest.fixture(scope="module")
def learnt(train: ad.AnnData) -> ChemCPA:
    return ChemCPA(**LEARNS).fit(Training(train))


# --- networks -----------------------------------------------------------------------------------------


def linear_network(genes: int = 5, features: int = 3, contexts: int = 2, latent: int = 4) -> ChemCPANetwork:
    torch.manual_seed(1)
    widths = {"genes": genes, "features": features, "contexts": contexts, "latent": latent, "nonnegative": False}
    return ChemCPANetwork(**widths, **LINEAR).double()


def batch(rows: int = 6, genes: int = 5, features: int = 3) -> Batch:
    """Row 0 has two drugs, row 1 none (a control), every other row one."""
    rng = np.random.default_rng(2)
    row = torch.tensor([0, 0, *range(2, rows)])
    return Batch(
        x=torch.tensor(rng.normal(size=(rows, genes))),
        context=torch.arange(rows) % 2,
        drugs=torch.tensor(rng.normal(size=(len(row), features))),
        dose=torch.tensor(rng.uniform(size=len(row))),
        row=row,
        label=torch.tensor([2, 0, *([1, 2] * rows)][:rows]),
    )


def numbers(part: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Weight (out, in) and bias (out,) of a network that is one linear map."""
    return part[0].weight.detach().numpy(), part[0].bias.detach().numpy()


def test_the_latent_is_basal_plus_scaled_drugs_plus_context() -> None:
    network, some = linear_network(), batch()
    z = network.latent(network.encoder(some.x), some).detach().numpy()
    (We, be), (Wd, bd), (Ws, bs) = numbers(network.encoder), numbers(network.drug), numbers(network.doser)
    context = network.context.weight.detach().numpy()
    x, drugs, dose = some.x.numpy(), some.drugs.numpy(), some.dose.numpy()
    for i in range(6):
        expected = We @ x[i] + be + context[i % 2]
        for k in np.flatnonzero(some.row.numpy() == i):
            expected = expected + expit(Ws[0] @ [*drugs[k], dose[k]] + bs[0]) * (Wd @ drugs[k] + bd)
        np.testing.assert_allclose(z[i], expected, rtol=1e-12)
    mean, variance = network.decode(torch.tensor(z))
    W, b = numbers(network.decoder)
    np.testing.assert_allclose(mean.detach(), z @ W[:5].T + b[:5])
    np.testing.assert_allclose(variance.detach(), np.log1p(np.exp(z @ W[5:].T + b[5:])))


def test_the_doser_is_a_sigmoid_that_rises_with_a_positive_slope_and_is_not_0_at_dose_0() -> None:
    network = linear_network()
    with torch.no_grad():
        network.doser[0].weight[0] = torch.tensor([0.5, 0, 0, 2.0])
        network.doser[0].bias[0] = -1
    drug = torch.tensor([[1.0, 3, -2]], dtype=torch.float64)
    s = [network.strength(drug, torch.tensor([t], dtype=torch.float64)).item() for t in (0, 0.25, 1, 2)]
    np.testing.assert_allclose(s, expit([-0.5, 0, 1.5, 3.5]))
    assert all(a < b for a, b in pairwise(s))
    assert 0 < s[0] < s[-1] < 1


def test_the_decoder_starts_at_the_mean_and_variance_given() -> None:
    network = linear_network()
    with torch.no_grad():
        network.decoder[0].weight.zero_()
    mean, variance = torch.tensor([0.0, 1, 2, -3, 9]), torch.tensor([0.04, 1, 2.5, 0.5, 6])
    network.start_at(mean, variance)
    got = network.decode(torch.zeros(1, 4, dtype=torch.float64))
    np.testing.assert_allclose(got[0][0].detach(), mean, rtol=1e-6)
    np.testing.assert_allclose(got[1][0].detach(), variance, rtol=1e-6)


def test_batches_of_one_drug_or_none_can_be_learnt_from() -> None:
    norm = Norm(3)
    norm.running_mean.copy_(torch.tensor([1.0, 2, 3]))
    x = torch.tensor([[2.0, 4, 3]])
    np.testing.assert_allclose(norm(x).detach(), [[1, 2, 0]], atol=1e-4)
    assert norm(x[:0]).shape == (0, 3)
    assert norm(torch.tensor([[1.0, 5, 0], [3, 5, 8]]))[:, 0].tolist() == pytest.approx([-1, 1], abs=1e-4)


def adversaries(labels: int = 3) -> Adversaries:
    torch.manual_seed(3)
    return Adversaries(latent=4, labels=labels, contexts=2, hidden=8, layers=0).double()


def test_the_encoder_is_driven_to_raise_the_loss_of_the_adversaries() -> None:
    network, judges, some = linear_network(), adversaries(), batch()
    encoder = network.encoder[0].weight
    loss, nll = autoencoder_loss(network, judges, some, 9.1, 16.17)
    (whole,) = torch.autograd.grad(loss, encoder, retain_graph=True)
    (of_nll,) = torch.autograd.grad(nll, encoder)
    basal = network.encoder(some.x).detach().numpy()
    expected = 0  # the derivative of a cross-entropy by its logits is softmax − truth
    for judge, truth, weight in ((judges.drug, some.label, 9.1), (judges.context, some.context, 16.17)):
        W, b = numbers(judge)
        slope = (softmax(basal @ W.T + b, axis=1) - np.eye(len(W))[truth]) / len(basal)
        expected = expected - weight * (slope @ W).T @ some.x.numpy()
    np.testing.assert_allclose((whole - of_nll).numpy(), expected, rtol=1e-9)

    def of_adversaries() -> float:
        logits = judges(network.encoder(some.x))
        parts = (
            torch.nn.functional.cross_entropy(a, b) for a, b in zip(logits, (some.label, some.context), strict=True)
        )
        return sum(part.item() for part in parts)

    before = of_adversaries()
    with torch.no_grad():
        encoder -= 1e-3 * (whole - of_nll)  # a step of the autoencoder by this part of its loss
    raised = of_adversaries()
    assert raised > before
    own = adversary_loss(judges, network.encoder(some.x), some.label, some.context, 0.0)
    assert own.item() == pytest.approx(raised)
    own.backward()
    assert network.encoder[0].weight.grad is None  # the adversaries' step leaves the encoder alone
    with torch.no_grad():
        for parameter in judges.parameters():
            parameter -= 1e-2 * parameter.grad
    assert of_adversaries() < raised


def test_the_nll_is_that_of_a_normal_distribution_and_sees_the_rows_themselves() -> None:
    network, some = linear_network(), batch()
    mean, variance = network.decode(network.latent(network.encoder(some.x), some))
    normal = torch.distributions.Normal(mean, variance.sqrt())
    expected = -normal.log_prob(some.x).mean().item() - np.log(2 * np.pi) / 2  # without the constant
    assert autoencoder_loss(network, adversaries(), some, 0, 0)[0].item() == pytest.approx(expected)


def test_the_gradient_penalty_of_a_linear_classifier() -> None:
    judges, some = adversaries(), batch()
    basal = torch.tensor(np.random.default_rng(0).normal(size=(6, 4)), requires_grad=True)
    weight = judges.drug[0].weight
    W = weight.detach().numpy()
    penalty = gradient_penalty(judges(basal)[0], basal)
    assert penalty.item() == pytest.approx(np.mean(W.sum(axis=0) ** 2))  # ∂ Σ (W z + b) / ∂ z = 1ᵀ W in every row
    (slope,) = torch.autograd.grad(penalty, weight)
    np.testing.assert_allclose(slope, np.tile(2 * W.sum(axis=0) / 4, (3, 1)))
    with_it, without = (adversary_loss(judges, basal, some.label, some.context, w).item() for w in (0.5, 0.0))
    both = penalty.item() + gradient_penalty(judges(basal)[1], basal).item()
    assert with_it - without == pytest.approx(0.5 * both)


# --- drugs and doses ----------------------------------------------------------------------------------


def test_each_drug_of_a_combination_has_its_own_dose() -> None:
    names, doses, owner = drugs_of(["control", "A+B", "A", "C+A+B"], ["0", "1+0.5", "1e+1", "1+2e-3+3"])
    assert names.tolist() == ["A", "B", "A", "C", "A", "B"]
    assert doses.tolist() == [1, 0.5, 10, 1, 0.002, 3]
    assert owner.tolist() == [1, 1, 2, 3, 3, 3]
    assert len(drugs_of(["control"], ["0"])[0]) == 0
    assert drugs_of(["A", "A+B"], ["1e+12", "1e+12+2"])[1].tolist() == [1e12, 1e12, 2]
    with pytest.raises(ContractError, match=r"dose 1 of A\+B is not one number per drug"):
        drugs_of(["A+B"], ["1"])


def test_a_batch_is_given_the_drugs_of_its_conditions() -> None:
    features = np.arange(6, dtype=np.float32).reshape(3, 2)
    doses = np.linspace(0, 1, 6, dtype=np.float32)
    given = Treatments(features, np.array([0, 1, 0, 2, 0, 1]), doses, np.array([0, 2, 1, 3]))
    condition = np.array([3, 0, 2, 1, 0, 3])
    got = given.batch(torch.zeros(6, 1), condition, condition, condition, "cpu")
    place = [3, 4, 5, 2, 0, 1, 3, 4, 5]
    assert got.row.tolist() == [0, 0, 0, 2, 3, 3, 5, 5, 5]  # none for rows 1 and 4, the controls
    np.testing.assert_array_equal(got.dose, doses[place])
    np.testing.assert_array_equal(got.drugs, features[given.drug[place]])


def prepared(train: ad.AnnData) -> ChemCPA:
    """A model that knows its scales, of no epochs."""
    return ChemCPA(**{**BRIEF, "epochs": 0}).fit(Training(train))


def with_doses(train: ad.AnnData, doses: list[str]) -> ad.AnnData:
    copy = train.copy()
    dosed = np.array(doses)[np.arange(train.n_obs) % len(doses)]
    copy.obs["dose"] = np.where(copy.obs["is_control"], "0", dosed)
    return copy


def test_doses_are_scaled_by_the_logarithm_between_the_smallest_and_the_largest_of_training(train: ad.AnnData) -> None:
    series = ["0.04", "0.12", "0.37", "1.11", "3.33", "10"]
    model = prepared(with_doses(train, series))
    labels = pd.DataFrame({"perturbation": "D1", "dose": [*series, "0", "100"]})
    t = model._treatments(labels).dose
    np.testing.assert_allclose(t[:6], [0.1254, 0.2509, 0.4212, 0.6078, 0.8024, 1], atol=1e-4)
    assert t[6] == 0
    assert 1 < t[7] < 1.5
    nanomolar = prepared(with_doses(train, ["40", "120", "370", "1110", "3330", "10000"]))
    labels["dose"] = ["40", "120", "370", "1110", "3330", "10000", "0", "100000"]
    np.testing.assert_allclose(nanomolar._treatments(labels).dose, t, rtol=1e-6)


def test_features_are_standardised_by_the_drugs_learnt_from(train: ad.AnnData) -> None:
    train = train.copy()
    table = train.uns["perturbation_features"]["linear"]
    table[4] = 3.0  # the same for all drugs of training
    table.loc["D11", 4] = 4.0
    table.loc["D11", 0] = 1e6
    table[5] = 1e20 * table[0]  # as wide as some descriptors are
    model = prepared(train)
    shown = DRUGS[:10]
    values = model._treatments(pd.DataFrame({"perturbation": shown, "dose": "10"})).features
    np.testing.assert_allclose(values[:, [0, 1, 2, 3, 5]].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(values[:, [0, 1, 2, 3, 5]].std(axis=0), 1, rtol=1e-5)
    assert not values[:, 4].any()
    unlike = model._treatments(pd.DataFrame({"perturbation": ["D11"], "dose": ["10"]})).features[0]
    assert unlike[0] == 10
    assert unlike[4] == 0


def test_the_drug_features_are_frozen(train: ad.AnnData) -> None:
    before = train.uns["perturbation_features"]["linear"].copy()
    model = ChemCPA(**BRIEF).fit(Training(train))
    np.testing.assert_array_equal(model.known.values, before)
    pd.testing.assert_frame_equal(train.uns["perturbation_features"]["linear"], before)
    trained = [name for name, _ in model.network.named_parameters()]
    assert {name.split(".")[0] for name in trained} == {"encoder", "decoder", "drug", "doser", "context"}
    other = train.copy()
    other.uns["perturbation_features"]["linear"].loc["D11"] += 1  # of no drug in training
    assert equal(ChemCPA(**BRIEF).fit(Training(other)), model)


# --- learning -----------------------------------------------------------------------------------------


def test_overfits_twelve_profiles() -> None:
    train = planted(drugs=["D1", "D2", "D3", "D4"], contexts=1, repeats=2, noise=0.05)
    perturbed = np.flatnonzero(~train.obs["is_control"])
    train = train[np.append(perturbed, np.flatnonzero(train.obs["is_control"])[:4])].copy()
    train.obs["role"] = np.where(train.obs["is_control"], "control_input", "train")
    assert train.n_obs == 12
    model = ChemCPA(**{**LEARNS, "drug_weight": 0.0, "context_weight": 0.0, "epochs": 400, "decay": 1.0}).fit(
        Training(train)
    )
    rows = Rows.of(train)
    own = model._treatments(rows.conditions).batch(
        torch.from_numpy(dense(train.X)), rows.condition, rows.context, rows.label, "cpu"
    )
    with torch.no_grad():
        error = (model.network(own) - own.x).square().mean().item()
    assert error < 0.03 * own.x.var(dim=0).mean().item()


def explained(predicted: np.ndarray, truth: np.ndarray) -> float:
    """1 − squared error as a share of that of no change."""
    return 1 - ((predicted - truth) ** 2).sum() / (truth**2).sum()


def test_learns_effects_that_are_linear_in_features_and_carries_them_to_unseen_drugs() -> None:
    hidden = ["D3", "D7"]
    train = planted([name for name in DRUGS if name not in hidden], repeats=6)
    model = ChemCPA(**LEARNS).fit(Training(train))
    truth = dict(zip(DRUGS, train.uns["truth"], strict=True))
    for names in (["D0", "D1", "D5"], hidden):
        query = ask(train, [(context, name) for context in ("C0", "C1") for name in names])
        assert explained(effects(model, query), np.stack([truth[name] for name in names * 2])) > 0.5


def test_learns_the_strength_of_a_dose_and_takes_doses_it_was_not_shown(train: ad.AnnData, learnt: ChemCPA) -> None:
    names = ["D0", "D1", "D2", "D4"]
    truth = dict(zip(DRUGS, train.uns["truth"], strict=True))
    low, between, high = (
        np.mean(
            [effect @ truth[name] / (truth[name] @ truth[name]) for effect, name in zip(predicted, names, strict=True)]
        )
        for predicted in (
            effects(learnt, ask(train, [("C0", name, dose) for name in names])) for dose in ("1", "3", "10")
        )
    )
    assert 0.2 < low < between < high < 1.5
    assert high > 1.3 * low


def test_an_unseen_drug_with_the_features_of_a_seen_one_gets_its_answer(train: ad.AnnData, learnt: ChemCPA) -> None:
    query = ask(train, [("C0", "D0"), ("C0", "D10"), ("C0", "D11")])
    same, other, unlike = effects(learnt, query)
    np.testing.assert_allclose(same, other, atol=1e-5)
    assert np.abs(same - unlike).max() > 0.1


def test_a_combination_is_the_sum_of_its_drugs_at_their_doses(train: ad.AnnData, learnt: ChemCPA) -> None:
    labels = [("C0", "D0+D1", "10+1"), ("C0", "D1+D0", "1+10"), ("C0", "D0+D1", "1+10"), ("C0", "D0", "10")]
    one, same, swapped, single = effects(learnt, ask(train, labels))
    np.testing.assert_allclose(one, same, atol=1e-5)
    assert np.abs(one - swapped).max() > 1e-3
    assert np.abs(one - single).max() > 0.1


def test_a_context_with_controls_alone_has_an_embedding_of_its_own() -> None:
    train = planted(contexts=3, zero_shot=True)
    model = ChemCPA(**LEARNS, seed=1).fit(Training(train))
    start = ChemCPA(**{**LEARNS, "epochs": 0}, seed=1).fit(Training(train))
    assert model.facts["contexts"] == ["C0", "C1", "C2"]
    moved = (model.network.context.weight - start.network.context.weight).abs().amax(dim=1)
    assert (moved > 1e-2).all()
    truth = train.uns["truth"][:4]
    assert explained(effects(model, ask(train, [("C2", name) for name in DRUGS[:4]])), truth) > 0.4


def test_every_third_step_is_the_adversaries_own(train: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    for name, loss in (("ad", adversary_loss), ("au", autoencoder_loss)):

        def noting(*args: object, name: str = name, loss: Callable = loss) -> object:
            steps.append(name)
            return loss(*args)

        monkeypatch.setattr(chemcpa, loss.__name__, noting)
    ChemCPA(**{**BRIEF, "batch_size": 1000}).fit(Training(train))  # one step an epoch
    assert steps == ["ad", "au", "au", "ad", "au", "au"]
    steps.clear()
    ChemCPA(**{**BRIEF, "epochs": 1, "adversary_every": 2}).fit(Training(train))
    assert steps[:4] == ["ad", "au", "ad", "au"]
    with pytest.raises(ContractError, match="adversary_every 1 leaves the autoencoder no step"):
        ChemCPA(**{**BRIEF, "adversary_every": 1}).fit(Training(train))


def test_learning_rates_decay(train: ad.AnnData) -> None:
    def weights(epochs: int) -> list[torch.Tensor]:
        settings = {**BRIEF, "epochs": epochs, "decay": 0.0, "decay_every": 2, "validate_every": 1000}
        alone = train[(train.obs["role"] != "val").to_numpy()].copy()
        return list(ChemCPA(**settings).fit(Training(alone)).network.parameters())

    same = zip(weights(2), weights(5), strict=True)
    assert all(torch.equal(a, b) for a, b in same)  # nothing moves from the third epoch on
    assert any(not torch.equal(a, b) for a, b in zip(weights(1), weights(2), strict=True))


def test_validation_predicts_conditions_from_controls(train: ad.AnnData) -> None:
    train = train.copy()
    controls = train.obs_names[train.obs["is_control"] & (train.obs["context"] == "C0")]
    train.obs["control_id"] = ""
    train.obs.loc[train.obs["role"] == "val", "control_id"] = controls[:2].repeat(50)[
        : (train.obs["role"] == "val").sum()
    ]
    recorder = Recorder()
    model = ChemCPA(**LEARNS).fit(Training(train), run=recorder)
    rows, X = Rows.of(train), dense(train.X)
    val = train.obs[train.obs["role"] == "val"]
    assert train.obs_names[rows.val].tolist() == val.index.tolist()
    assert train.obs_names[rows.val_control].tolist() == val["control_id"].tolist()
    start = torch.from_numpy(X[rows.val_control])
    drugs = model._treatments(rows.conditions)
    with torch.no_grad():
        given = drugs.batch(start, rows.condition[rows.val], rows.context[rows.val], rows.label[rows.val], "cpu")
        error = pd.DataFrame(model.network(given).numpy() - X[rows.val])
    by_condition = error.groupby([val["context"].to_numpy(), val["perturbation"].to_numpy()]).mean()
    losses = [line["val_loss"] for line in recorder.lines]
    assert (by_condition.to_numpy() ** 2).mean() == pytest.approx(min(losses), rel=1e-4)
    assert min(losses) < losses[0]


def test_rows_of_role_val_are_never_learnt_from(train: ad.AnnData) -> None:
    other = train.copy()
    val = (train.obs["role"] == "val").to_numpy()
    other.X = sparse.csr_matrix(dense(train.X) + 3 * val[:, None].astype(np.float32))
    lines = []
    for data in (train, other):
        recorder = Recorder()
        ChemCPA(**BRIEF).fit(Training(data), run=recorder)
        lines.append(pd.DataFrame(recorder.lines))
    pd.testing.assert_frame_equal(*(part.drop(columns="val_loss") for part in lines))
    assert (lines[1]["val_loss"] > lines[0]["val_loss"]).all()
    rows = Rows.of(train)
    assert not val[rows.learn].any()
    assert len(rows.learn) + val.sum() == train.n_obs
    assert "control" in rows.labels


def test_validation_starts_from_controls_of_the_context(train: ad.AnnData) -> None:
    rows = Rows.of(train)
    obs = train.obs.iloc[rows.val_control]
    assert obs["is_control"].all()
    assert obs["context"].tolist() == train.obs["context"].iloc[rows.val].tolist()
    assert len(set(rows.val_control)) > 2


def test_stops_early(train: ad.AnnData, capsys: pytest.CaptureFixture) -> None:
    recorder = Recorder()
    still = {"learning_rate": 0.0, "epochs": 60, "validate_every": 1, "patience": 3, "weight_decay": 0.0}
    ChemCPA(**{**BRIEF, **still}).fit(Training(train), run=recorder)
    best = int(np.argmin([line["val_loss"] for line in recorder.lines]))
    assert len(recorder.lines) == best + 4 < 60
    assert "early stopping on" in capsys.readouterr().out


# --- pretraining and resuming -------------------------------------------------------------------------

TWO_PHASES = {**BRIEF, "pretrain_contexts": ["C0"], "pretrain_epochs": 4, "epochs": 6}


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("at", [1, 3, 4, 5, 8])
def test_an_interrupted_training_resumes_to_the_same_bits(
    at: int, train: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, epochs = ChemCPA(**TWO_PHASES).fit(Training(train)), []

    def counting(rng: np.random.Generator, *args: int, **options: int) -> list[np.ndarray]:
        if len(epochs) == at and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise StoppedError
        epochs.append(at)
        return real(rng, *args, **options)

    real = chemcpa.shuffled_batches
    monkeypatch.setattr(chemcpa, "shuffled_batches", counting)
    with pytest.raises(StoppedError):
        ChemCPA(**TWO_PHASES).fit(Training(train), run=Run(resume=tmp_path))
    assert (tmp_path / "pretrain.pt").exists() == (at > 1)
    epochs.clear()
    (tmp_path / "stopped").touch()
    recorder = Recorder(tmp_path)
    resumed = ChemCPA(**TWO_PHASES).fit(Training(train), run=recorder)
    assert equal(undisturbed, resumed)
    kept = at // 2 * 2 if at != 5 else 4  # checkpoints are written after 2, 4, 6 and 8 epochs
    assert len(epochs) == 10 - kept
    assert [line["step"] for line in recorder.lines] == list(range(kept + 2, 11, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["stopped"]


def train_until_killed(folder: str) -> None:
    """Trains and kills its own process, without warning, in the seventh epoch (the third of fine-tuning)."""
    real, calls = chemcpa.shuffled_batches, []

    def die(*args: object, **options: object) -> list[np.ndarray]:
        calls.append(0)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)

    chemcpa.shuffled_batches = die
    ChemCPA(**TWO_PHASES).fit(Training(planted()), run=Run(resume=Path(folder)))


def test_a_killed_training_resumes_to_the_same_bits(train: ad.AnnData, tmp_path: Path) -> None:
    child = "import sys, test_chemcpa; test_chemcpa.train_until_killed(sys.argv[1])"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", child, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert {path.name for path in tmp_path.glob("[!.]*")} == {"pretrain.pt", "state.pt"}
    recorder = Recorder(tmp_path)
    resumed = ChemCPA(**TWO_PHASES).fit(Training(train), run=recorder)
    assert [line["step"] for line in recorder.lines] == [8, 10]
    assert equal(ChemCPA(**TWO_PHASES).fit(Training(train)), resumed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["settings", "expression", "doses", "features"])
def test_a_checkpoint_of_another_training_is_not_resumed(
    what: str, train: ad.AnnData, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    class Stopping(Run):
        def log(self, step: int, **values: float) -> None:
            raise StoppedError

    with pytest.raises(StoppedError):
        ChemCPA(**BRIEF).fit(Training(train), run=Stopping(resume=tmp_path))
    settings, other = BRIEF, train.copy()
    if what == "settings":
        settings = {**BRIEF, "drug_weight": 1.0}
    elif what == "expression":
        other.X = other.X * 1.01
    elif what == "doses":
        other = with_doses(other, ["1", "10"])
    else:
        other.uns["perturbation_features"]["linear"].loc["D2"] += 1
    fresh = ChemCPA(**settings).fit(Training(other), run=Run(resume=tmp_path))
    assert "of other settings or data: started afresh" in capsys.readouterr().out
    assert equal(fresh, ChemCPA(**settings).fit(Training(other)))


def test_pretraining_takes_its_contexts_and_fine_tuning_the_rest(train: ad.AnnData) -> None:
    train = train.copy()
    train.obs["role"] = train.obs["role"].mask((train.obs["context"] == "C0") & train.obs["is_control"], "train")
    rows, context = Rows.of(train), train.obs["context"].to_numpy()
    first, second = ChemCPA(**{**BRIEF, "pretrain_contexts": "others", "pretrain_epochs": 3})._phases(train, rows)
    assert (first.file, first.epochs, second.file, second.epochs) == ("pretrain.pt", 3, "state.pt", 6)
    for phase, name in ((first, "C0"), (second, "C1")):
        assert set(context[phase.learn]) == set(context[phase.val]) == {name}
        assert len(phase.val) == len(phase.val_control) > 0
    assert len(first.learn) + len(second.learn) == len(rows.learn)
    assert train.obs["is_control"].iloc[second.learn].any()
    with pytest.raises(ContractError, match=r"fine-tuning: there are no perturbed rows .* pretrain_contexts"):
        ChemCPA(**BRIEF, pretrain_contexts=["C0", "C1"]).fit(Training(train))
    with pytest.raises(ContractError, match="C9, which is not a training context"):
        ChemCPA(**BRIEF, pretrain_contexts="C9").fit(Training(train))


def test_pretraining_changes_what_is_learnt(train: ad.AnnData) -> None:
    tuned = ChemCPA(**TWO_PHASES).fit(Training(train))
    alone = ChemCPA(**{**TWO_PHASES, "pretrain_epochs": 0}).fit(Training(train))
    assert not equal(tuned, alone)


# --- answers ------------------------------------------------------------------------------------------


def test_save_and_load_keep_the_answers(train: ad.AnnData, learnt: ChemCPA, tmp_path: Path) -> None:
    query = ask(train, [("C1", "D0"), ("C0", "D1+D11", "1+10")])
    learnt.save(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["features.npz", "model.json", "weights.pt"]
    settings = {"class": "trueshift.models.chemcpa.ChemCPA", "params": LEARNS}
    np.testing.assert_array_equal(
        build(settings, 0).load(tmp_path).predict(Query(query)).X, learnt.predict(Query(query)).X
    )
    with pytest.raises(ContractError, match="weights of other settings"):
        ChemCPA(**{**LEARNS, "latent": 5}).load(tmp_path)


def test_every_input_control_of_a_profile_query_is_a_row_of_the_answer(train: ad.AnnData, learnt: ChemCPA) -> None:
    query = ask(train, [("C0", "D0"), ("C1", "D0")])
    prediction = learnt.predict(Query(query))
    assert prediction.n_obs == query.n_obs
    assert len({tuple(row) for row in prediction.X}) == query.n_obs  # none is lost on the way through the encoder
    assert len(asked(query)) == 2


def test_decoded_means_are_rectified_where_expression_is_never_negative(train: ad.AnnData) -> None:
    lowered = train.copy()
    lowered.X = sparse.csr_matrix(dense(train.X) - 8)
    for data, negative in ((train, False), (lowered, True)):
        model = prepared(data)
        assert model.facts["nonnegative"] is not negative
        with torch.no_grad():
            model.network.decoder[-1].bias -= 100
        assert (model.predict(Query(ask(data, [("C0", "D0")]))).X.min() < 0) == negative


def test_bad_input_is_named(train: ad.AnnData, learnt: ChemCPA) -> None:
    bare = train.copy()
    del bare.uns["perturbation_features"]
    with pytest.raises(ContractError, match="needs one table of perturbation features, the dataset has none"):
        ChemCPA(**BRIEF).fit(Training(bare))
    with pytest.raises(ContractError, match="needs perturbation features kpgt, the dataset has linear"):
        ChemCPA(**BRIEF, features="kpgt").fit(Training(train))
    short = train.copy()
    short.uns["perturbation_features"]["linear"] = train.uns["perturbation_features"]["linear"].drop("D4")
    with pytest.raises(ContractError, match="D4 has no row in perturbation features linear"):
        ChemCPA(**BRIEF).fit(Training(short))
    with pytest.raises(CannotLearnError, match="no perturbed rows of role train to learn from; check the split"):
        ChemCPA(**BRIEF).fit(Training(train[train.obs["is_control"].to_numpy()].copy()))
    elsewhere = ask(train, [("C0", "D0")])
    elsewhere.obs["context"] = "C7"
    elsewhere.uns["conditions"]["context"] = "C7"
    with pytest.raises(ContractError, match="chemCPA was never shown context C7"):
        learnt.predict(Query(elsewhere))
    with pytest.raises(ContractError, match="X has no row in perturbation features linear"):
        learnt.predict(Query(ask(train, [("C0", "X")])))
    with pytest.raises(ContractError, match="other genes than the training"):
        learnt.predict(Query(ask(train, [("C0", "D0")])[:, ::-1].copy()))
    with pytest.raises(ContractError, match="a loss is not finite"):
        ChemCPA(**{**BRIEF, "learning_rate": 1e30}).fit(Training(train))
