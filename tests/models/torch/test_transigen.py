"""TranSiGen: its divergences and loss, its training, its answers."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

torch = pytest.importorskip("torch")

from torch import distributions  # noqa: E402

from trueshift.contract import ContractError, check_prediction, dense  # noqa: E402
from trueshift.models.base import CannotLearnError, Query, Training  # noqa: E402
from trueshift.models.transigen import Gaussian, TranSiGen, TransigenNetwork  # noqa: E402
from trueshift.tracking import Run  # noqa: E402

GENES = 20
DRUGS = [f"D{i}" for i in range(12)]
SMALL = {
    "encoder_width": 48,
    "latent": 8,
    "decoder_width": 48,
    "molecule_width": 24,
    "epochs": 60,
    "batch_size": 16,
    "learning_rate": 5e-3,
    "threads": 1,
}
BRIEF = {**SMALL, "epochs": 6}


# --- data ---------------------------------------------------------------------------------------------


def features() -> pd.DataFrame:
    values = np.random.default_rng(1).uniform(-1, 1, (len(DRUGS), 3))
    return pd.DataFrame(values, index=DRUGS, columns=["f0", "f1", "f2"])


def shifts() -> np.ndarray:
    """Effects linear in features, with a part that all drugs share, shape (drug, gene)."""
    rng = np.random.default_rng(2)
    return 0.5 * rng.normal(size=GENES) + features().to_numpy() @ rng.normal(size=(3, GENES))


def paired(unseen: int = 2, level: float = 8.0, validation: bool = True) -> tuple[ad.AnnData, ad.AnnData, np.ndarray]:
    """Profiles, each perturbed one with a control of its own; train, query for the last drugs, and the truth of it."""
    rng = np.random.default_rng(3)
    blocks, rows = [], []
    for context in ("A", "B"):
        base = level + rng.normal(size=GENES)
        for i in range(12):
            blocks.append(base + 0.2 * rng.normal(size=GENES))
            rows.append((context, "control", "0", f"c{context}{i}", ""))
        for number, drug in enumerate(DRUGS):
            for i in range(4):
                own = int(rng.integers(12))
                control = blocks[[row[3] for row in rows].index(f"c{context}{own}")]
                blocks.append(control + shifts()[number] + 0.1 * rng.normal(size=GENES))
                rows.append((context, drug, "10", f"t{context}{drug}{i}", f"c{context}{own}"))
    obs = pd.DataFrame(rows, columns=["context", "perturbation", "dose", "id", "control_id"]).set_index("id")
    obs["batch"], obs["modality"] = "b", "drug"
    obs["is_control"] = obs["perturbation"] == "control"
    val = validation & obs.index.str.endswith("3") & ~obs["is_control"]
    obs["role"] = np.where(obs["is_control"], "control_input", np.where(val, "val", "train"))
    matrix = sparse.csr_matrix(np.array(blocks, dtype=np.float32))
    data = ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(GENES)]))
    data.uns["trueshift"] = {"schema_version": 1, "kind": "profile"}
    data.uns["perturbation_features"] = {"made": features()}
    asked = data.obs["perturbation"].isin(DRUGS[len(DRUGS) - unseen :]).to_numpy()
    train = data[~asked].copy()
    table = obs[asked].groupby(["context", "perturbation", "dose"])["control_id"].agg("\t".join).reset_index()
    return train, question(train, table), truth(table, data)


def question(train: ad.AnnData, table: pd.DataFrame) -> ad.AnnData:
    query = train[train.obs["is_control"].to_numpy()].copy()
    query.uns["conditions"] = table.assign(modality="drug", n_cells=4, n_seen=0)
    return query


def truth(table: pd.DataFrame, data: ad.AnnData) -> np.ndarray:
    """Mean observed profile of each condition, shape (C, G)."""
    keys = [data.obs[name].to_numpy(str) for name in ("context", "perturbation")]
    means = pd.DataFrame(dense(data.X)).groupby(keys).mean()
    return means.loc[list(table[["context", "perturbation"]].itertuples(index=False, name=None))].to_numpy()


def weights(model: TranSiGen) -> dict[str, "torch.Tensor"]:
    return model.network.state_dict()


def equal(a: TranSiGen, b: TranSiGen) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values(), strict=True))


@pytest.fixture(scope="module")
def fitted() -> TranSiGen:
    return TranSiGen(seed=1, **SMALL).fit(Training(paired()[0]))


# --- divergences and loss -----------------------------------------------------------------------------


def gaussians(seed: int) -> tuple[Gaussian, distributions.Normal]:
    torch.manual_seed(seed)
    mean, log_variance = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    return Gaussian(mean, log_variance), distributions.Normal(mean, log_variance.exp().sqrt())


def test_divergences_are_those_of_normal_distributions() -> None:
    (a, normal_a), (b, normal_b) = gaussians(0), gaussians(1)
    expected = distributions.kl_divergence(normal_a, normal_b).sum(dim=1)
    torch.testing.assert_close(a.divergence(b), expected)
    standard = distributions.Normal(torch.zeros(5, 3, dtype=torch.float64), 1.0)
    torch.testing.assert_close(a.divergence_from_standard(), distributions.kl_divergence(normal_a, standard).sum(dim=1))
    torch.testing.assert_close(a.divergence(a), torch.zeros(5, dtype=torch.float64))


def test_draws_have_the_mean_and_variance_and_pass_gradients_to_both() -> None:
    torch.manual_seed(0)
    mean = torch.full((200_000, 1), 2.0, requires_grad=True)
    log_variance = torch.full((200_000, 1), float(np.log(0.25)), requires_grad=True)
    drawn = Gaussian(mean, log_variance).draw()
    assert abs(drawn.mean().item() - 2) < 0.01
    assert abs(drawn.var().item() - 0.25) < 0.01
    drawn.square().mean().backward()  # E[x²] = mean² + variance
    assert abs(mean.grad.sum().item() - 4) < 0.02
    assert abs(log_variance.grad.sum().item() - 0.25) < 0.01


def hand_made(nonnegative: bool = True) -> TransigenNetwork:
    """One gene, latents and hidden layers of width one, all weights chosen; in evaluation blocks are ReLU(w·x + b)."""
    network = TransigenNetwork(
        1, 1, encoder_width=1, latent=1, decoder_width=1, molecule_width=1, dropout=0.5, nonnegative=nonnegative
    ).double()
    values = {
        "control.encoder.0.0": (1, 0),  # h1 = x1
        "control.encoder.1.mean": (0.5, 0),  # mu1 = x1 / 2
        "control.encoder.1.log_variance": (0, 0),
        "control.decoder.0.0": (1, 0),
        "control.decoder.1": (3, 0),  # x̂1 = 3 mu1
        "perturbed.encoder.0.0": (1, 0),
        "perturbed.encoder.1.mean": (1, -1),  # mu2 = x2 - 1
        "perturbed.encoder.1.log_variance": (0, float(np.log(2))),
        "perturbed.decoder.0.0": (1, 0),
        "perturbed.decoder.1": (1, -0.5),  # x̂2 = ReLU(z2) - 1/2
        "molecule.0": (2, 0),
        "joint.mean": ((1, 0.5), 0),  # mu' = mu1 + f
        "joint.log_variance": ((0, 0), 0),
    }
    state = network.state_dict()
    for name, (weight, bias) in values.items():
        state[f"{name}.weight"] = torch.tensor(np.atleast_2d(weight), dtype=torch.float64)
        state[f"{name}.bias"] = torch.tensor([bias], dtype=torch.float64)
    for name in state:
        if name.endswith("running_var"):
            state[name] = torch.ones(1, dtype=torch.float64) - 1e-5  # and eps 1e-5: normalisation changes nothing
    network.load_state_dict(state)
    return network.eval()


def test_loss_of_a_case_worked_by_hand() -> None:
    x1, x2, molecule = (torch.tensor([[value]], dtype=torch.float64) for value in (2.0, 4.0, 0.5))
    # mu1 = 1, x̂1 = 3; mu2 = 3, x̂2 = 2.5; mu' = 1 + 0.5 = 1.5, x̂2' = 1
    errors = (3 - 2) ** 2 + (2.5 - 4) ** 2 + (1 - 4) ** 2
    kl1 = 0.5 * 1**2
    kl2 = 0.5 * (2 + 3**2 - 1 - np.log(2))
    kl_joint = 0.5 * (1 / 2 + (1.5 - 3) ** 2 / 2 - 1 + np.log(2))
    loss = hand_made().losses(x1, x2, molecule, 0.1)
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(errors + 0.1 * (kl1 + kl2 + kl_joint), rel=1e-9)
    assert hand_made()(x1, molecule).item() == pytest.approx(1.0)


def test_loss_sums_over_genes_and_keeps_profiles_apart() -> None:
    torch.manual_seed(0)
    network = TransigenNetwork(
        4, 2, encoder_width=3, latent=2, decoder_width=3, molecule_width=2, dropout=0.1, nonnegative=False
    ).eval()
    x1, x2, molecule = torch.rand(5, 4), torch.rand(5, 4), torch.rand(5, 2)
    together = network.losses(x1, x2, molecule, 0.1)
    alone = torch.cat([network.losses(x1[i : i + 1], x2[i : i + 1], molecule[i : i + 1], 0.1) for i in range(5)])
    torch.testing.assert_close(together, alone)
    x2_hat, x1_hat = network.perturbed, network.control
    errors = (x1_hat.decode(x1_hat.encode(x1).mean) - x1).square().sum(1)
    errors += (x2_hat.decode(x2_hat.encode(x2).mean) - x2).square().sum(1)
    errors += ((network(x1, molecule) - x1) - (x2 - x1)).square().sum(1)
    torch.testing.assert_close(network.losses(x1, x2, molecule, 0.0), errors)


def test_draws_in_training_only() -> None:
    torch.manual_seed(0)
    network = TransigenNetwork(
        4, 2, encoder_width=3, latent=2, decoder_width=3, molecule_width=2, dropout=0.0, nonnegative=False
    )
    x1, x2, molecule = torch.rand(6, 4), torch.rand(6, 4), torch.rand(6, 2)
    for training in (True, False):
        network.train(training)
        assert torch.equal(network(x1, molecule), network(x1, molecule)) != training
        first, second = (network.losses(x1, x2, molecule, 0.1) for _ in range(2))
        assert torch.equal(first, second) != training


def test_output_is_rectified_unless_data_are_negative() -> None:
    low = torch.full((1, 1), -3.0, dtype=torch.float64)
    assert hand_made().perturbed.decode(low).item() == 0
    assert hand_made(nonnegative=False).perturbed.decode(low).item() == pytest.approx(-0.5)
    train, query, truth_of = paired(level=0.0)
    assert TranSiGen(**BRIEF).fit(Training(paired()[0])).facts["nonnegative"]
    model = TranSiGen(**SMALL).fit(Training(train))
    assert not model.facts["nonnegative"]
    answer = model.predict(Query(query)).X
    assert answer.min() < -0.5
    assert ((answer - truth_of) ** 2).sum() < 0.5 * (truth_of**2).sum()


# --- training -----------------------------------------------------------------------------------------


def test_overfits_a_few_profiles() -> None:
    train, _, _ = paired(unseen=9, validation=False)
    settings = {**SMALL, "dropout": 0.0, "kl_weight": 0.0, "epochs": 150}
    model = TranSiGen(**settings).fit(Training(train))
    seen = train.obs[~train.obs["is_control"]]
    table = seen.assign(n=1).groupby(["context", "perturbation", "dose"])["control_id"].agg("\t".join).reset_index()
    query, expected = question(train, table), truth(table, train)
    inputs = np.stack([dense(query[names.split("\t")].X).mean(axis=0) for names in table["control_id"]])
    left = ((model.predict(Query(query)).X - expected) ** 2).sum() / ((inputs - expected) ** 2).sum()
    assert left < 0.05


def test_beats_no_change_for_unseen_drugs_with_effects_linear_in_features(fitted: TranSiGen) -> None:
    _, query, expected = paired()
    controls = query.uns["conditions"]["control_id"].str.split("\t")
    inputs = np.stack([dense(query[names].X).mean(axis=0) for names in controls])
    prediction = fitted.predict(Query(query))
    check_prediction(prediction, query, "prediction")
    error, floor = ((prediction.X - expected) ** 2).sum(), ((inputs - expected) ** 2).sum()
    assert error < 0.4 * floor
    other = query.copy()  # drugs with each other's features
    names = {DRUGS[-1]: DRUGS[-2], DRUGS[-2]: DRUGS[-1]}
    other.uns["conditions"]["perturbation"] = other.uns["conditions"]["perturbation"].map(names)
    assert ((fitted.predict(Query(other)).X - expected) ** 2).sum() > 2 * error


class Recorder(Run):
    """A run that keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, float]] = []

    def log(self, step: int, **values: float) -> None:
        self.lines.append(values)


