"""transigen: TranSiGen. Autoencoders of control and perturbed profiles; a molecule leads from one latent to the other.

Tong et al. 2024, "Deep representation learning of chemical-induced transcriptional profile for phenotype-based drug
discovery", Nature Communications 15, 5378, written from the description of the method. Differences to it: latents are
drawn in training only; the autoencoders, the authors' trained on shRNA profiles first, start at random with outputs
around the means of the training profiles; a gene whose output is 0 can rise again
(:class:`trueshift.networks.layers.RisingReLU`), and where training values are negative the output is linear.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple, Self

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from trueshift import gpu
from trueshift.contract import (
    ContractError,
    asked,
    column_means,
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
    control_pools,
    input_cells,
    total_dose,
)
from trueshift.models.features import Features
from trueshift.networks.cells_on_device import CellsOnDevice
from trueshift.networks.layers import RisingReLU
from trueshift.networks.training import (
    Checkpoint,
    fingerprint,
    load_weights,
    reproducible,
    shuffled_batches,
    train_epochs,
)
from trueshift.tracking import Run

CHUNK = 4096  # profiles decoded at a time, and scored at a time


class Gaussian(NamedTuple):
    """Normal distributions with independent dimensions: ``mean`` and ``log_variance``, both (B, Z)."""

    mean: Tensor
    log_variance: Tensor

    def draw(self) -> Tensor:
        """One value of each, (B, Z), differentiable in mean and variance."""
        return self.mean + torch.randn_like(self.mean) * (self.log_variance / 2).exp()

    def divergence(self, other: "Gaussian") -> Tensor:
        """KL(self ‖ other), summed over dimensions, (B,)."""
        ratio = (self.log_variance - other.log_variance).exp()
        distance = (self.mean - other.mean).square() / other.log_variance.exp()
        return (ratio + distance - 1 + other.log_variance - self.log_variance).sum(dim=1) / 2

    def divergence_from_standard(self) -> Tensor:
        """KL(self ‖ N(0, 1)), summed over dimensions, (B,)."""
        zero = torch.zeros_like(self.mean)
        return self.divergence(Gaussian(zero, zero))


class GaussianHead(nn.Module):
    """Linear maps to a mean and a log variance: (B, I) → two of (B, Z)."""

    def __init__(self, inputs: int, latent: int) -> None:
        super().__init__()
        self.mean = nn.Linear(inputs, latent)
        self.log_variance = nn.Linear(inputs, latent)

    def forward(self, x: Tensor) -> Gaussian:
        """The distributions of a batch."""
        return Gaussian(self.mean(x), self.log_variance(x))


def _block(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(dropout))


class Autoencoder(nn.Module):
    """(B, G) → hidden → latent (B, Z), and back."""

    def __init__(
        self, genes: int, encoder_width: int, latent: int, decoder_width: int, dropout: float, nonnegative: bool
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(_block(genes, encoder_width, dropout), GaussianHead(encoder_width, latent))
        self.decoder = nn.Sequential(_block(latent, decoder_width, dropout), nn.Linear(decoder_width, genes))
        self.nonnegative = nonnegative
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)

    def start_at(self, profile: np.ndarray) -> None:
        """Makes a profile (G,) the bias of the output: a few hundred profiles would not teach the levels of genes."""
        with torch.no_grad():
            self.decoder[-1].bias.copy_(torch.from_numpy(profile))  # type: ignore[operator, unused-ignore]

    def encode(self, x: Tensor) -> Gaussian:
        """(B, G) → distributions of (B, Z)."""
        latent: Gaussian = self.encoder(x)
        return latent

    def decode(self, z: Tensor) -> Tensor:
        """(B, Z) → (B, G)."""
        output: Tensor = self.decoder(z)
        return RisingReLU.apply(output) if self.nonnegative else output  # type: ignore[no-any-return, no-untyped-call, unused-ignore]


class TransigenNetwork(nn.Module):
    """Autoencoders ``control`` and ``perturbed``; ``joint`` leads from z1 and the molecule to z2."""

    def __init__(
        self,
        genes: int,
        features: int,
        *,
        encoder_width: int,
        latent: int,
        decoder_width: int,
        molecule_width: int,
        dropout: float,
        nonnegative: bool,
    ) -> None:
        super().__init__()
        self.control = Autoencoder(genes, encoder_width, latent, decoder_width, dropout, nonnegative)
        self.perturbed = Autoencoder(genes, encoder_width, latent, decoder_width, dropout, nonnegative)
        self.molecule = _block(features, molecule_width, dropout)
        self.joint = GaussianHead(latent + molecule_width, latent)

    def forward(self, x1: Tensor, molecule: Tensor) -> Tensor:
        """x̂2 from controls (B, G) and molecules (B, F), shape (B, G)."""
        z1 = self._value(self.control.encode(x1))
        return self.perturbed.decode(self._value(self._predict_z2(z1, molecule)))

    def losses(self, x1: Tensor, x2: Tensor, molecule: Tensor, kl_weight: float) -> Tensor:
        """The loss of each profile, summed over genes and latent dimensions, (B,).

        |x̂1 − x1|² + |x̂2 − x2|² + |(x̂2' − x1) − (x2 − x1)|² + kl_weight · (KL1 + KL2 + KL(z2' ‖ z2)), where z2' and
        x̂2' follow from z1 and the molecule, z2 and x̂2 from x2. In the third term x1 is what was observed, and cancels.
        """
        latent1, latent2 = self.control.encode(x1), self.perturbed.encode(x2)
        z1 = self._value(latent1)
        predicted = self._predict_z2(z1, molecule)
        errors = (
            (self.control.decode(z1) - x1).square()
            + (self.perturbed.decode(self._value(latent2)) - x2).square()
            + (self.perturbed.decode(self._value(predicted)) - x2).square()
        )
        divergence = latent1.divergence_from_standard() + latent2.divergence_from_standard()
        return errors.sum(dim=1) + kl_weight * (divergence + predicted.divergence(latent2))

    def _predict_z2(self, z1: Tensor, molecule: Tensor) -> Gaussian:
        latent: Gaussian = self.joint(torch.cat([z1, self.molecule(molecule)], dim=1))
        return latent

    def _value(self, latent: Gaussian) -> Tensor:
        return latent.draw() if self.training else latent.mean


class TranSiGen(Model):
    """x̂ = decoder(z2'), z2' from the latent of the control and the molecule. Predicts profiles.

    - Data: every perturbed training profile (or cell) is a row x2. Its x1 is its own control, where it has one; else in
      every epoch another one of the controls of its context and batch is drawn. (The mean of them would do as well to
      learn from, but an input that never varies is one that batch normalisation cannot standardise.)
    - Molecules: the ``features`` named (see :class:`trueshift.models.features.Features`; a combination has the sum of
      its components), divided by one number, their root mean square over the training conditions: columns of unlike
      scale should be scaled in the table. Doses are not told apart, unless ``dose`` adds the logarithm of the summed
      dose.
    - Network: ``encoder_width``, ``latent``, ``decoder_width``, ``molecule_width``, ``dropout``. The output is
      rectified if no training value is negative.
    - Training: ``epochs`` of batches of ``batch_size``, Adam with ``learning_rate`` and ``weight_decay``, on the loss
      summed over genes and the profiles of a batch, as the authors do; what is reported is the mean of profiles.
      ``kl_weight`` weighs the three divergences. Every ``validate_every`` epochs the profiles of role val are scored
      by the same loss, latents at their means; the best weights stay, and ``patience`` times without better ones end
      the training. Without such profiles all epochs are run and the last weights stay. ``threads``: of torch.

    The answer is the mean of the profiles decoded from input controls, one by one, as each was a row in training. That
    is also the mean control plus the mean predicted change, since the change of the paper is taken from the observed
    control.

    On a CPU the same seed and number of threads give the same bits, be the training interrupted or not.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        features: str | None = None,
        dose: bool = False,
        encoder_width: int = 1200,
        latent: int = 100,
        decoder_width: int = 800,
        molecule_width: int = 400,
        dropout: float = 0.1,
        kl_weight: float = 0.1,
        epochs: int = 300,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-5,
        validate_every: int = 1,
        patience: int | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.features = features
        self.dose = dose
        self.encoder_width = encoder_width
        self.latent = latent
        self.decoder_width = decoder_width
        self.molecule_width = molecule_width
        self.dropout = dropout
        self.kl_weight = kl_weight
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validate_every = validate_every
        self.patience = patience
        self.threads = threads

    # --- learning -------------------------------------------------------------------------------------

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Trains on the perturbed rows; a checkpoint of the same training in ``run.resume`` is taken up."""
        train = given.cells
        settings = {name: value for name, value in vars(self).items() if name not in ("threads", "network", "known")}
        self.known = Features.read(train, self.features)
        pools, pool_of = control_pools(train)
        rows = np.flatnonzero(~train.obs["is_control"].to_numpy(bool))
        validation = (train.obs["role"].astype(str) == "val").to_numpy()[rows]
        training, held_out = np.flatnonzero(~validation), np.flatnonzero(validation)
        if self.batch_size < 2:
            raise ContractError(f"TranSiGen: batch_size is {self.batch_size}; give 2 or more")
        if len(training) < 2:
            raise CannotLearnError(
                f"TranSiGen: {len(training)} perturbed profiles to train on; it needs at least 2", TOO_FEW_CELLS
            )
        labels = train.obs.iloc[rows][["perturbation", "dose"]].astype(str)
        table = labels.drop_duplicates()
        label_of = pd.MultiIndex.from_frame(table).get_indexer(pd.MultiIndex.from_frame(labels))
        inputs = self._inputs(table)
        values = train.X.data if sparse.issparse(train.X) else train.X
        self.facts: dict[str, Any] = {
            "genes": train.var_names.tolist(),
            "feature_width": inputs.shape[1],
            "feature_scale": float(np.sqrt(np.square(inputs).mean())) or 1.0,
            "nonnegative": bool(np.min(values, initial=0) >= 0),
        }
        device = gpu.device()
        expression = CellsOnDevice(train.X, device)
        molecules = torch.from_numpy(inputs / np.float32(self.facts["feature_scale"])).to(device)

        def drawn(rng: np.random.Generator) -> np.ndarray:
            sizes = np.array([len(pool) for pool in pools])[pool_of]
            return np.array([pools[pool][i] for pool, i in zip(pool_of, rng.integers(sizes), strict=True)])

        def losses(chosen: np.ndarray, controls: np.ndarray) -> Tensor:
            x1 = expression.rows(controls[chosen])
            x2 = expression.rows(rows[chosen])
            molecule = molecules[torch.from_numpy(label_of[chosen]).to(device)]
            return self.network.losses(x1, x2, molecule, self.kl_weight)

        def epoch(number: int, rng: np.random.Generator) -> dict[str, float]:
            total, controls = 0.0, drawn(rng)
            for batch in shuffled_batches(rng, len(training), self.batch_size, least=2):
                loss = losses(training[batch], controls).sum()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
                optimizer.step()
                total += loss.item()
            return {"loss": total / len(training)}

        def validate() -> float:
            parts = np.array_split(held_out, math.ceil(len(held_out) / CHUNK))
            return sum(losses(part, fixed).sum().item() for part in parts) / len(held_out)

        fixed = drawn(np.random.default_rng([self.seed, len(rows)]))
        with reproducible(self.seed, device, self.threads):
            self.network = self._make_network()
            self.network.control.start_at(column_means(train.X, fixed[training]))
            self.network.perturbed.start_at(column_means(train.X, rows[training]))
            self.network.to(device)
            optimizer = torch.optim.Adam(
                self.network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            )
            arrays = (train.X, fixed, pool_of, rows, validation, inputs, label_of)
            digest = fingerprint(settings, *arrays) if run and run.resume else ""
            train_epochs(
                {"network": self.network, "optimizer": optimizer},
                self.epochs,
                epoch,
                name="TranSiGen",
                seed=self.seed,
                run=run,
                fingerprint=digest,
                validate=validate if len(held_out) else None,
                validate_every=self.validate_every,
                patience=self.patience,
            )
        Checkpoint(run, "TranSiGen", digest).discard()
        self.network = self.network.cpu().eval()
        return self

    def _inputs(self, table: pd.DataFrame) -> np.ndarray:
        """Features of each row (perturbation, dose) of a table, with ``dose`` one more column, (L, F) or (L, F + 1)."""
        values = self.known.of(table["perturbation"].astype(str))
        if self.dose:
            values = np.column_stack([values, np.log1p(total_dose(table["dose"]))])
        return values.astype(np.float32)

    def _make_network(self) -> TransigenNetwork:
        return TransigenNetwork(
            len(self.facts["genes"]),
            self.facts["feature_width"],
            encoder_width=self.encoder_width,
            latent=self.latent,
            decoder_width=self.decoder_width,
            molecule_width=self.molecule_width,
            dropout=self.dropout,
            nonnegative=self.facts["nonnegative"],
        )

    # --- answering ------------------------------------------------------------------------------------

    def predict(self, asked_for: Query) -> ad.AnnData:
        """One profile per asked condition."""
        query = asked_for.cells
        self.check_fitted()
        check_genes(query, self.facts["genes"], "TranSiGen")
        conditions = asked(query)
        molecules = self._inputs(conditions) / np.float32(self.facts["feature_scale"])
        rows, owner = input_cells(query, self.seed)
        values = np.empty((len(conditions), query.n_vars), dtype=np.float32)
        network = self.network.to(device := gpu.device())
        with torch.no_grad(), reproducible(self.seed, device, self.threads):
            for number, molecule in enumerate(torch.from_numpy(molecules).to(device)):
                x1 = torch.from_numpy(dense(query.X[rows[owner == number]])).to(device)  # (controls, G)
                decoded = network(x1, molecule.expand(len(x1), -1))
                values[number] = decoded.mean(dim=0, dtype=torch.float64).cpu().numpy()
        return make_prediction(query, values)

    # --- keeping --------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes ``weights.pt`` (a state dict), ``model.json`` (genes, scale) and ``features.npz``."""
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
