"""multidcp: MultiDCP. The effect of a drug on each gene from its molecular graph, its dose and the basal expression.

Wu, Liu, Qiu & Xie 2022, PLoS Computational Biology 18, e1010367, written from the description of the method. The
differences to it are in the docstring of :class:`MultiDCP`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import anndata as ad
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from trueshift import gpu
from trueshift.contract import (
    ContractError,
    asked,
    column_means,
    components,
    dense,
    make_prediction,
    read_json,
    write_json,
)
from trueshift.models.base import (
    TOO_FEW_CELLS,
    CannotLearnError,
    Model,
    Query,
    Training,
    check_genes,
    matched_controls,
    query_controls,
    refuse,
    total_dose,
)
from trueshift.models.molecular_graph import MolecularGraph, batch, graph_of_smiles, join
from trueshift.models.multidcp_network import MultiDCPNetwork
from trueshift.networks.training import (
    Checkpoint,
    fingerprint,
    load_weights,
    reproducible,
    shuffled_batches,
    train_epochs,
)
from trueshift.tracking import Run

ATTENTION_GENES = 2000


@dataclass(frozen=True)
class Conditions:
    """What effects are asked of: N rows, each with a ``drug`` (N,), a ``context`` (N,) and a ``dose`` (N, K).

    Drugs and contexts are numbers: of the molecules ``graphs`` and of the rows of ``basal`` (contexts, G), the mean
    controls. Doses are mixtures of the K doses of training, see :func:`dose_codes`.
    """

    drug: np.ndarray
    context: np.ndarray
    dose: np.ndarray
    graphs: list[MolecularGraph]
    basal: np.ndarray


@dataclass(frozen=True)
class Profiles:
    """The training data: rows of ``X`` that are controls, those that are perturbed, and what the latter are.

    ``perturbed`` (N,) are rows of ``X``, ``learnt`` and ``held_out`` (role val) numbers among them, ``conditions`` what
    they are, ``controls`` (M, G) and ``matched`` (N,) what they are compared with; ``wells`` (C,) are rows of controls.
    """

    X: Any
    perturbed: np.ndarray
    learnt: np.ndarray
    held_out: np.ndarray
    conditions: Conditions
    controls: np.ndarray
    matched: np.ndarray
    wells: np.ndarray

    def effects(self, some: np.ndarray) -> np.ndarray:
        """Differences of perturbed profiles to their matched controls, shape (B, G)."""
        return dense(self.X[self.perturbed[some]]) - self.controls[self.matched[some]]


class MultiDCP(Model):
    """MultiDCP. Predicts profiles: x̂ = the mean of the matched input controls + δ(drug, dose, context).

    - Drug: the graph of its SMILES (``uns["structures"]``), ``convolutions`` by degree of an atom, a code of ``width``
      for every atom; their sum is the fingerprint of the drug.
    - Genes: a learnt code of ``width`` for each. In each of ``layers`` they look at the atoms of the drug (``heads``,
      ``mlp_hidden``, ``dropout`` after every part). ``gene_attention``: whether genes look at one another before; auto
      means where there are at most 2,000, for its time grows with the square of their number (at 10,716 genes it is
      over a hundred times that at 978).
    - Context: ``cell`` layers from its basal expression, the mean of its controls, to a code; ``dose``: width of the
      code of a dose.
    - The hidden layer ``head`` of every gene sees its code after attention, the fingerprint, the context and the dose:
      as published 128 + 128 + 50 + 4 = 310 → 128 → 1.
    - Training: an epoch is one over the controls, which an autoencoder around the code of the context reconstructs,
      then one over the perturbed profiles; mean squared error both, Adam with ``learning_rate`` (for the encoder and
      decoder of cells ``cell_learning_rate``, if given: with as many inputs as genes they bear less), batches of
      ``batch_size``. After every ``validate_every`` epochs 1 − the mean Pearson correlation of predicted and true δ
      over the profiles of role val is taken (a constant δ has correlation 0); ``patience`` times without a better one
      ends training. The best weights stay; without such profiles all epochs are run and the last stay.
      ``threads``: of torch.

    Doses are one-hot over those of training (upstream: over those of each file, so that a code can change its
    meaning). Between two of them a dose is a mixture of both, linear in its logarithm; beyond, it is the nearest.
    Other differences: δ to the matched control instead of a z-score, so that the prediction is expression; expression
    and δ are scaled by constants of the training data; gene codes are learnt from the data instead of a fixed matrix;
    dropout is on the parts of a layer and not on attention weights. No part depends on drug and context together
    before the hidden layer, so all that depends on the drug is computed once for each in a batch.

    A combination is answered only where it was trained, as one graph of unconnected molecules at the summed dose;
    others are refused. On a CPU the same seed and number of threads give the same bits, be the
    training interrupted or not.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        convolutions: Sequence[int] = (16, 16),
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        mlp_hidden: int = 512,
        dropout: float = 0.3,
        gene_attention: Literal["auto", True, False] = "auto",
        cell: Sequence[int] = (200, 100, 50),
        dose: int = 4,
        head: int = 128,
        epochs: int = 500,
        learning_rate: float = 2e-4,
        cell_learning_rate: float | None = None,
        batch_size: int = 64,
        validate_every: int = 1,
        patience: int | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.convolutions = convolutions
        self.width = width
        self.layers = layers
        self.heads = heads
        self.mlp_hidden = mlp_hidden
        self.dropout = dropout
        self.gene_attention = gene_attention
        self.cell = cell
        self.dose = dose
        self.head = head
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.cell_learning_rate = cell_learning_rate
        self.batch_size = batch_size
        self.validate_every = validate_every
        self.patience = patience
        self.threads = threads

    # --- learning -------------------------------------------------------------------------------------

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Trains on the perturbed profiles and the controls; a checkpoint in ``run.resume`` is taken up."""
        train = given.cells
        self.check_choices()
        if self.width % self.heads:
            raise ContractError(f"MultiDCP: width ({self.width}) must be a multiple of heads ({self.heads})")
        profiles = self._profiles(train)
        device = gpu.device()
        with reproducible(self.seed, device, self.threads):
            self.network = self._make_network()
            self._set_scales(profiles)
            self.network.to(device)
            self._train(profiles, run)
        self.network = self.network.cpu()
        return self

    def _profiles(self, train: ad.AnnData) -> Profiles:
        controls, matched = matched_controls(train)
        control, role = train.obs["is_control"].to_numpy(bool), train.obs["role"].astype(str).to_numpy()
        table = train.obs[~control]
        learnt, held_out = (np.flatnonzero(role[~control] == name) for name in ("train", "val"))
        if not len(learnt):
            raise CannotLearnError("MultiDCP: no perturbed profile has role train; check the split", TOO_FEW_CELLS)
        smiles = smiles_of(train, "train")
        labels = sorted(table["perturbation"].astype(str).unique())
        self.facts: dict[str, Any] = {
            "genes": train.var_names.tolist(),
            "doses": np.unique(total_dose(table["dose"].iloc[learnt])).tolist(),
            "smiles": {name: known(smiles, name) for label in labels for name in components(label)},
            "combinations": [label for label in labels if len(components(label)) > 1],
        }
        conditions = self._conditions(table, train, np.flatnonzero(control), self.facts["smiles"])
        wells = np.flatnonzero(control & (role != "val"))
        perturbed = np.flatnonzero(~control)
        return Profiles(train.X, perturbed, learnt, held_out, conditions, controls, matched, wells)

    def _conditions(
        self, table: pd.DataFrame, adata: ad.AnnData, controls: np.ndarray, smiles: Mapping[str, str]
    ) -> Conditions:
        """Rows of a table with context, perturbation and dose; ``controls`` are the rows of ``adata`` that are such."""
        drugs, drug = np.unique(table["perturbation"].to_numpy(str), return_inverse=True)
        contexts, context = np.unique(table["context"].to_numpy(str), return_inverse=True)
        of = adata.obs["context"].to_numpy(str)[controls]
        basal = [column_means(adata.X, controls[of == name]) for name in contexts]
        parts = {name: graph_of_smiles(known(smiles, name), name) for label in drugs for name in components(label)}
        graphs = [join([parts[name] for name in components(label)]) for label in drugs]
        dose = dose_codes(total_dose(table["dose"]), self.facts["doses"])
        return Conditions(drug, context, dose, graphs, np.stack(basal).astype(np.float32))

    def _make_network(self) -> MultiDCPNetwork:
        genes = len(self.facts["genes"])
        return MultiDCPNetwork(
            genes=genes,
            doses=len(self.facts["doses"]),
            convolutions=self.convolutions,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            mlp_hidden=self.mlp_hidden,
            dropout=self.dropout,
            gene_attention=genes <= ATTENTION_GENES if self.gene_attention == "auto" else bool(self.gene_attention),
            cell=self.cell,
            dose=self.dose,
            head=self.head,
        )

    def _set_scales(self, profiles: Profiles) -> None:
        """Sets the constants of the network: the mean control, and the root mean squares of what is left and of δ."""
        mean = column_means(profiles.X, profiles.wells)
        self.network.basal_mean.copy_(torch.from_numpy(mean))
        spread = rms(dense(profiles.X[some]) - mean for some in chunks(profiles.wells))
        self.network.basal_scale.fill_(spread)
        self.network.effect_scale.fill_(rms(profiles.effects(some) for some in chunks(profiles.learnt)))

    def _train(self, profiles: Profiles, run: Run | None) -> None:
        network, conditions, wells, learnt = self.network, profiles.conditions, profiles.wells, profiles.learnt
        of_cells = [*network.encode_cell.parameters(), *network.decode_cell.parameters()]
        ids = set(map(id, of_cells))
        rest = [parameter for parameter in network.parameters() if id(parameter) not in ids]
        groups = [{"params": rest}, {"params": of_cells, "lr": self.cell_learning_rate or self.learning_rate}]
        optimizer = torch.optim.Adam(groups, lr=self.learning_rate)
        device = network.basal_mean.device

        def step(predicted: Tensor, true: Tensor) -> float:
            loss = functional.mse_loss(predicted, true)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return float(loss.detach()) * len(true)

        def epoch(_: int, rng: np.random.Generator) -> dict[str, float]:
            reconstruction = loss = 0.0
            for some in shuffled_batches(rng, len(wells), self.batch_size):
                basal = network.standardise(torch.from_numpy(dense(profiles.X[wells[some]])).to(device))
                reconstruction += step(network.reconstruct(basal), basal)
            for some in shuffled_batches(rng, len(learnt), self.batch_size):
                true = torch.from_numpy(profiles.effects(learnt[some])).to(device)
                loss += step(self._scaled_effects(conditions, learnt[some]), true / network.effect_scale)
            return {"train_loss": loss / len(learnt), "reconstruction_loss": reconstruction / len(wells)}

        def validate() -> float:
            found = [
                pearson(self._scaled_effects(conditions, some).cpu(), torch.from_numpy(profiles.effects(some)))
                for some in self._by_drug(conditions, profiles.held_out)
            ]
            return 1 - float(torch.cat(found).mean())

        settings = {name: value for name, value in vars(self).items() if name not in ("threads", "network")}
        what = (conditions.drug, conditions.context, conditions.dose, conditions.basal)
        used = (profiles.X, *what, profiles.learnt, profiles.held_out, profiles.matched, profiles.wells)
        mark = fingerprint(settings, *used) if run and run.resume else ""
        train_epochs(
            {"network": network, "optimizer": optimizer},
            self.epochs,
            epoch,
            name="MultiDCP",
            seed=self.seed,
            run=run,
            fingerprint=mark,
            validate=validate if len(profiles.held_out) else None,
            validate_every=self.validate_every,
            patience=self.patience,
        )
        Checkpoint(run, "MultiDCP", mark).discard()

    def _by_drug(self, conditions: Conditions, some: np.ndarray) -> list[np.ndarray]:
        """Rows in batches in which a drug stands together; the same whatever the order they are given in."""
        order = np.lexsort((conditions.context[some], *conditions.dose[some].T, conditions.drug[some]))
        return np.split(some[order], range(self.batch_size, len(some), self.batch_size))

    def _scaled_effects(self, conditions: Conditions, some: np.ndarray) -> Tensor:
        """δ of some rows, shape (B, G), in units of the network."""
        device = self.network.basal_mean.device
        drugs, drug = np.unique(conditions.drug[some], return_inverse=True)
        basal = torch.from_numpy(conditions.basal[conditions.context[some]]).to(device)
        return self.network(
            batch([conditions.graphs[i] for i in drugs]),
            torch.from_numpy(drug).to(device),
            torch.from_numpy(conditions.dose[some]).to(device),
            self.network.standardise(basal),
        )

    # --- answering ------------------------------------------------------------------------------------

    def predict(self, asked_for: Query) -> ad.AnnData:
        """A profile for every asked condition: the mean of its input controls and the predicted δ."""
        query = asked_for.cells
        self.check_fitted()
        check_genes(query, self.facts["genes"], "MultiDCP")
        table = asked(query)
        labels, shown = table["perturbation"].astype(str), self.facts["combinations"]
        unseen = np.array([len(components(label)) > 1 and label not in shown for label in labels])
        refuse(query, unseen, ["perturbation"], "MultiDCP")
        values = query_controls(query)
        smiles = {**(smiles_of(query, "query") if "structures" in query.uns else {}), **self.facts["smiles"]}
        conditions = self._conditions(table, query, np.arange(query.n_obs), smiles)
        network = self.network.to(device := gpu.device())
        with torch.no_grad(), reproducible(self.seed, device, self.threads):
            for some in self._by_drug(conditions, np.arange(len(table))):
                values[some] += (self._scaled_effects(conditions, some) * network.effect_scale).cpu().numpy()
        return make_prediction(query, values)

    # --- keeping --------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes ``weights.pt`` (a state dict) and ``model.json`` (genes, doses, SMILES, combinations)."""
        self.check_fitted()
        torch.save(self.network.cpu().state_dict(), Path(folder, "weights.pt"))
        write_json(self.facts, Path(folder, "model.json"))

    def load(self, folder: Path) -> Self:
        """Reads what :meth:`save` wrote; nothing is unpickled but tensors."""
        self.facts = read_json(Path(folder, "model.json"))
        self.network = self._make_network()
        load_weights(self.network, Path(folder, "weights.pt"))
        return self


