"""biolord: a decoder of a code per cell, for what is not known about it, and an embedding of each known attribute.

Piran, Cohen, Hoshen & Nitzan 2024, "Disentanglement of single-cell data with biolord", Nature Biotechnology 42, 1678.
The network, its loss and its training are those of the package biolord 0.0.3.
"""

import math
from pathlib import Path
from typing import Any, Literal, Self

import anndata as ad
import biolord
import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS

from trueshift import gpu
from trueshift.contract import (
    CONTROL,
    ContractError,
    asked,
    components,
    make_prediction,
    read_json,
    write_json,
)
from trueshift.models.base import (
    SAME_FEATURES,
    CannotLearnError,
    Model,
    Query,
    Training,
    check_genes,
    input_cells,
    refuse_unseen,
    total_dose,
)
from trueshift.models.features import Features
from trueshift.models.scvi_training import (
    Progress,
    gene_centre,
    labelled,
    roles,
    seeded,
    trainer_settings,
)
from trueshift.tracking import Run

CHUNK = 4096  # cells decoded at a time
CODES = "latent_codes.embedding.weight"


class Biolord(Model):
    """x̂ = decoder(code of a control cell, perturbation, context). Predicts cells, each by the mean of its distribution.

    - Attributes: the perturbation, the context and, with ``batch_attribute``, the batch: categories, each with an
      embedding of ``n_attribute`` numbers. ``n_latent`` is the length of a cell's code, which has noise of ``noise``
      added in training and is held small by ``code_penalty``.
    - ``perturbation_encoder``: ``one_hot`` makes the perturbation a category (control is one of its values): doses are
      not told apart, and what was never shown is refused. ``features`` makes it an ordered attribute, as the authors do
      for the drugs of sci-Plex 3: the ``features`` named (see :class:`trueshift.models.features.Features`) and the
      dose, taken by a network of ``attribute_depth`` layers of ``attribute_width`` to ``n_perturbation`` numbers, with
      ``attribute_dropout``. Features are standardised by the single perturbations of the training, those that do not
      vary there are left out, and a combination has the sum of its components. The dose is the logarithm of one plus
      the summed dose, over the largest in training (the authors divide the dose itself). Controls have zeros: the
      features of an average perturbation, at dose 0.
    - Network: ``decoder_width``, ``decoder_depth``, ``batch_norm``; the loss is the Gaussian likelihood plus
      ``reconstruction_penalty`` times the squared error.
    - Training: ``epochs``, ``batch_size``, ``latent_lr`` (codes and embeddings), ``decoder_lr``, ``weight_decay``;
      ``attribute_lr`` and ``attribute_weight_decay`` of the network that takes features. Every ``validate_every``
      epochs the cells of role val are scored by the package's metric (R² of means and variances); ``patience`` times
      without a better one end the training; the last weights stay. Without such cells all epochs are run.

    Defaults are the authors' for sci-Plex 3, and want a GPU; but ``n_attribute`` is 32 where theirs is 3, as their only
    category was one of three cell lines and drugs had 256 numbers of their own. 32 is a choice for perturbations that
    are a category, not a published value.

    Expression never enters the decoder: a cell is known by its code, found by its row in the training data. The
    package's own route to predictions registers the cells asked about anew and so counts their rows from 0, which
    fetches the codes of whatever cells stand first in the training data. Here the input controls of a query, which are
    training cells, are found by name, and the codes of other cells are forgotten after training. So it is the cells'
    own codes that are decoded with another perturbation, as the authors' evaluation does.

    Log2 intensities of bulk profiles enter and leave around their training means; see
    :func:`trueshift.models.scvi_training.gene_centre`.

    Where fewer controls exist than cells are asked, some serve again. On a CPU the same seed and number of threads give
    the same bits. A training that is interrupted starts afresh: the checkpoints of the package are pickles.
    """

    module: Any = None
    known: Features  # standardised, where the perturbation is an ordered attribute

    def __init__(
        self,
        *,
        seed: int = 0,
        n_latent: int = 256,
        n_attribute: int = 32,
        perturbation_encoder: Literal["one_hot", "features"] = "one_hot",
        features: str | None = None,
        n_perturbation: int = 256,
        attribute_width: int = 2048,
        attribute_depth: int = 2,
        attribute_dropout: float = 0.1,
        noise: float = 20.0,
        code_penalty: float = 0.1,
        decoder_width: int = 4096,
        decoder_depth: int = 4,
        batch_norm: bool = False,
        reconstruction_penalty: float = 1e4,
        batch_attribute: bool = False,
        epochs: int = 200,
        batch_size: int = 512,
        latent_lr: float = 1e-4,
        decoder_lr: float = 1e-4,
        weight_decay: float = 1e-4,
        attribute_lr: float = 1e-2,
        attribute_weight_decay: float = 4e-8,
        validate_every: int = 10,
        patience: int = 20,
    ) -> None:
        super().__init__(seed=seed)
        self.n_latent = n_latent
        self.n_attribute = n_attribute
        self.perturbation_encoder = perturbation_encoder
        self.features = features
        self.n_perturbation = n_perturbation
        self.attribute_width = attribute_width
        self.attribute_depth = attribute_depth
        self.attribute_dropout = attribute_dropout
        self.noise = noise
        self.code_penalty = code_penalty
        self.decoder_width = decoder_width
        self.decoder_depth = decoder_depth
        self.batch_norm = batch_norm
        self.reconstruction_penalty = reconstruction_penalty
        self.batch_attribute = batch_attribute
        self.epochs = epochs
        self.batch_size = batch_size
        self.latent_lr = latent_lr
        self.decoder_lr = decoder_lr
        self.weight_decay = weight_decay
        self.attribute_lr = attribute_lr
        self.attribute_weight_decay = attribute_weight_decay
        self.validate_every = validate_every
        self.patience = patience

    @property
    def _ordered(self) -> list[str]:
        return ["perturbation"] if self.perturbation_encoder == "features" else []

    @property
    def _categories(self) -> list[str]:
        names = ["perturbation", "context", *(["batch"] if self.batch_attribute else [])]
        return [name for name in names if name not in self._ordered]

    # --- learning -------------------------------------------------------------------------------------

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Trains on all cells; of the codes, those of the controls are kept."""
        train = given.cells
        self.check_choices()
        if self.features is not None and self.perturbation_encoder != "features":
            raise ContractError("Biolord: features are for perturbation_encoder: features; write that or drop them")
        controls = train.obs["is_control"].to_numpy()
        names = {name: sorted(train.obs[name].astype(str).unique()) for name in self._categories}
        self.facts: dict[str, Any] = {"genes": train.var_names.tolist(), "attributes": names}
        if self._ordered:
            self.known = self._standardised(train)
            self.facts["largest_dose"] = float(np.log1p(total_dose(train.obs["dose"])).max()) or 1.0
        self.centre = gene_centre(train)
        self.cells = train.obs_names[controls].to_numpy(str)
        self.batches = train.obs["batch"].astype(str).to_numpy(str)[controls]
        with seeded(self.seed):
            weights = self.train_upstream(train, run).module.cpu().state_dict()
        weights[CODES] = weights[CODES][torch.from_numpy(controls)]
        self.module = self._make_module(weights)
        return self

    def train_upstream(self, train: ad.AnnData, run: Run | None) -> biolord.Biolord:
        """The trained model of the package; to be called with seeds set."""
        data = labelled(train, self._categories, gene_centre(train))
        rows, validation, batch_size = roles(train, self.batch_size)
        data.obs["split"] = "train"
        data.obs.iloc[validation, data.obs.columns.get_loc("split")] = "val"
        if len(rows) + len(validation) < data.n_obs:  # a single validation cell
            data.obs.iloc[np.setdiff1d(np.arange(data.n_obs), rows), data.obs.columns.get_loc("split")] = "none"
        for name in self._ordered:
            labels = train.obs[["perturbation", "dose"]].astype(str)
            table = labels.drop_duplicates()
            codes = pd.MultiIndex.from_frame(table).get_indexer(pd.MultiIndex.from_frame(labels))
            data.obsm[name] = self._inputs(table)[codes]
        biolord.Biolord.setup_anndata(
            data, ordered_attributes_keys=self._ordered, categorical_attributes_keys=self._categories
        )
        model = biolord.Biolord(
            data, n_latent=self.n_latent, module_params=self._network(), split_key="split", valid_split="val"
        )
        progress = Progress(
            run,
            {
                "loss": "reconstruction_loss",
                "penalty": "unknown_attribute_penalty_loss",
                "val_loss": "val_reconstruction_loss",
                "val_metric": "val_biolord_metric",
            },
        )
        model.train(
            max_epochs=self.epochs,
            batch_size=batch_size,
            plan_kwargs={
                "latent_lr": self.latent_lr,
                "latent_wd": self.weight_decay,
                "decoder_lr": self.decoder_lr,
                "decoder_wd": self.weight_decay,
                "attribute_nn_lr": dict.fromkeys(self._ordered, self.attribute_lr),  # unset, the package fails
                "attribute_nn_wd": dict.fromkeys(self._ordered, self.attribute_weight_decay),
                "step_size_lr": 45,
                "cosine_scheduler": True,
                "scheduler_final_lr": 1e-5,
            },
            early_stopping=len(validation) > 0,
            early_stopping_patience=self.patience,
            check_val_every_n_epoch=self.validate_every,
            limit_val_batches=1.0 if len(validation) else 0,  # else the package fails at the first validation
            device=1,
            **trainer_settings(progress),
        )
        return model

    def _network(self) -> dict[str, Any]:
        return {
            "n_latent_attribute_categorical": self.n_attribute,
            "n_latent_attribute_ordered": self.n_perturbation,
            "attribute_nn_width": self.attribute_width,
            "attribute_nn_depth": self.attribute_depth,
            "attribute_dropout_rate": self.attribute_dropout,
            "unknown_attribute_noise_param": self.noise,
            "unknown_attribute_penalty": self.code_penalty,
            "decoder_width": self.decoder_width,
            "decoder_depth": self.decoder_depth,
            "use_batch_norm": self.batch_norm,
            "reconstruction_penalty": self.reconstruction_penalty,
            "seed": self.seed,
        }

    def _standardised(self, train: ad.AnnData) -> Features:
        """Features with mean 0 and variance 1 over the single perturbations in training, as far as they vary there."""
        known = Features.read(train, self.features)
        names = sorted({part for label in train.obs["perturbation"].astype(str).unique() for part in components(label)})
        values = known.of(names)  # (D, F)
        deviation = values.std(axis=0)
        varies = deviation > 1e-6 * deviation.max()
        if not varies.any():
            raise CannotLearnError(
                f"Biolord: the perturbations of the training do not differ in features {known.source}; "
                "name another table in params: features: of config/models.yaml",
                SAME_FEATURES,
            )
        scaled = (known.values[:, varies] - values[:, varies].mean(axis=0)) / deviation[varies]
        return Features(known.source, known.names, scaled)

    def _inputs(self, table: pd.DataFrame) -> np.ndarray:
        """What the network of the perturbation takes for each row (perturbation, dose) of a table, (L, F + 1)."""
        dose = np.log1p(total_dose(table["dose"])) / self.facts["largest_dose"]
        return np.column_stack([self.known.of(table["perturbation"].astype(str)), dose]).astype(np.float32)

    def _make_module(self, weights: dict[str, torch.Tensor]) -> biolord.BiolordModule:
        names = self.facts["attributes"]
        width = self.known.values.shape[1] + 1 if self._ordered else 0
        with seeded(self.seed):  # the module sets global seeds as it is built
            module = biolord.BiolordModule(
                n_genes=len(self.facts["genes"]),
                n_samples=len(self.cells),
                x_loc="X",
                ordered_attributes_map=dict.fromkeys(self._ordered, width),
                categorical_attributes_map={name: {v: i for i, v in enumerate(names[name])} for name in names},
                n_latent=self.n_latent,
                **self._network(),
            )
        module.load_state_dict(weights)
        return module.eval()

    # --- answering ------------------------------------------------------------------------------------

    def predict(self, asked_for: Query) -> ad.AnnData:
        """Cells for every asked condition: as many as the test has, from the input controls of its context."""
        query = asked_for.cells
        if self.module is None:
            raise ContractError("Biolord has learnt nothing yet: call fit or load first")
        check_genes(query, self.facts["genes"], "Biolord")
        names = self.facts["attributes"]
        categories = [name for name in ("perturbation", "context") if name in names]
        for column in categories:
            refuse_unseen(query, {(name,) for name in names[column] if name != CONTROL}, [column], "Biolord")
        rows, owner = input_cells(query, self.seed)
        code = pd.Index(self.cells).get_indexer(query.obs_names)
        if (code[rows] < 0).any():
            lost = query.obs_names[rows[np.flatnonzero(code[rows] < 0)[0]]]
            raise ContractError(
                f"Biolord has codes for its own training cells only, and {lost} of the query is not a control among "
                "them; use the query of its fold"
            )
        of_cells = {REGISTRY_KEYS.INDICES_KEY: code[rows]}
        if self.batch_attribute:
            of_cells["batch"] = pd.Index(names["batch"]).get_indexer(self.batches[code[rows]])
        conditions = asked(query)
        codes = {name: pd.Index(names[name]).get_indexer(conditions[name].astype(str)) for name in categories}
        for name in self._ordered:
            codes[name] = self._inputs(conditions)
        return make_prediction(query, self._decode(of_cells, codes, owner) + self.centre, owner)

    def _decode(
        self, of_cells: dict[str, np.ndarray], asked_for: dict[str, np.ndarray], owner: np.ndarray
    ) -> np.ndarray:
        """Means of the predicted distributions, shape (N, G).

        ``of_cells`` are codes and attributes of the N cells, ``asked_for`` those of conditions, whose number ``owner``
        gives for each cell.
        """
        n = len(owner)
        module = self.module.to(gpu.device())
        parts = []
        with seeded(self.seed):  # the module draws from its distributions as well, unused here
            for some in np.array_split(np.arange(n), math.ceil(n / CHUNK)):
                some = some if len(some) > 1 else some.repeat(2)  # the module drops the axis of a batch of one
                tensors = {name: torch.from_numpy(values[some]) for name, values in of_cells.items()}
                tensors |= {name: torch.from_numpy(values[owner[some]]) for name, values in asked_for.items()}
                tensors["X"] = torch.ones(len(some), 1)  # asked for by the module, looked at only for counts
                parts.append(module.get_expression(tensors)[0].cpu().numpy())
        return np.concatenate(parts)[:n]

    # --- keeping --------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes ``weights.pt`` (tensors only), ``cells.npz`` (controls, their batches, the gene centre),
        ``model.json`` and any ``features.npz``, standardised.
        """
        torch.save(self.module.cpu().state_dict(), Path(folder, "weights.pt"))
        np.savez(Path(folder, "cells.npz"), cells=self.cells, batches=self.batches, centre=self.centre)
        write_json(self.facts, Path(folder, "model.json"))
        if self._ordered:
            np.savez(Path(folder, "features.npz"), **self.known.arrays())  # type: ignore[arg-type]

    def load(self, folder: Path) -> Self:
        """Reads what :meth:`save` wrote; nothing is unpickled but tensors."""
        self.facts = read_json(Path(folder, "model.json"))
        with np.load(Path(folder, "cells.npz"), allow_pickle=False) as file:
            self.cells, self.batches, self.centre = file["cells"], file["batches"], file["centre"]
        if self._ordered:
            with np.load(Path(folder, "features.npz"), allow_pickle=False) as file:
                self.known = Features.of_arrays(dict(file))
        weights = torch.load(Path(folder, "weights.pt"), map_location="cpu", weights_only=True)
        try:
            self.module = self._make_module(weights)
        except RuntimeError as error:
            raise ContractError(
                f"{folder}: weights of another size ({error}); use the settings of its training"
            ) from error
        return self
