"""MultiDCP: its convolution and attention against loops, its doses, its training and its answers."""

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

torch = pytest.importorskip("torch")
Chem = pytest.importorskip("rdkit.Chem")

from trueshift.contract import ContractError, check_prediction  # noqa: E402
from trueshift.models.base import CannotLearnError, Query, Training, UnseenError, build, query_controls  # noqa: E402
from trueshift.models.mean_shift import MeanShift  # noqa: E402
from trueshift.models.molecular_graph import batch, graph_of_molecule, graph_of_smiles  # noqa: E402
from trueshift.models.multidcp import MultiDCP, dose_codes, pearson, rms  # noqa: E402
from trueshift.models.multidcp_network import Attention, Fingerprint, GraphConvolution, MultiDCPNetwork  # noqa: E402
from trueshift.tracking import Run  # noqa: E402

DRUGS = {"aspirin": "CC(=O)Oc1ccccc1C(=O)O", "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "salt": "CC[NH3+].[Cl-]"}
SMALL = {"convolutions": [8, 8], "width": 16, "layers": 1, "heads": 2, "mlp_hidden": 16, "dropout": 0.0}
SMALL |= {"gene_attention": False, "cell": [16, 8], "head": 16, "batch_size": 16, "learning_rate": 0.01, "threads": 1}
GENES = 12


# --- data ---------------------------------------------------------------------------------------------

Profile = tuple[str, str, str, str, np.ndarray]  # context, perturbation, dose, role, effect


def profiles(
    rows: Sequence[Profile], smiles: dict[str, str], noise: float = 0.0, plates: float = 2.0, seed: int = 0
) -> ad.AnnData:
    """Perturbed profiles, each after a control of its own; those differ by ``plates``, contexts by more."""
    rng = np.random.default_rng(seed)
    names = sorted({row[0] for row in rows})
    level = dict(zip(names, rng.uniform(5, 12, (len(names), len(rows[0][4]))), strict=True))
    values, table = [], []
    for i, (context, perturbation, dose, role, effect) in enumerate(rows):
        control = level[context] + plates * rng.normal(size=len(effect))
        values += [control, control + effect + noise * rng.normal(size=len(effect))]
        table.append((context, "control", "0", "control_input", True, ""))
        table.append((context, perturbation, dose, role, False, f"p{2 * i}"))
    obs = pd.DataFrame(table, columns=["context", "perturbation", "dose", "role", "is_control", "control_id"])
    obs["batch"], obs["modality"], obs.index = "b", "drug", pd.Index([f"p{i}" for i in range(len(obs))])
    adata = ad.AnnData(sparse.csr_matrix(np.array(values, np.float32)), obs=obs)
    adata.uns["trueshift"] = {"schema_version": 1, "kind": "profile", "dataset": "planted"}
    adata.uns["structures"] = pd.DataFrame({"smiles": smiles, "scaffold": ""})
    return adata


def question(train: ad.AnnData, conditions: Sequence[tuple[str, str, str]]) -> ad.AnnData:
    """A query for conditions, with the controls of ``train``."""
    query = train[train.obs["is_control"].to_numpy()].copy()
    table = pd.DataFrame(conditions, columns=["context", "perturbation", "dose"])
    query.uns["conditions"] = table.assign(modality="drug", n_cells=1, n_seen=1)
    return query


def answer(model: MultiDCP, query: ad.AnnData) -> np.ndarray:
    """Predicted differences to the input controls, shape (C, G)."""
    prediction = model.predict(Query(query))
    check_prediction(prediction, query, "prediction")
    return prediction.X - query_controls(query)


def planted(val: bool = True) -> ad.AnnData:
    """Three drugs at three doses in two contexts, every condition with an effect of its own; doses of val beside."""
    rng = np.random.default_rng(1)
    own = {(c, d): rng.normal(size=GENES) for c in "AB" for d in DRUGS}
    strength = {"0.1": 0.2, "1": 0.6, "10": 1.0}
    rows = [(c, d, dose, "train", s * own[c, d]) for c, d in own for dose, s in strength.items() for _ in range(2)]
    rows += [(c, d, "3", "val", 0.8 * own[c, d]) for c, d in own if val]
    return profiles(rows, DRUGS)


@pytest.fixture(scope="module")
def train() -> ad.AnnData:
    return planted()


@pytest.fixture(scope="module")
def brief(train: ad.AnnData) -> MultiDCP:
    return MultiDCP(**SMALL, epochs=3).fit(Training(train))


def weights(model: MultiDCP) -> dict[str, "torch.Tensor"]:
    return model.network.state_dict()


def equal(a: MultiDCP, b: MultiDCP) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values(), strict=True))


