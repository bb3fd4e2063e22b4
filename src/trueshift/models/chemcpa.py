"""chemCPA: an autoencoder whose latent is a sum of basal state, drug effect and context; drugs known by their features.

Hetzel et al. 2022, "Predicting cellular responses to novel drug perturbations at a single-cell resolution", NeurIPS;
the settings are those of the authors' repository. Written from these descriptions. Differences are named in
:class:`ChemCPA`.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from trueshift import gpu
from trueshift.contract import (
    ContractError,
    asked,
    condition_codes,
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
    input_cells,
    refuse_unseen,
)
from trueshift.models.chemcpa_data import Rows, Treatments, drugs_of
from trueshift.models.chemcpa_network import Adversaries, Batch, ChemCPANetwork, adversary_loss, autoencoder_loss
from trueshift.models.features import Features
from trueshift.networks.cells_on_device import CellsOnDevice
from trueshift.networks.training import (
    Checkpoint,
    fingerprint,
    load_weights,
    reproducible,
    shuffled_batches,
    train_epochs,
)
from trueshift.tracking import Run

FEATURE_LIMIT = 10.0
NOT_SETTINGS = ("threads", "network", "known", "facts")
ROWS_AT_ONCE = 4096  # of a prediction, and of the rows that the decoder's start is taken from


class ChemCPA(Model):
    """chemCPA. Predicts cells: each input control decoded with the drug asked.

    z = encoder(x) + Σ s(f, t)·e(f) + e(context), over the drugs of a row; x̂ = decoder(z), a mean and a variance per
    gene. Training reconstructs every row from its own expression; an answer starts from a control. That the encoder
    leaves the drug to e and the context to its embedding is what two adversaries are for.

    - Drugs: the table ``features`` (see :class:`trueshift.models.features.Features`), frozen; standardised by the drugs
      of training and cut at ±10 (of a drug unlike all of these a descriptor can be thousands of deviations away). A
      combination is the sum of its drugs, each at its own dose. Controls have no drug. A column in which the training
      drugs do not differ is ignored.
    - Dose: t = log(1 + d/a) / log(1 + b/a), with a the smallest and b the largest dose trained on. Steps of a dilution
      series are about as far from one another as they should be (.04, .12, .37, 1.1, 3.3, 10 uM: .13, .25, .42, .61,
      .80, 1), where d/b would put the lower four within .11 of 0 and log(1 + d) would depend on the unit. The doser s
      is a sigmoid: never 0, so dose 0 of a drug is not a control.
    - Network: ``latent``; ``hidden`` × ``layers`` of encoder and decoder, ``drug_hidden`` × ``drug_layers`` of e,
      ``doser_hidden`` × ``doser_layers`` of s, ``adversary_hidden`` × ``adversary_layers``; batch normalisation, ReLU.
    - Loss: Gaussian NLL − ``drug_weight``·CE(perturbation) − ``context_weight``·CE(context). The classes of the first
      are the labels of training, controls and combinations among them. Every ``adversary_every``-th step trains the
      adversaries instead: their CE + ``gradient_penalty`` times the squared slope of their logits.
    - Training: ``epochs``, ``batch_size``; Adam with ``learning_rate`` and ``weight_decay``, adversaries with
      ``adversary_learning_rate`` and ``adversary_weight_decay``, all rates × ``decay`` every ``decay_every`` epochs;
      gradient norm at most ``clip``.
    - Validation, every ``validate_every`` epochs, asks what a test asks: conditions of role val are predicted from
      controls (a profile's own, else drawn from its context); the squared error of their means is to become small.
      ``patience`` values in a row without a better one end training. The best weights stay. Without rows of role val
      all epochs are run and the last weights stay.
    - ``pretrain_contexts``: a list of contexts, or ``others`` for those in which the test asks nothing. Their rows are
      trained on for ``pretrain_epochs``, then all remaining rows for ``epochs``. It is an error if either has no
      perturbed rows. ``threads``: of torch.

    Differences to the publication: pretraining is on contexts of one data set and keeps all genes; controls have no
    drug in place of one called vehicle; the decoder starts at the mean and variance of each gene; validation as above;
    the autoencoder's gradient norm is taken with the doser's. Defaults are the published settings; their patience (50
    validations) is more than there are.

    On a CPU the same seed and number of threads give the same bits, be the training interrupted or not.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        features: str | None = None,
        latent: int = 32,
        hidden: int = 256,
        layers: int = 4,
        drug_hidden: int = 128,
        drug_layers: int = 4,
        doser_hidden: int = 64,
        doser_layers: int = 3,
        adversary_hidden: int = 128,
        adversary_layers: int = 3,
        drug_weight: float = 9.10,
        context_weight: float = 16.17,
        gradient_penalty: float = 0.455,
        adversary_every: int = 3,
        epochs: int = 201,
        batch_size: int = 256,
        learning_rate: float = 1.58e-3,
        weight_decay: float = 6.25e-7,
        adversary_learning_rate: float = 1.19e-3,
        adversary_weight_decay: float = 9.85e-6,
        decay: float = 0.9,
        decay_every: int = 6,
        clip: float = 1.0,
        validate_every: int = 5,
        patience: int = 50,
        pretrain_contexts: list[str] | str | None = None,
        pretrain_epochs: int = 201,
        threads: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.features = features
        self.latent = latent
        self.hidden = hidden
        self.layers = layers
        self.drug_hidden = drug_hidden
        self.drug_layers = drug_layers
        self.doser_hidden = doser_hidden
        self.doser_layers = doser_layers
        self.adversary_hidden = adversary_hidden
        self.adversary_layers = adversary_layers
        self.drug_weight = drug_weight
        self.context_weight = context_weight
        self.gradient_penalty = gradient_penalty
        self.adversary_every = adversary_every
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.adversary_learning_rate = adversary_learning_rate
        self.adversary_weight_decay = adversary_weight_decay
        self.decay = decay
        self.decay_every = decay_every
        self.clip = clip
        self.validate_every = validate_every
        self.patience = patience
        self.pretrain_contexts = pretrain_contexts
        self.pretrain_epochs = pretrain_epochs
        self.threads = threads

    # --- learning -------------------------------------------------------------------------------------

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Trains on all rows but those of role val; a checkpoint of the same training in ``run.resume`` is taken up."""
        train = given.cells
        if self.adversary_every < 2:
            raise ContractError(
                f"chemCPA: adversary_every {self.adversary_every} leaves the autoencoder no step; take 2"
            )
        device = gpu.device()
        settings = {name: value for name, value in vars(self).items() if name not in NOT_SETTINGS}

        rows = Rows.of(train)
        phases = self._phases(train, rows)
        self.known = Features.read(train, self.features)
        shown = rows.conditions.iloc[np.unique(rows.condition[rows.learn])]
        self.facts = {"genes": train.var_names.tolist(), "contexts": rows.contexts, **self._scales(train, shown)}
        treatments = self._treatments(rows.conditions)

        with reproducible(self.seed, device, self.threads):
            network = self._make_network().to(device)
            some = rows.learn[:: math.ceil(len(rows.learn) / ROWS_AT_ONCE)]
            values = torch.from_numpy(dense(train.X[some])).to(device)
            network.start_at(values.mean(0), values.var(0, correction=0))
            adversaries = Adversaries(
                latent=self.latent,
                labels=len(rows.labels),
                contexts=len(rows.contexts),
                hidden=self.adversary_hidden,
                layers=self.adversary_layers,
            ).to(device)
            cells = CellsOnDevice(train.X, device)
            digest = fingerprint(settings, train.X, *rows.arrays(), *treatments.arrays()) if run and run.resume else ""
            for phase in phases:
                self._train(network, adversaries, cells, rows, treatments, phase, run, digest)
        for phase in phases:
            Checkpoint(run, "chemCPA", digest, phase.file).discard()
        self.network = network.cpu()
        return self

    def _phases(self, train: ad.AnnData, rows: Rows) -> list["Phase"]:
        everywhere = np.full(train.n_obs, True)
        if self.pretrain_contexts is None:
            wanted = [("chemCPA", "state.pt", self.epochs, everywhere, 0)]
        else:
            contexts = train.obs["context"].astype(str).to_numpy()
            if self.pretrain_contexts == "others":
                first = set(contexts) - set(contexts[(train.obs["role"] == "control_input").to_numpy()])
            else:
                named = self.pretrain_contexts
                first = {named} if isinstance(named, str) else set(named)
                if unknown := sorted(first - set(contexts)):
                    raise ContractError(
                        f"chemCPA: pretrain_contexts names {unknown[0]}, which is not a training context"
                    )
            early = np.isin(contexts, sorted(first))
            wanted = [
                ("chemCPA pretraining", "pretrain.pt", self.pretrain_epochs, early, 0),
                ("chemCPA fine-tuning", "state.pt", self.epochs, ~early, self.pretrain_epochs),
            ]
        perturbed = ~train.obs["is_control"].to_numpy(bool)
        phases = []
        for name, file, epochs, mask, before in wanted:
            learn, val = rows.learn[mask[rows.learn]], np.flatnonzero(mask[rows.val])
            if not perturbed[learn].any():
                nothing = f"{name}: there are no perturbed rows of role train to learn from"
                if self.pretrain_contexts is None:
                    raise CannotLearnError(f"{nothing}; check the split", TOO_FEW_CELLS)
                raise ContractError(
                    f"{nothing} with pretrain_contexts {self.pretrain_contexts}; list other contexts, or leave it out"
                )
            phases.append(Phase(name, file, epochs, learn, rows.val[val], rows.val_control[val], before))
        return phases

    def _train(
        self,
        network: ChemCPANetwork,
        adversaries: Adversaries,
        cells: CellsOnDevice,
        rows: Rows,
        treatments: Treatments,
        phase: "Phase",
        run: Run | None,
        digest: str,
    ) -> None:
        """Trains for the epochs of ``phase``, with optimizers of its own."""
        device = cells.device
        adam = torch.optim.Adam(network.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        adversary_adam = torch.optim.Adam(
            adversaries.parameters(), self.adversary_learning_rate, weight_decay=self.adversary_weight_decay
        )

        def batch_of(index: np.ndarray, start: np.ndarray) -> Batch:
            """The rows ``start`` (B,), with the drugs and contexts of the rows ``index`` (B,)."""
            return treatments.batch(
                cells.rows(start), rows.condition[index], rows.context[index], rows.label[index], device
            )

        def epoch(number: int, rng: np.random.Generator) -> dict[str, float]:
            for optimizer, rate in ((adam, self.learning_rate), (adversary_adam, self.adversary_learning_rate)):
                optimizer.param_groups[0]["lr"] = rate * self.decay ** (number // self.decay_every)
            losses: dict[str, list[float]] = {}
            batches = shuffled_batches(rng, len(phase.learn), self.batch_size, least=self.batch_size // 2)
            for i, chosen in enumerate(batches):
                index = phase.learn[chosen]
                batch = batch_of(index, index)
                optimizer = adam
                if (number * len(batches) + i) % self.adversary_every == 0:
                    optimizer = adversary_adam
                    with torch.no_grad():
                        basal = network.encoder(batch.x)
                    loss = adversary_loss(adversaries, basal, batch.label, batch.context, self.gradient_penalty)
                    losses.setdefault("adversary_loss", []).append(loss.item())
                else:
                    loss, nll = autoencoder_loss(network, adversaries, batch, self.drug_weight, self.context_weight)
                    losses.setdefault("loss", []).append(loss.item())
                    losses.setdefault("nll", []).append(nll.item())
                network.zero_grad()
                adversaries.zero_grad()  # the autoencoder's loss leaves gradients in them too
                loss.backward()
                torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.clip)
                optimizer.step()
            return {name: float(np.mean(values)) for name, values in losses.items()}

        table, group = condition_codes(rows.obs.iloc[phase.val])

        def validate() -> float:
            error = torch.zeros(len(table), len(self.facts["genes"]), device=device)
            for part in np.array_split(np.arange(len(group)), math.ceil(len(group) / ROWS_AT_ONCE)):
                predicted = network(batch_of(phase.val[part], phase.val_control[part]))
                codes = torch.from_numpy(group[part]).to(device)
                error.index_add_(0, codes, predicted - cells.rows(phase.val[part]))
            size = torch.from_numpy(np.bincount(group)).to(device)
            return float((error / size[:, None]).square().mean())

        stopping = f"early stopping on {len(group)} rows" if len(group) else "all run: no rows of role val"
        if run:
            print(f"{phase.name}: {len(phase.learn)} rows, {phase.epochs} epochs, {stopping}", flush=True)
        train_epochs(
            {"network": network, "adversaries": adversaries, "adam": adam, "adversary_adam": adversary_adam},
            phase.epochs,
            epoch,
            name=phase.name,
            seed=self.seed,
            run=run,
            fingerprint=digest,
            validate=validate if len(group) else None,
            validate_every=self.validate_every,
            patience=self.patience,
            file=phase.file,
            offset=phase.before,
        )

    def _make_network(self) -> ChemCPANetwork:
        return ChemCPANetwork(
            genes=len(self.facts["genes"]),
            features=self.known.values.shape[1],
            contexts=len(self.facts["contexts"]),
            latent=self.latent,
            hidden=self.hidden,
            layers=self.layers,
            drug_hidden=self.drug_hidden,
            drug_layers=self.drug_layers,
            doser_hidden=self.doser_hidden,
            doser_layers=self.doser_layers,
            nonnegative=self.facts["nonnegative"],
        )

    # --- drugs ----------------------------------------------------------------------------------------

    def _scales(self, train: ad.AnnData, shown: pd.DataFrame) -> dict[str, Any]:
        """What features and doses are scaled by, from the conditions ``shown`` in training; and the sign of X."""
        names, doses, _ = drugs_of(shown["perturbation"], shown["dose"])
        values = self.known.of(sorted(set(names)))
        spread = values.std(axis=0)
        differ = spread > 1e-9 * np.abs(values).max(axis=0)
        some = np.sort(doses[doses > 0])
        return {
            "centre": values.mean(axis=0).tolist(),
            "scale": np.divide(1, spread, out=np.zeros_like(spread), where=differ).tolist(),
            "least_dose": float(some[0]) if len(some) else 1.0,
            "largest_dose": float(some[-1]) if len(some) else 1.0,
            "nonnegative": bool(np.min(train.X.data if sparse.issparse(train.X) else train.X, initial=0) >= 0),
        }

    def _treatments(self, conditions: pd.DataFrame) -> Treatments:
        """The drugs of each condition, scaled as in training."""
        names, doses, owner = drugs_of(conditions["perturbation"], conditions["dose"])
        distinct, drug = np.unique(names, return_inverse=True)
        values = self.known.of(distinct) if len(distinct) else np.zeros((0, self.known.values.shape[1]))
        values = (values - self.facts["centre"]) * self.facts["scale"]
        values = values.clip(-FEATURE_LIMIT, FEATURE_LIMIT).astype(np.float32)
        least = self.facts["least_dose"]
        scaled = np.log1p(doses / least) / np.log1p(self.facts["largest_dose"] / least)
        return Treatments(values, drug, scaled.astype(np.float32), np.bincount(owner, minlength=len(conditions)))

    # --- answering ------------------------------------------------------------------------------------

    def predict(self, asked_for: Query) -> ad.AnnData:
        """Cells for every asked condition, one for each input control drawn by ``input_cells``.

        Raises :class:`ContractError` for a context that has not even controls in training, and for a drug without
        features.
        """
        query = asked_for.cells
        self.check_fitted()
        check_genes(query, self.facts["genes"], "chemCPA")
        contexts = self.facts["contexts"]
        refuse_unseen(query, {(name,) for name in contexts}, ["context"], "chemCPA")
        conditions = asked(query)
        treatments = self._treatments(conditions)
        context = pd.Index(contexts).get_indexer(conditions["context"].astype(str))
        rows, owner = input_cells(query, self.seed)
        values = np.empty((len(rows), query.n_vars), dtype=np.float32)
        network = self.network.to(device := gpu.device())
        with torch.no_grad(), reproducible(self.seed, device, self.threads):
            for part in np.array_split(np.arange(len(rows)), math.ceil(len(rows) / ROWS_AT_ONCE)):
                x = torch.from_numpy(dense(query.X[rows[part]])).to(device)
                of_part = owner[part]
                batch = treatments.batch(x, of_part, context[of_part], np.zeros_like(of_part), device)
                values[part] = network(batch).cpu().numpy()
        return make_prediction(query, values, owner)

    # --- keeping --------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes ``weights.pt`` (a state dict), ``model.json`` (genes, contexts, scales) and ``features.npz``."""
        self.check_fitted()
        torch.save(self.network.cpu().state_dict(), Path(folder, "weights.pt"))
        write_json(self.facts, Path(folder, "model.json"))
        np.savez(Path(folder, "features.npz"), **self.known.arrays())  # type: ignore[arg-type]

    def load(self, folder: Path) -> Self:
        """Reads what :meth:`save` wrote; nothing is unpickled but tensors."""
        self.facts = read_json(Path(folder, "model.json"))
        with np.load(Path(folder, "features.npz"), allow_pickle=False) as file:
            self.known = Features.of_arrays(dict(file))
        self.network = self._make_network()
        load_weights(self.network, Path(folder, "weights.pt"))
        return self


@dataclass(frozen=True)
class Phase:
    """One stretch of training: its checkpoint, its rows, as in :class:`Rows`, and the epochs of those ``before``."""

    name: str
    file: str
    epochs: int
    learn: np.ndarray
    val: np.ndarray
    val_control: np.ndarray
    before: int