# --- drugs, doses, numbers ------------------------------------------------------------------------------


def smiles_of(adata: ad.AnnData, file: str) -> dict[str, str]:
    """SMILES by drug of ``uns["structures"]``; :class:`ContractError` where there is no such table."""
    table = adata.uns.get("structures")
    if table is None or "smiles" not in table:
        raise ContractError(f"{file}: MultiDCP needs the structures of the drugs (SMILES), and the dataset has none")
    return dict(zip(table.index.astype(str), table["smiles"], strict=True))


def known(smiles: Mapping[str, str], name: str) -> str:
    """The SMILES of a drug; :class:`ContractError` with its name where there is none."""
    if name not in smiles:
        raise ContractError(
            f"perturbation {name} has no row in the structures (SMILES) of the dataset; add it, or leave it out"
        )
    return smiles[name]


def dose_codes(doses: np.ndarray, vocabulary: Sequence[float]) -> np.ndarray:
    """Weights of the doses of a vocabulary (K, ascending) in each dose, shape (N, K), float32; rows sum to 1.

    A dose of the vocabulary has weight 1 in itself; one between two is a mixture of both, linear in its logarithm; one
    beyond is the nearest. Dose 0 counts as a tenth of the least above it.
    """
    floor = min((dose for dose in vocabulary if dose > 0), default=1.0) / 10
    places, known_places = (np.log10(np.maximum(x, floor)) for x in (doses, vocabulary))
    units = np.eye(len(vocabulary))
    return np.stack([np.interp(places, known_places, unit) for unit in units], 1).astype(np.float32)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each row of (N, G) with that of the other, shape (N,), float64; 0 where one is constant."""
    a, b = (x.double() - x.double().mean(1, keepdim=True) for x in (a, b))
    return functional.cosine_similarity(a, b, eps=1e-9)


def chunks(rows: np.ndarray, size: int = 4096) -> list[np.ndarray]:
    """Rows in pieces that bound the memory of dense arrays."""
    return np.split(rows, range(size, len(rows), size))


def rms(arrays: Iterable[np.ndarray]) -> float:
    """The root mean square of all values; 1 where they are all 0."""
    total = count = 0.0
    for array in arrays:
        total, count = total + float(np.square(array, dtype=np.float64).sum()), count + array.size
    return float(np.sqrt(total / count)) or 1.0