# --- molecules ----------------------------------------------------------------------------------------


def test_convolution_is_that_of_a_loop_over_atoms() -> None:
    torch.manual_seed(0)
    convolve = GraphConvolution(62, 5).double()
    torch.nn.init.normal_(convolve.bias)
    graph = graph_of_smiles("CC(=O)Oc1ccccc1C(=O)O.FS(F)(F)(F)(F)F.O", "X")  # degrees 0, 1, 2, 3 and 6
    atoms, bonds = torch.from_numpy(graph.atoms).double(), torch.from_numpy(graph.bonds).double()
    found = convolve(atoms, bonds, batch([graph]).neighbourhoods)
    for a in range(len(atoms)):
        near = [(i, e) for e, ends in enumerate(graph.ends.tolist()) for i in ends if a in ends and i != a]
        kind = min(len(near), 5)
        total = convolve.own.weight @ atoms[a] + convolve.bias[kind]
        for i, e in near:
            total = total + torch.cat([atoms[i], bonds[e]]) @ convolve.weights[kind]
        torch.testing.assert_close(found[a], total.clamp_min(0))


def network(**changes: object) -> MultiDCPNetwork:
    torch.manual_seed(0)
    sizes = {"genes": GENES, "doses": 3, "convolutions": [8, 8], "width": 16, "layers": 2, "heads": 4}
    rest = {"mlp_hidden": 32, "dropout": 0.3, "gene_attention": False, "cell": [16, 8], "dose": 4, "head": 8}
    return MultiDCPNetwork(**{**sizes, **rest, **changes}).eval()


def rows_of_input(n: int, molecules: int) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    torch.manual_seed(1)
    return torch.arange(n) % molecules, torch.eye(3)[torch.arange(n) % 3], torch.randn(n, GENES)