def test_best_weights_on_validation_stay() -> None:
    train, _, _ = paired()
    settings = {**SMALL, "learning_rate": 0.05, "epochs": 25}  # too fast: the loss goes up and down
    model = TranSiGen(**settings).fit(Training(train), run=(run := Recorder()))
    shown = [line["val_loss"] for line in run.lines]
    best = int(np.argmin(shown)) + 1
    assert len(shown) == 25
    assert best < 25, "nothing to choose from"
    assert equal(model, TranSiGen(**{**settings, "epochs": best}).fit(Training(train)))
    stopped = Recorder()
    TranSiGen(**settings, patience=1).fit(Training(train), run=stopped)
    assert len(stopped.lines) == int(np.argmax(np.diff(shown) > 0)) + 2
    TranSiGen(**{**settings, "epochs": 2}).fit(Training(paired(validation=False)[0]), run=(plain := Recorder()))
    assert [list(line) for line in plain.lines] == [["loss"], ["loss"]]


def test_validation_rows_give_no_gradient() -> None:
    train, _, _ = paired()
    spoilt = train.copy()
    held_out = (train.obs["role"] == "val").to_numpy()
    values = dense(train.X)
    values[held_out] += 1
    spoilt.X = sparse.csr_matrix(values)
    settings = {**BRIEF, "epochs": 1, "patience": None}
    assert equal(TranSiGen(**settings).fit(Training(train)), TranSiGen(**settings).fit(Training(spoilt)))


