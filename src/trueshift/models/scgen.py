"""scgen: an autoencoder in whose latent space a perturbation is one vector, the same for all cells.

Lotfollahi, Wolf & Theis 2019, "scGen predicts single-cell perturbation responses", Nature Methods 16, 715. The network,
its loss and its training are those of the package scgen 2.1.0.
"""

from pathlib import Path
from typing import Any, Literal, Self

import anndata as ad
import numpy as np
import pandas as pd
import torch

from trueshift import gpu
from trueshift.contract import CONTROL, ContractError, asked, dense, make_prediction, read_json, write_json
from trueshift.models.base import Model, Query, Training, check_genes, input_cells, refuse_unseen
from trueshift.models.scvi_compat import Scgen, Scgenvae
from trueshift.models.scvi_training import (
    Progress,
    gene_centre,
    labelled,
    roles,
    seeded,
    trainer_settings,
)
from trueshift.tracking import Run

CHUNK = 4096  # cells encoded or decoded at a time


class ScGen(Model):
    """x̂ = decoder(z(control) + δ), with δ = mean z(perturbed) − mean z(control). Predicts cells.

    - Network: ``n_hidden``, ``n_latent``, ``n_layers``, ``dropout`` and ``kl_weight``, the defaults of the package.
    - Training: ``epochs``, ``batch_size``, ``learning_rate``, ``weight_decay``, ``patience``, those of its tutorial.
      After every epoch the cells of role val are scored by ``monitor``: ``elbo_validation``, the package's choice,
      whose KL term has full weight, or ``validation_loss``, the loss that is trained. ``patience`` epochs without a
      better one end the training; the last weights stay. Without such cells all epochs are run.
    - ``arithmetic``: the contexts δ is made of, each with the same weight. ``all``, the package's choice, takes every
      context on either side, so δ also holds the difference between contexts with and without the perturbation;
      ``shared`` takes those in which the perturbation was seen.

    Log2 intensities of bulk profiles enter and leave around their training means; see
    :func:`trueshift.models.scvi_training.gene_centre`.

    One δ per perturbation: doses are not told apart. Where fewer controls exist than cells are asked, some serve again.
    On a CPU the same seed and number of threads give the same bits. A training that is interrupted starts afresh: the
    checkpoints of the package are pickles.
    """

    module: Any = None

    def __init__(
        self,
        *,
        seed: int = 0,
        n_hidden: int = 800,
        n_latent: int = 100,
        n_layers: int = 2,
        dropout: float = 0.2,
        kl_weight: float = 5e-5,
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-6,
        patience: int = 25,
        monitor: Literal["elbo_validation", "validation_loss"] = "elbo_validation",
        arithmetic: Literal["all", "shared"] = "all",
    ) -> None:
        super().__init__(seed=seed)
        self.n_hidden = n_hidden
        self.n_latent = n_latent
        self.n_layers = n_layers
        self.dropout = dropout
        self.kl_weight = kl_weight
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.patience = patience
        self.monitor = monitor
        self.arithmetic = arithmetic

    # --- learning -------------------------------------------------------------------------------------

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Trains the autoencoder on all cells, then takes every δ from their means in its latent space."""
        train = given.cells
        self.check_choices()
        self.centre = gene_centre(train)
        with seeded(self.seed):
            upstream = self.train_upstream(train, run)
            latent = upstream.get_latent_representation(batch_size=CHUNK)
        labels = train.obs[["perturbation", "context"]].astype(str)
        perturbations = sorted(set(labels["perturbation"]) - {CONTROL})
        self.facts = {"genes": train.var_names.tolist(), "perturbations": perturbations}
        self.deltas = np.stack([self._delta(latent, labels, name) for name in perturbations])
        self.module = upstream.module.cpu().eval()
        self.saved = upstream.saved()
        return self

    def train_upstream(self, train: ad.AnnData, run: Run | None) -> Scgen:
        """The trained model of the package; to be called with seeds set."""
        data = labelled(train, ["perturbation", "context"], gene_centre(train))
        rows, validation, batch_size = roles(train, self.batch_size)
        Scgen.setup_anndata(data, batch_key="perturbation", labels_key="context")
        model = Scgen(data, **self._network())
        progress = Progress(run, {"loss": "train_loss", "val_loss": "validation_loss", "val_elbo": "elbo_validation"})
        model.train(
            max_epochs=self.epochs,
            batch_size=batch_size,
            datasplitter_kwargs={"external_indexing": [rows, validation, np.array([], dtype=int)]},
            plan_kwargs={"lr": self.learning_rate, "weight_decay": self.weight_decay},
            early_stopping=len(validation) > 0,
            early_stopping_monitor=self.monitor,
            early_stopping_patience=self.patience,
            devices=1,
            **trainer_settings(progress),
        )
        return model

    def _network(self) -> dict[str, Any]:
        return {
            "n_hidden": self.n_hidden,
            "n_latent": self.n_latent,
            "n_layers": self.n_layers,
            "dropout_rate": self.dropout,
            "kl_weight": self.kl_weight,
        }

    def _delta(self, latent: np.ndarray, labels: pd.DataFrame, perturbation: str) -> np.ndarray:
        """δ of a perturbation, shape (D,), from the latent means of all training cells, shape (N, D).

        The same draws as in the package's ``predict``, which would encode all controls anew for every perturbation
        and can only be asked while the training cells are at hand.
        """
        rng = np.random.RandomState(self.seed)  # the generator behind np.random, which the package draws from
        context = labels["context"].to_numpy(str)
        control, treated = (np.flatnonzero(labels["perturbation"] == name) for name in (CONTROL, perturbation))
        seen = np.unique(context[treated])
        if self.arithmetic == "shared":
            control = control[np.isin(context[control], seen)]
        if self.arithmetic == "all" or len(seen) > 1:
            control, treated = (_balanced(rows, context, rng) for rows in (control, treated))
        n = min(len(control), len(treated))
        if n == 0:
            raise ContractError(f"ScGen: no control cells in the contexts of {perturbation} to take its effect from")
        control, treated = (rows[rng.choice(len(rows), size=n, replace=False)] for rows in (control, treated))
        return latent[treated].mean(axis=0) - latent[control].mean(axis=0)

    # --- answering ------------------------------------------------------------------------------------

    def predict(self, asked_for: Query) -> ad.AnnData:
        """Cells for every asked condition: as many as the test has, from the input controls of its context."""
        query = asked_for.cells
        if self.module is None:
            raise ContractError("ScGen has learnt nothing yet: call fit or load first")
        check_genes(query, self.facts["genes"], "ScGen")
        code = {name: i for i, name in enumerate(self.facts["perturbations"])}
        refuse_unseen(query, {(name,) for name in code}, ["perturbation"], "ScGen")
        rows, owner = input_cells(query, self.seed)
        deltas = self.deltas[[code[name] for name in asked(query)["perturbation"].astype(str)]]
        values = np.empty((len(rows), query.n_vars), dtype=np.float32)
        module = self.module.to(gpu.device())
        with seeded(self.seed), torch.no_grad():  # the module draws z as well, unused here
            parts = [slice(start, start + CHUNK) for start in range(0, query.n_obs, CHUNK)]
            cells = (torch.from_numpy(dense(query.X[part]) - self.centre) for part in parts)
            latent = np.concatenate([module.inference(part)["qzm"].cpu().numpy() for part in cells])
            for start in range(0, len(rows), CHUNK):
                part = slice(start, start + CHUNK)
                moved = torch.from_numpy(latent[rows[part]] + deltas[owner[part]])
                values[part] = module.generative(moved)["px"].cpu().numpy() + self.centre
        return make_prediction(query, values, owner)

    # --- keeping --------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes ``model.pt`` (the package's own save), ``arrays.npz`` (δ, gene centre), ``model.json`` (names).

        :meth:`trueshift.models.scvi_compat.Scgen.load` opens the folder, given data with perturbation and context.
        """
        torch.save(self.saved, Path(folder, "model.pt"))
        np.savez(Path(folder, "arrays.npz"), deltas=self.deltas, centre=self.centre)
        write_json(self.facts, Path(folder, "model.json"))

    def load(self, folder: Path) -> Self:
        """Reads what :meth:`save` wrote; nothing is unpickled but tensors, numbers and text."""
        self.facts = read_json(Path(folder, "model.json"))
        with np.load(Path(folder, "arrays.npz"), allow_pickle=False) as file:
            self.deltas, self.centre = file["deltas"], file["centre"]
        with seeded(self.seed):  # as it is built its weights are drawn
            module = Scgenvae(n_input=len(self.facts["genes"]), **self._network())
        self.saved = torch.load(Path(folder, "model.pt"), map_location="cpu", weights_only=True)
        weights = {name: x for name, x in self.saved["model_state_dict"].items() if torch.is_tensor(x)}
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            raise ContractError(
                f"{folder}: weights of another size ({error}); use the settings of its training"
            ) from error
        self.module = module.eval()
        return self


def _balanced(rows: np.ndarray, context: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Rows drawn with replacement so that each context has as many as the largest, in order of contexts."""
    groups = [rows[context[rows] == name] for name in np.unique(context[rows])]
    most = max((len(group) for group in groups), default=0)
    return np.concatenate([group[rng.choice(len(group), most)] for group in groups] or [rows])