@pytest.mark.parametrize("gene_attention", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_atoms_changes_nothing(seed: int, gene_attention: bool) -> None:
    net, molecule = network(gene_attention=gene_attention), Chem.MolFromSmiles(DRUGS["aspirin"])
    order = np.random.default_rng(seed).permutation(molecule.GetNumAtoms())
    other = Chem.RenumberAtoms(molecule, order.tolist())
    one, two = batch([graph_of_molecule(molecule)]), batch([graph_of_molecule(other)])
    assert not np.array_equal(one.atoms, two.atoms)
    with torch.no_grad():
        torch.testing.assert_close(net.fingerprint(two)[0], net.fingerprint(one)[0][:, order])
        torch.testing.assert_close(net.fingerprint(two)[0].sum(1), net.fingerprint(one)[0].sum(1))
        torch.testing.assert_close(net(two, *rows_of_input(4, 1)), net(one, *rows_of_input(4, 1)))


def test_every_atom_adds_one_to_the_fingerprint_in_each_convolution() -> None:
    torch.manual_seed(0)
    codes, there = Fingerprint([16, 16], 128)(batch([graph_of_smiles(text, "X") for text in DRUGS.values()]))
    assert codes.shape == (3, 14, 128) and there.sum(1).tolist() == [13, 14, 4]
    torch.testing.assert_close(codes.sum(2), 2.0 * there)  # softmax, of each of two convolutions
    assert (codes[~there] == 0).all()


@pytest.mark.parametrize("gene_attention", [False, True])
def test_a_molecule_is_alone_in_a_batch(gene_attention: bool) -> None:
    net, graphs = network(gene_attention=gene_attention), [graph_of_smiles(text, "X") for text in DRUGS.values()]
    drug, dose, basal = rows_of_input(6, 3)
    with torch.no_grad():
        together = net(batch(graphs), drug, dose, basal)
        for i in range(6):
            alone = net(batch([graphs[drug[i]]]), torch.tensor([0]), dose[i : i + 1], basal[i : i + 1])
            torch.testing.assert_close(alone[0], together[i])
    assert (together[0] - together[3]).abs().max() > 1e-3  # the same drug in another context


# --- attention ----------------------------------------------------------------------------------------


def test_attention_is_that_of_a_loop_over_heads() -> None:
    torch.manual_seed(0)
    attend, queries, keys = Attention(12, 3).double(), torch.randn(2, 5, 12).double(), torch.randn(2, 4, 12).double()
    there = torch.tensor([[True, True, False, False], [True, True, True, True]])
    found = attend(queries, keys, there)
    for d in range(2):
        k, v = attend.key(keys[d, there[d]]), attend.value(keys[d, there[d]])
        for i in range(5):
            q, mixed = attend.query(queries[d, i]), []
            for head in (slice(0, 4), slice(4, 8), slice(8, 12)):
                score = (k[:, head] * q[head]).sum(1) / 2  # √4
                mixed.append((score.exp() / score.exp().sum()) @ v[:, head])
            torch.testing.assert_close(found[d, i], attend.out(torch.cat(mixed)))


@pytest.mark.parametrize("gene_attention", [False, True])
def test_what_is_computed_once_for_a_drug_is_what_every_row_would_compute(gene_attention: bool) -> None:
    net, graphs = network(gene_attention=gene_attention), [graph_of_smiles(text, "X") for text in DRUGS.values()]
    drug, dose, basal = rows_of_input(6, 3)
    with torch.no_grad():
        found = net(batch(graphs), drug, dose, basal)
        for i in range(6):
            atoms, there = net.fingerprint(batch([graphs[drug[i]]]))
            genes = net.genes[None]
            for layer in net.layers:
                genes = layer(genes, atoms, there)
            same = [atoms.sum(1), net.encode_cell(basal[i : i + 1]), net.encode_dose(dose[i : i + 1])]
            joined = torch.cat([genes[0], *(code.expand(GENES, -1) for code in same)], 1)  # (G, W + W + cell + dose)
            torch.testing.assert_close(found[i], net.out(net.hidden(joined).relu())[:, 0])


def test_rows_of_a_drug_share_its_dropout() -> None:
    net = network(dropout=0.5).train()
    molecules = batch([graph_of_smiles(DRUGS["aspirin"], "X")])
    drug, dose, basal = torch.tensor([0, 0]), torch.eye(3)[[1, 1]], torch.ones(2, GENES)
    first, second = net(molecules, drug, dose, basal)
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, net(molecules, drug, dose, basal)[0])


def test_genes_look_at_one_another_only_where_asked_or_few() -> None:
    def has(genes: int, setting: object) -> bool:
        model = MultiDCP(width=4, cell=[2], gene_attention=setting)
        model.facts = {"genes": ["g"] * genes, "doses": [1.0]}
        return all(layer.genes is not None for layer in model._make_network().layers)

    assert [has(n, "auto") for n in (2000, 2001)] == [True, False]
    assert has(2001, True) and not has(5, False)
    apart, together = network(), network(gene_attention=True)
    molecules, inputs = batch([graph_of_smiles("CCO", "X")]), rows_of_input(1, 1)
    for net, moves in ((apart, False), (together, True)):
        with torch.no_grad():
            before = net(molecules, *inputs)
            net.genes[0] += 1
            assert ((net(molecules, *inputs) - before)[0, 1:].abs().max() > 1e-6) == moves