class KilledError(RuntimeError):
    pass


class Mortal(Run):
    """A run that ends the training after so many epochs."""

    def __init__(self, folder: Path, epochs: int) -> None:
        super().__init__(resume=folder)
        self.left = epochs

    def log(self, step: int, **values: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KilledError


def test_killed_and_resumed_it_has_the_same_bits(tmp_path: Path) -> None:
    train, _, _ = paired()
    whole = TranSiGen(seed=3, **BRIEF).fit(Training(train))
    with pytest.raises(KilledError):
        TranSiGen(seed=3, **BRIEF).fit(Training(train), run=Mortal(tmp_path, 3))
    assert (tmp_path / "state.pt").exists()
    resumed = Mortal(tmp_path, 100)
    assert equal(TranSiGen(seed=3, **BRIEF).fit(Training(train), run=resumed), whole)
    assert resumed.left == 97, "it did not resume after the third epoch"
    assert not (tmp_path / "state.pt").exists()
    assert not equal(TranSiGen(seed=4, **BRIEF).fit(Training(train)), whole)


# --- answers ------------------------------------------------------------------------------------------


def test_answers_by_the_means_of_latents_averaged_over_paired_controls(fitted: TranSiGen) -> None:
    _, query, _ = paired()
    answer = fitted.predict(Query(query)).X
    assert np.array_equal(answer, fitted.predict(Query(query)).X)
    row = query.uns["conditions"].iloc[1]
    controls = torch.from_numpy(dense(query[row["control_id"].split("\t")].X))
    table = features().loc[DRUGS[: len(DRUGS) - 2]].to_numpy()
    molecule = features().loc[row["perturbation"]].to_numpy() / np.sqrt((table**2).mean())
    network = fitted.network
    with torch.no_grad():
        z1 = network.control.encoder(controls).mean
        hidden = network.molecule(torch.tensor(molecule, dtype=torch.float32).expand(len(z1), -1))
        decoded = network.perturbed.decoder(network.joint.mean(torch.cat([z1, hidden], dim=1))).clamp_min(0)
    np.testing.assert_allclose(answer[1], decoded.mean(dim=0).numpy(), rtol=1e-5)


def test_without_pairs_every_control_of_the_context_is_asked(fitted: TranSiGen) -> None:
    _, query, _ = paired()
    alone = query.uns["conditions"].iloc[:1].drop(columns="control_id")
    query.uns["conditions"] = alone
    together = fitted.predict(Query(query)).X[0]
    here = np.flatnonzero((query.obs["context"] == alone["context"].item()).to_numpy())
    one_by_one = [fitted.predict(Query(query[[row]].copy())).X[0] for row in here]
    np.testing.assert_allclose(together, np.mean(one_by_one, axis=0), rtol=1e-5)


def test_a_plate_whose_wells_share_their_controls_is_learnt() -> None:
    train, query, truth = paired()
    here = (train.obs["context"] == "A").to_numpy()
    train = train[here].copy()
    del train.obs["control_id"], query.obs["control_id"]
    table = query.uns["conditions"]
    wanted = (table["context"] == "A").to_numpy()
    query.uns["conditions"] = table[wanted].drop(columns="control_id").reset_index(drop=True)
    answer = TranSiGen(seed=1, **SMALL).fit(Training(train)).predict(Query(query))
    control = dense(train.X)[train.obs["is_control"].to_numpy()].mean(axis=0)
    error, floor = (((x - truth[wanted]) ** 2).mean() for x in (answer.X, control))
    assert error < floor


def test_combinations_have_the_sum_of_features_and_doses_count_only_if_told() -> None:
    train, query, _ = paired()
    table = features()
    table.loc["sum"] = table.loc[DRUGS[:2]].sum()
    train.uns["perturbation_features"] = {"made": table}
    conditions = query.uns["conditions"].iloc[[0] * 4].reset_index(drop=True)
    conditions["perturbation"] = ["+".join(DRUGS[:2]), "sum", DRUGS[0], DRUGS[0]]
    conditions["dose"] = ["5+5", "10", "10", "1"]
    query.uns["conditions"] = conditions
    plain, told = (TranSiGen(dose=dose, **BRIEF).fit(Training(train)).predict(Query(query)).X for dose in (False, True))
    for answer in (plain, told):
        np.testing.assert_allclose(answer[0], answer[1], rtol=1e-5)
        assert not np.allclose(answer[0], answer[2], rtol=1e-3)
    assert np.array_equal(plain[2], plain[3])
    assert not np.allclose(told[2], told[3], rtol=1e-4)


def test_saved_and_loaded_it_answers_the_same(fitted: TranSiGen, tmp_path: Path) -> None:
    _, query, _ = paired()
    fitted.save(tmp_path)
    loaded = TranSiGen(seed=1, **SMALL).load(tmp_path)
    assert np.array_equal(loaded.predict(Query(query)).X, fitted.predict(Query(query)).X)
    with pytest.raises(ContractError, match="settings"):
        TranSiGen(**{**SMALL, "latent": 4}).load(tmp_path)


# --- errors -------------------------------------------------------------------------------------------


def test_errors_name_what_is_wrong(fitted: TranSiGen, tmp_path: Path) -> None:
    train, query, _ = paired()
    with pytest.raises(ContractError, match="fit or load"):
        TranSiGen().predict(Query(query))
    with pytest.raises(ContractError, match="fit or load"):
        TranSiGen().save(tmp_path)
    with pytest.raises(ContractError, match="other genes"):
        fitted.predict(Query(query[:, ::-1].copy()))
    unknown = query.copy()
    unknown.uns["conditions"]["perturbation"] = "D99"
    with pytest.raises(ContractError, match="D99 has no row"):
        fitted.predict(Query(unknown))
    with pytest.raises(ContractError, match="features"):
        TranSiGen(features="other", **BRIEF).fit(Training(train))
    with pytest.raises(ContractError, match="batch_size is 1"):
        TranSiGen(**{**BRIEF, "batch_size": 1}).fit(Training(train))
    lonely = train[(train.obs["is_control"] | (train.obs_names == "tAD00")).to_numpy()].copy()
    with pytest.raises(CannotLearnError, match="1 perturbed profiles"):
        TranSiGen(**BRIEF).fit(Training(lonely))
    few = train[(train.obs["is_control"] | train.obs_names.isin(["tAD00", "tAD10", "tBD20"])).to_numpy()].copy()
    few.obs["role"] = np.where(few.obs["is_control"], "control_input", "train")
    assert TranSiGen(**{**BRIEF, "batch_size": 2}).fit(Training(few)).predict(Query(query)).n_obs, (
        "a batch of one breaks normalisation"
    )
