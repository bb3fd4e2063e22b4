"""state: State ST on expression (ST+HVG). A set transformer maps sets of control cells to sets of perturbed cells.

Adduri et al. 2025, "Predicting cellular responses to perturbation across diverse contexts with State", bioRxiv
2025.06.26.661135, written from the description of the method. Differences to it: plain pre-norm blocks in place of a
language model's; ``residual: control``; defaults (hidden 256, 4 layers, AdamW) for one data set and a small machine.
"""

import math
from pathlib import Path
from typing import Any, Literal, Self

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from trueshift import gpu
from trueshift.contract import (
    CONTROL,
    ContractError,
    Pairs,
    asked,
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
    UnseenError,
    check_genes,
    input_cells,
    total_dose,
)
from trueshift.models.features import Features
from trueshift.models.state_network import StateNetwork
from trueshift.models.state_training import Phase, Sets, Trainer
from trueshift.networks.cells_on_device import CellsOnDevice
from trueshift.networks.set_losses import energy_distance, rbf_mmd
from trueshift.networks.training import fingerprint, load_weights, reproducible
from trueshift.tracking import Run


class State(Model):
    """State ST. Predicts cells: the input controls of the asked context, moved together by a perturbation.

    - Network: ``hidden``, ``layers``, ``heads``, ``mlp_hidden``, ``encoder_layers`` (depth of the encoders and of the
      output projection), ``dropout``, ``residual``, see :class:`trueshift.models.state_network.StateNetwork`.
    - Perturbations: ``one_hot`` over the training labels (a perturbation at a dose) refuses what it was never shown;
      ``features`` takes those named ``features`` (see :class:`trueshift.models.features.Features`; a combination has
      the sum of its components) and the logarithm of the summed dose. ``batch_encoder`` adds an embedding of the
      batch; an unseen batch takes the mean of the seen ones.
    - Sets: ``set_size`` cells, those of the pairs. ``identity_sets`` adds sets of controls to be mapped to controls.
    - Loss, the mean over sets: ``energy``, ``mmd`` (``sigma``: a bandwidth or ``median``) or ``mse`` of paired cells.
    - Training: ``optimizer`` (adamw, adam), ``learning_rate``, ``weight_decay``, ``batch_size`` sets a step,
      ``max_steps``, gradient norm at most ``clip``. Every ``validate_every`` steps at most ``validation_sets`` sets of
      role val are scored; ``patience`` times without a better loss ends training. The best weights stay. Without
      validation sets all steps are run and the last weights stay.
    - ``pretrain_contexts``: a list of contexts, or ``others`` for those in which the test asks nothing. The sets of
      these contexts are trained on for ``pretrain_steps``, then all remaining sets for ``finetune_steps``
      (``max_steps`` is not used). It is an error if either has no sets.
    - ``precision``: auto (bfloat16 autocast on a GPU, float32 on a CPU), float32, bfloat16. ``threads``: of torch.

    On a CPU the same seed and number of threads give the same bits, be the training interrupted or not.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        set_size: int = 128,
        hidden: int = 256,
        layers: int = 4,
        heads: int = 8,
        mlp_hidden: int = 512,
        encoder_layers: int = 2,
        dropout: float = 0.1,
        residual: Literal["control", "bottleneck", "none"] = "control",
        perturbation_encoder: Literal["one_hot", "features"] = "one_hot",
        features: str | None = None,
        batch_encoder: bool = False,
        identity_sets: bool = False,
        loss: Literal["energy", "mmd", "mse"] = "energy",
        sigma: float | Literal["median"] = "median",
        optimizer: Literal["adamw", "adam"] = "adamw",
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-2,
        batch_size: int = 8,
        max_steps: int = 2000,
        validate_every: int = 100,
        validation_sets: int = 256,
        patience: int = 5,
        clip: float = 10.0,
        pretrain_contexts: list[str] | str | None = None,
        pretrain_steps: int = 1000,
        finetune_steps: int = 1000,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        threads: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.set_size = set_size
        self.hidden = hidden
        self.layers = layers
        self.heads = heads
        self.mlp_hidden = mlp_hidden
        self.encoder_layers = encoder_layers
        self.dropout = dropout
        self.residual = residual
        self.perturbation_encoder = perturbation_encoder
        self.features = features
        self.batch_encoder = batch_encoder
        self.identity_sets = identity_sets
        self.loss = loss
        self.sigma = sigma
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_steps = max_steps
        self.validate_every = validate_every
        self.validation_sets = validation_sets
        self.patience = patience
        self.clip = clip
        self.pretrain_contexts = pretrain_contexts
        self.pretrain_steps = pretrain_steps
        self.finetune_steps = finetune_steps
        self.precision = precision
        self.threads = threads

    # --- learning -------------------------------------------------------------------------------------

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Trains on the sets of ``pairs``; a checkpoint of the same training in ``run.resume`` is taken up."""
        train, pairs = given.cells, given.pairs
        self._check()
        if pairs is None:
            raise ContractError("State learns from pairs: write needs: [pairs] under its entry in config/models.yaml")
        if pairs.perturbed.shape[1] != self.set_size:
            raise ContractError(f"pairs hold sets of {pairs.perturbed.shape[1]} cells, set_size is {self.set_size}")
        device = gpu.device()
        mixed = self.precision == "bfloat16" or (self.precision == "auto" and device == "cuda")
        if mixed and device != "cuda":
            raise ContractError("State: precision bfloat16 needs a GPU; write precision: auto")

        table, sets, batches = self._sets(train, pairs)
        self.known = Features.read(train, self.features) if self.perturbation_encoder == "features" else None
        inputs = self._perturbation_inputs(table)
        values = train.X.data if sparse.issparse(train.X) else train.X
        self.facts: dict[str, Any] = {
            "genes": train.var_names.tolist(),
            "labels": table.to_numpy().tolist(),
            "batches": batches,
            "perturbation_width": len(table) if inputs is None else inputs.shape[1],
            "feature_scale": 1.0,
            "nonnegative": bool(np.min(values, initial=0) >= 0),
        }
        if inputs is not None:
            self.facts["feature_scale"] = float(np.sqrt(np.square(inputs).mean())) or 1.0
        used = [] if inputs is None else [inputs]
        settings = {name: value for name, value in vars(self).items() if name not in ("threads", "network", "known")}
        with reproducible(self.seed, device, self.threads):
            self.network = self._make_network().to(device)
            Trainer(
                network=self.network,
                cells=CellsOnDevice(train.X, device),
                encode=self._encoder(inputs, len(table), device),
                loss=self._loss,
                make_optimizer=self._make_optimizer,
                seed=self.seed,
                batch_size=self.batch_size,
                validate_every=self.validate_every,
                patience=self.patience,
                clip=self.clip,
                mixed=mixed,
                run=run,
                fingerprint=fingerprint(settings, train.X, *vars(sets).values(), *used) if run and run.resume else "",
            ).fit(self._phases(train, sets))
        self.network = self.network.cpu().eval()
        return self

    def _check(self) -> None:
        self.check_choices()
        if self.hidden % self.heads:
            raise ContractError(f"State: hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        if isinstance(self.sigma, str) and self.sigma != "median":
            raise ContractError(f"State: sigma is a number or median, not {self.sigma}")
        if self.features is not None and self.perturbation_encoder != "features":
            raise ContractError("State: features are for perturbation_encoder: features; write that or drop them")

    def _sets(self, train: ad.AnnData, pairs: Pairs) -> tuple[pd.DataFrame, Sets, list[str]]:
        """The table of labels (perturbation, dose), the sets with their codes in it, and the names of the batches."""
        dose = train.obs["dose"].astype(str).to_numpy()[pairs.perturbed[:, 0]]
        columns = {"perturbation": pairs.perturbation.astype(str), "dose": dose}
        labels = pd.DataFrame({**columns, "batch": pairs.batch.astype(str), "context": pairs.context.astype(str)})
        target, control, role = pairs.perturbed, pairs.control, pairs.role.astype(str)
        if self.identity_sets:
            more, rows, inputs = self._identity(train)
            labels = pd.concat([labels, more], ignore_index=True)
            target, control = np.concatenate([target, rows]), np.concatenate([control, inputs])
            role = np.concatenate([role, np.full(len(rows), "train")])
        table = labels[["perturbation", "dose"]].drop_duplicates().sort_values(["perturbation", "dose"])
        codes = pd.MultiIndex.from_frame(table).get_indexer(pd.MultiIndex.from_frame(labels[["perturbation", "dose"]]))
        batches = sorted(labels["batch"].unique())
        batch = pd.Index(batches).get_indexer(labels["batch"]).astype(np.int64) + 1
        context = labels["context"].to_numpy(dtype=str)
        return table.reset_index(drop=True), Sets(target, control, codes, batch, context, role), batches

    def _identity(self, train: ad.AnnData) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        """Sets of controls of one context and batch, as target (N, S), and others of the same as input (N, S)."""
        rng = np.random.default_rng([self.seed, 1])
        obs = train.obs.loc[:, ["context", "batch"]].astype(str).reset_index(drop=True)
        groups = obs[train.obs["is_control"].to_numpy()].groupby(["context", "batch"]).groups
        labels, target, control = [], [], []
        for (context, batch), index in sorted(groups.items()):
            rows = rng.permutation(index.to_numpy()).astype(np.int32)
            n_sets = math.ceil(len(rows) / self.set_size)
            padding = rng.choice(rows, n_sets * self.set_size - len(rows))
            target.append(np.concatenate([rows, padding]).reshape(n_sets, self.set_size))
            control.append(rng.choice(rows, (n_sets, self.set_size)))
            labels += [(CONTROL, "0", batch, context)] * n_sets
        frame = pd.DataFrame(labels, columns=["perturbation", "dose", "batch", "context"])
        return frame, np.concatenate(target), np.concatenate(control)

    def _phases(self, train: ad.AnnData, sets: Sets) -> list[Phase]:
        if self.pretrain_contexts is None:
            return [self._phase("training", sets, np.full(len(sets), True), self.max_steps)]
        contexts = train.obs["context"].astype(str)
        if self.pretrain_contexts == "others":
            first = set(contexts) - set(contexts[(train.obs["role"] == "control_input").to_numpy()])
        else:
            named = self.pretrain_contexts
            first = {named} if isinstance(named, str) else set(named)
            if unknown := sorted(first - set(contexts)):
                raise ContractError(f"State: pretrain_contexts names {unknown[0]}, which is not a training context")
        early = np.isin(sets.context, sorted(first))
        for what, mask in (("pretraining", early), ("fine-tuning", ~early)):
            if not (mask & (sets.role == "train")).any():
                raise ContractError(
                    f"State: no sets are left for {what} with pretrain_contexts {self.pretrain_contexts} (it takes "
                    f"{', '.join(sorted(first)) or 'none'}); list other contexts, set identity_sets, or leave it out"
                )
        return [
            self._phase("pretraining", sets, early, self.pretrain_steps),
            self._phase("fine-tuning", sets, ~early, self.finetune_steps),
        ]

    def _phase(self, name: str, sets: Sets, mask: np.ndarray, steps: int) -> Phase:
        train = np.flatnonzero(mask & (sets.role == "train"))
        val = np.flatnonzero(mask & (sets.role == "val"))
        if not len(train):
            raise CannotLearnError("State: pairs hold no set of role train; check the split", TOO_FEW_CELLS)
        if len(val) > self.validation_sets:
            val = np.sort(np.random.default_rng([self.seed, 2]).choice(val, self.validation_sets, replace=False))
        return Phase(name, sets.take(train), sets.take(val), steps)

    def _loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """(B, S, G) twice → (B,)."""
        if self.loss == "energy":
            return energy_distance(predicted, target)
        if self.loss == "mmd":
            return rbf_mmd(predicted, target, self.sigma)
        return (predicted - target).square().mean((-2, -1))

    def _make_optimizer(self) -> torch.optim.Optimizer:
        cls = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        return cls(self.network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

    def _make_network(self) -> StateNetwork:
        return StateNetwork(
            genes=len(self.facts["genes"]),
            perturbations=self.facts["perturbation_width"],
            batches=len(self.facts["batches"]) if self.batch_encoder else 0,
            hidden=self.hidden,
            layers=self.layers,
            heads=self.heads,
            mlp_hidden=self.mlp_hidden,
            encoder_layers=self.encoder_layers,
            dropout=self.dropout,
            residual=self.residual,
            nonnegative=self.facts["nonnegative"],
        )

    # --- perturbations --------------------------------------------------------------------------------

    def _perturbation_inputs(self, table: pd.DataFrame) -> np.ndarray | None:
        """Features of each label (P, F + 1), the last the logarithm of the summed dose; none for one-hot."""
        if self.known is None:
            return None
        values = self.known.of(table["perturbation"])
        return np.column_stack([values, np.log1p(total_dose(table["dose"]))]).astype(np.float32)

    def _encoder(self, inputs: np.ndarray | None, n_labels: int, device: str) -> Any:
        if inputs is None:
            return lambda codes: functional.one_hot(torch.from_numpy(codes).to(device), n_labels).float()
        features = torch.from_numpy(inputs / np.float32(self.facts["feature_scale"])).to(device)
        return lambda codes: features[torch.from_numpy(codes).to(device)]

    # --- answering ------------------------------------------------------------------------------------

    def predict(self, asked_for: Query) -> ad.AnnData:
        """Cells for every asked condition: as many as the test has, from the input controls of its context.

        Where there are fewer controls than asked cells, all are used and some drawn again. Cells are cut into sets of
        at most ``set_size``, of nearly equal size, neighbours in batch.
        """
        query = asked_for.cells
        self.check_fitted()
        check_genes(query, self.facts["genes"], "State")
        conditions = asked(query)
        codes, encode = self._codes(conditions[["perturbation", "dose"]].astype(str))
        batch = pd.Index(self.facts["batches"]).get_indexer(query.obs["batch"].astype(str)).astype(np.int64) + 1

        rows, condition = input_cells(query, self.seed)
        sets: list[np.ndarray] = []  # rows of the query
        owner: list[int] = []  # the condition of each set
        for number in range(len(conditions)):
            chosen = rows[condition == number]
            chosen = chosen[np.argsort(batch[chosen], kind="stable")]
            parts = np.array_split(chosen, math.ceil(len(chosen) / self.set_size))
            sets += parts
            owner += [number] * len(parts)
        sizes = np.array([len(part) for part in sets])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        values = np.empty((starts[-1], query.n_vars), dtype=np.float32)
        network = self.network.to(device := gpu.device())
        with torch.no_grad(), reproducible(self.seed, device, self.threads):
            for size in np.unique(sizes):
                same = np.flatnonzero(sizes == size)
                for some in np.array_split(same, math.ceil(len(same) / self.batch_size)):
                    rows = np.stack([sets[i] for i in some])  # (B, size)
                    cells = torch.from_numpy(dense(query.X[rows.ravel()])).view(*rows.shape, -1).to(device)
                    of_set = codes[[owner[i] for i in some]]
                    predicted = network(cells, encode(of_set), torch.from_numpy(batch[rows]).to(device)).cpu().numpy()
                    for i, part in zip(some, predicted, strict=True):
                        values[starts[i] : starts[i + 1]] = part
        return make_prediction(query, values, np.repeat(owner, sizes))

    def _codes(self, labels: pd.DataFrame) -> tuple[np.ndarray, Any]:
        """For each asked condition the code of its label, and the encoder of codes."""
        if (inputs := self._perturbation_inputs(labels)) is not None:
            return np.arange(len(labels)), self._encoder(inputs, len(labels), gpu.device())
        known = {tuple(label): code for code, label in enumerate(self.facts["labels"])}
        codes = [known.get(label, -1) for label in labels.itertuples(index=False, name=None)]
        if -1 in codes:
            perturbation, dose = labels.iloc[codes.index(-1)]
            raise UnseenError(
                f"State with one-hot perturbations was never shown {perturbation} at dose {dose} in training; "
                "give perturbation features (perturbation_encoder: features), or exclude it from this split",
                np.array(codes) == -1,
            )
        return np.array(codes), self._encoder(None, len(known), gpu.device())

    # --- keeping --------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes ``weights.pt`` (a state dict), ``model.json`` (genes, labels, batches) and any ``features.npz``."""
        self.check_fitted()
        torch.save(self.network.cpu().state_dict(), Path(folder, "weights.pt"))
        write_json(self.facts, Path(folder, "model.json"))
        if self.known is not None:
            np.savez(Path(folder, "features.npz"), **self.known.arrays())  # type: ignore[arg-type]

    def load(self, folder: Path) -> Self:
        """Reads what :meth:`save` wrote; nothing is unpickled but tensors."""
        self.facts = read_json(Path(folder, "model.json"))
        self.known = None
        if self.perturbation_encoder == "features":
            with np.load(Path(folder, "features.npz"), allow_pickle=False) as file:
                self.known = Features.of_arrays(dict(file))
        self.network = self._make_network()
        load_weights(self.network, Path(folder, "weights.pt"))
        return self