def test_default_sizes_are_the_published_ones() -> None:
    model = MultiDCP()
    model.facts = {"genes": ["g"] * 978, "doses": [0.04, 0.12, 0.37, 1.11, 3.33, 10.0]}
    net = model._make_network()
    assert (net.hidden.in_features, net.hidden.out_features, net.out.out_features) == (310, 128, 1)
    assert [part.out_features for part in net.encode_cell[::2]] == [200, 100, 50]
    assert [part.out_features for part in net.decode_cell[::2]] == [200, 978]
    assert (net.encode_dose.in_features, net.encode_dose.out_features) == (6, 4)
    assert [part.own.out_features for part in net.fingerprint.convolutions] == [16, 16]
    assert [part.out_features for part in net.fingerprint.write] == [128, 128]
    assert len(net.layers) == 2 and net.layers[0].mlp[0].out_features == 512 and net.layers[0].genes is not None
    assert net.genes.shape == (978, 128)
    assert (model.epochs, model.learning_rate, model.batch_size, model.dropout) == (500, 2e-4, 64, 0.3)


# --- doses and numbers --------------------------------------------------------------------------------


def test_doses_between_those_of_training_are_mixtures() -> None:
    found = dose_codes(np.array([0.1, 1, 100, 0.01, 1e4, 10, 10**0.5]), [0.1, 1, 100])
    third = [0, 0.75, 0.25]  # √10 stands a quarter of the way from 1 to 100 on a logarithmic scale
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0.5, 0.5], third]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.array_equal(found[:5], expected[:5])  # exact where a dose was trained
    np.testing.assert_allclose(dose_codes(np.array([0, 0.1, 1]), [0, 1]), [[1, 0], [1, 0], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(dose_codes(np.array([5.0, 0.0]), [0]), [[1], [1]])


def test_pearson_is_that_of_numpy_and_zero_for_constants() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 30)).astype(np.float32)
    a[3] = 0.1
    found = pearson(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(found[:3], [np.corrcoef(x, y)[0, 1] for x, y in zip(a[:3], b[:3], strict=True)])
    assert found[3] == pytest.approx(0, abs=1e-6)


def test_scales() -> None:
    assert rms([np.array([3.0, 0]), np.array([[4.0], [5.0]])]) == pytest.approx((50 / 4) ** 0.5)
    assert rms([np.zeros(3)]) == 1.0


# --- learning -----------------------------------------------------------------------------------------


def test_overfits_effects_of_drug_dose_and_context() -> None:
    train = planted(val=False)
    obs, values = train.obs, train.X.toarray()
    treated = obs[~obs["is_control"]].drop_duplicates(["context", "perturbation", "dose"])
    truth = np.stack([values[obs.index.get_loc(name)] - values[obs.index.get_loc(own)] for name, own in
                      treated["control_id"].items()])  # fmt: skip
    model = MultiDCP(**{**SMALL, "head": 32, "batch_size": 64, "cell_learning_rate": 0.002}, epochs=400).fit(
        Training(train)
    )
    query = question(train, list(treated[["context", "perturbation", "dose"]].itertuples(index=False, name=None)))
    wrong = answer(model, query) - truth
    assert 1 - (wrong**2).sum() / (truth**2).sum() > 0.97
    assert 1 - (wrong**2).sum(axis=1).max() / (truth**2).sum(axis=1).mean() > 0.9  # in no condition far off


def chlorides(contexts: str = "A") -> tuple[ad.AnnData, ad.AnnData, np.ndarray]:
    """Drugs with chlorine do one thing, with an amine another; query: new drugs of both kinds, and the truth."""
    rng = np.random.default_rng(5)
    shared, effect = rng.normal(size=(2, GENES))
    frames = ["C1CCC({})CC1", "CCCC({})C", "c1ccc(C{})cc1", "COCC{}", "CC(=O)CC{}", "c1ccsc1C{}", "CCC(C){}", "OCC{}"]
    smiles, effects = {}, {}
    for i, frame in enumerate(frames):
        for end, sign in (("Cl", 1), ("N", -1)):
            smiles[f"d{i}{end}"] = frame.format(end)
            effects[f"d{i}{end}"] = shared + 1.5 * sign * effect
    new = ["d1Cl", "d1N", "d7Cl", "d7N"]
    rows = [(c, d, "1", "train", effects[d]) for c in contexts for d in smiles if d not in new for _ in range(2)]
    train = profiles(rows, smiles, noise=0.2, plates=0.3)
    asked_for = [(c, d, "1") for c in contexts for d in new]
    return train, question(train, asked_for), np.stack([effects[d] for _, d, _ in asked_for])


def test_an_unseen_drug_is_told_by_its_substructure() -> None:
    train, query, truth = chlorides()

    def explained(delta: np.ndarray) -> float:
        return 1 - ((delta - truth) ** 2).sum() / (truth**2).sum()

    model = MultiDCP(**{**SMALL, "convolutions": [16, 16], "batch_size": 32}, epochs=300).fit(Training(train))
    found = explained(answer(model, query))
    mean_shift = explained(MeanShift().fit(Training(train)).predict(Query(query)).X - query_controls(query))
    assert found > 0.6  # no change explains 0
    assert mean_shift < 0.5


def test_validation_profiles_train_nothing(train: ad.AnnData) -> None:
    changed = train.copy()
    rows = np.flatnonzero(train.obs["role"] == "val")
    values = train.X.toarray()
    values[rows] = values[rows][:, ::-1]
    changed.X = sparse.csr_matrix(values)
    one, other = (MultiDCP(**SMALL, epochs=1).fit(Training(data)) for data in (train, changed))
    assert equal(one, other)
    assert one.facts["doses"] == [0.1, 1.0, 10.0]  # not 3, the dose of validation


class Recorder(Run):
    """A run that keeps what was logged, and may stop after a step."""

    def __init__(self, resume: Path | None = None, last: int = 10**6) -> None:
        super().__init__(resume=resume)
        self.lines: list[dict[str, float]] = []
        self.last = last

    def log(self, step: int, **values: float) -> None:
        self.lines.append({"step": step, **values})
        if step == self.last:
            raise KeyboardInterrupt


def test_the_validation_loss_is_one_minus_the_mean_correlation(train: ad.AnnData) -> None:
    recorder = Recorder()
    model = MultiDCP(**SMALL, epochs=1).fit(Training(train), run=recorder)
    obs, values = train.obs, train.X.toarray()
    val = obs[obs["role"] == "val"]
    true = np.stack([values[obs.index.get_loc(i)] - values[obs.index.get_loc(own)] for i, own in
                     val["control_id"].items()])  # fmt: skip
    query = question(train, list(val[["context", "perturbation", "dose"]].itertuples(index=False, name=None)))
    found = [np.corrcoef(a, b)[0, 1] for a, b in zip(answer(model, query), true, strict=True)]
    assert recorder.lines[0]["val_loss"] == pytest.approx(1 - np.mean(found), abs=1e-4)


def test_the_best_weights_on_validation_stay(train: ad.AnnData) -> None:
    settings = {**SMALL, "learning_rate": 0.05, "validate_every": 2}
    recorder = Recorder()
    whole = MultiDCP(**settings, epochs=20).fit(Training(train), run=recorder)
    best = min(recorder.lines, key=lambda line: line["val_loss"])["step"]
    assert best < 20
    assert equal(whole, MultiDCP(**settings, epochs=int(best)).fit(Training(train)))


def test_the_autoencoder_learns_controls(train: ad.AnnData) -> None:
    recorder = Recorder()
    MultiDCP(**{**SMALL, "cell_learning_rate": 0.002}, epochs=60).fit(Training(train), run=recorder)
    losses = [line["reconstruction_loss"] for line in recorder.lines]
    assert losses[0] > 0.9 and losses[-1] < 0.6 * losses[0]
    again = MultiDCP(**{**SMALL, "cell_learning_rate": 1e-12}, epochs=1).fit(Training(train))
    first = MultiDCP(**SMALL, epochs=0).fit(Training(train))
    for name, value in weights(again).items():
        moved = not torch.allclose(value, weights(first)[name], atol=1e-8)
        frozen = "_cell" in name or name.startswith(("basal", "effect"))
        assert moved != frozen or name == "layers.0.atoms.key.bias", name  # a bias of keys changes no softmax


def test_resumed_training_gives_the_same_bits(train: ad.AnnData, tmp_path: Path) -> None:
    settings = {**SMALL, "dropout": 0.2, "epochs": 6}
    whole = MultiDCP(**settings).fit(Training(train))
    with pytest.raises(KeyboardInterrupt):
        MultiDCP(**settings).fit(Training(train), run=Recorder(tmp_path, last=3))
    assert (tmp_path / "state.pt").exists()
    recorder = Recorder(tmp_path)
    assert equal(whole, MultiDCP(**settings).fit(Training(train), run=recorder))
    assert recorder.lines[0]["step"] == 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["structures", "drugs", "doses", "contexts"])
def test_a_checkpoint_of_other_data_is_not_resumed(what: str, train: ad.AnnData, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        MultiDCP(**SMALL, epochs=4).fit(Training(train), run=Recorder(tmp_path, last=2))
    other = train.copy()
    if what == "structures":
        other.uns["structures"] = pd.DataFrame({"smiles": {**DRUGS, "aspirin": "CCO"}})
    else:
        column, one, two = {"drugs": ("perturbation", "aspirin", "salt"), "doses": ("dose", "1", "10")}.get(
            what, ("context", "A", "B")
        )
        other.obs[column] = other.obs[column].replace({one: two, two: one})
    recorder = Recorder(tmp_path)
    MultiDCP(**SMALL, epochs=4).fit(Training(other), run=recorder)
    assert recorder.lines[0]["step"] == 1


# --- answering ----------------------------------------------------------------------------------------


def test_a_dose_means_the_same_whatever_else_is_asked(train: ad.AnnData, brief: MultiDCP, tmp_path: Path) -> None:
    doses = ["0.01", "0.1", "1", "3", "10", "100"]
    together = answer(brief, question(train, [("A", "aspirin", dose) for dose in doses]))
    brief.save(tmp_path)
    loaded = MultiDCP(**SMALL, epochs=3).load(tmp_path)
    assert loaded.facts["doses"] == [0.1, 1.0, 10.0]
    for dose, expected in zip(doses, together, strict=True):
        np.testing.assert_allclose(answer(loaded, question(train, [("A", "aspirin", dose)]))[0], expected, atol=1e-5)
    assert np.array_equal(together[0], together[1]) and np.array_equal(together[4], together[5])  # beyond: the nearest
    assert len({row.tobytes() for row in together[1:5]}) == 4


def test_a_drug_unknown_to_training_is_read_from_the_query(train: ad.AnnData, brief: MultiDCP) -> None:
    query = question(train, [("A", "aspirin", "1"), ("A", "same", "1"), ("A", "other", "1")])
    extra = {"same": "O=C(C)Oc1ccccc1C(O)=O", "other": "CCN"}
    query.uns["structures"] = pd.DataFrame({"smiles": {**DRUGS, **extra}})
    aspirin, same, other = answer(brief, query)
    np.testing.assert_allclose(aspirin, same, atol=1e-5)
    assert np.abs(aspirin - other).max() > 1e-4


def test_trained_drugs_need_no_structures_in_the_query(train: ad.AnnData, brief: MultiDCP) -> None:
    query = question(train, [("A", "aspirin", "1")])
    with_them = answer(brief, query)
    del query.uns["structures"]
    assert np.array_equal(answer(brief, query), with_them)


def test_a_combination_is_answered_only_where_it_was_trained() -> None:
    rows = [("A", name, "1+1" if "+" in name else "1", "train", np.ones(GENES)) for name in (*DRUGS, "aspirin+salt")]
    train = profiles(rows, DRUGS)
    model = MultiDCP(**SMALL, epochs=2).fit(Training(train))
    assert model.facts["doses"] == [1.0, 2.0]
    answer(model, question(train, [("A", "aspirin+salt", "1+1")]))
    with pytest.raises(UnseenError, match=r"aspirin\+caffeine") as error:
        model.predict(Query(question(train, [("A", "aspirin", "1"), ("A", "aspirin+caffeine", "1+1")])))
    assert error.value.unseen.tolist() == [False, True]


# --- errors -------------------------------------------------------------------------------------------


def test_a_fold_without_profiles_to_train_on_teaches_nothing(train: ad.AnnData) -> None:
    held_out = train.copy()
    held_out.obs["role"] = np.where(held_out.obs["is_control"], "control_input", "val")
    with pytest.raises(CannotLearnError, match="no perturbed profile has role train"):
        MultiDCP(**SMALL).fit(Training(held_out))


def test_structures_are_needed(train: ad.AnnData, brief: MultiDCP) -> None:
    bare = train.copy()
    del bare.uns["structures"]
    with pytest.raises(ContractError, match="structures"):
        MultiDCP(**SMALL).fit(Training(bare))
    bare.uns["structures"] = pd.DataFrame({"smiles": {"aspirin": "CCO", "salt": "CCN"}})
    with pytest.raises(ContractError, match="caffeine has no row in the structures"):
        MultiDCP(**SMALL).fit(Training(bare))
    with pytest.raises(ContractError, match="unheard has no row in the structures"):
        brief.predict(Query(question(train, [("A", "unheard", "1")])))


def test_a_bad_smiles_is_named(train: ad.AnnData, brief: MultiDCP) -> None:
    bad = pd.DataFrame({"smiles": {**DRUGS, "caffeine": "C1CC", "new": "nonsense"}})
    spoilt = train.copy()
    spoilt.uns["structures"] = bad
    with pytest.raises(ContractError, match=r"SMILES of caffeine cannot be read \(C1CC\)"):
        MultiDCP(**SMALL).fit(Training(spoilt))
    query = question(train, [("A", "new", "1")])
    query.uns["structures"] = bad
    with pytest.raises(ContractError, match="SMILES of new"):
        brief.predict(Query(query))


def test_other_genes_are_refused(train: ad.AnnData, brief: MultiDCP) -> None:
    with pytest.raises(ContractError, match="other genes"):
        brief.predict(Query(question(train, [("A", "aspirin", "1")])[:, ::-1].copy()))


def test_settings_and_roles_are_checked(train: ad.AnnData) -> None:
    with pytest.raises(ContractError, match="gene_attention"):
        MultiDCP(**{**SMALL, "gene_attention": "yes"}).fit(Training(train))
    with pytest.raises(ContractError, match="multiple of heads"):
        MultiDCP(**{**SMALL, "heads": 3}).fit(Training(train))
    with pytest.raises(ContractError, match="role train"):
        MultiDCP(**SMALL).fit(Training(train[train.obs["role"] != "train"].copy()))
    with pytest.raises(ContractError, match="did you mean gene_attention"):
        build({"class": "trueshift.models.multidcp.MultiDCP", "params": {"gene_atention": True}}, 0)
