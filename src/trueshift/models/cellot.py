"""cellot: optimal transport from control to perturbed cells, one map per perturbation, in the latent of an autoencoder.

Bunne et al. 2023, "Learning single-cell perturbation responses using neural optimal transport", Nature Methods 20,
1759, written from the description of the method. Differences to it: controls are drawn from the context and batch of
the perturbed cells; the weights are chosen on validation cells (the authors' code: on those under test).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import anndata as ad
import numpy as np
import torch
from torch import Tensor

from trueshift import gpu
from trueshift.contract import ContractError, asked, make_prediction, read_json, write_json
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
from trueshift.models.cellot_network import Autoencoder, ConvexNetworks, Transport
from trueshift.networks.cells_on_device import CellsOnDevice
from trueshift.networks.set_losses import distances, squared_distances
from trueshift.networks.training import Checkpoint, fingerprint, load_weights, reproducible, train_epochs
from trueshift.tracking import Run

FILES = ("autoencoder.pt", "maps.pt")  # checkpoints
CHUNK = 4096  # cells encoded or decoded at a time
WIDTHS = (0.5, 1.0, 2.0)  # of the validation kernel, in units of its bandwidth


class CellOT(Model):
    """x̂ = decoder(∇g(encoder(control))), g convex and one per perturbation. Predicts cells.

    - Autoencoder: ``latent``, ``autoencoder_hidden``, trained for ``autoencoder_steps`` batches with Adam
      (``autoencoder_learning_rate``, halved every ``autoencoder_halve_every``, and ``weight_decay``). Every
      ``autoencoder_validate_every`` steps the cells of role val are reconstructed; the best weights stay.
    - Maps: potentials f and g with ``hidden`` layers, ``steps`` outer iterations of ``inner_steps`` for g and one for
      f, Adam with ``learning_rate`` and ``betas``, ``batch_size`` perturbed cells and as many controls. Every
      perturbed cell drawn brings a control drawn from its context and batch (from its context, where that batch has
      none): so both sides have the same contexts and batches in the same proportion, and only the perturbation makes
      them differ. Weights ``start`` ``uniform`` in (0, 0.1), as published, or such that the map is the ``identity``,
      which a short training on few cells does not move far beyond what they support.
    - Every ``validate_every`` outer iterations a map is scored by the maximum mean discrepancy between moved controls
      and perturbed cells of role val, at most ``validation_cells``, and its best weights stay. A perturbation with
      fewer than ``least_validation`` such cells takes the weights of the iteration that is best on average over all
      that have any. Without such cells all iterations are run and the last weights stay.

    One map per perturbation (a combination is one of its own): doses are not told apart, and a perturbation never seen
    is refused. On a CPU the same seed and number of threads (``threads``) give the same bits, be the training
    interrupted or not.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        latent: int = 50,
        autoencoder_hidden: Sequence[int] = (512, 512),
        autoencoder_steps: int = 250_000,
        autoencoder_learning_rate: float = 1e-3,
        autoencoder_halve_every: int = 100_000,
        autoencoder_validate_every: int = 2500,
        weight_decay: float = 1e-5,
        hidden: Sequence[int] = (64, 64, 64, 64),
        start: Literal["uniform", "identity"] = "uniform",
        steps: int = 100_000,
        inner_steps: int = 10,
        learning_rate: float = 1e-4,
        betas: Sequence[float] = (0.5, 0.9),
        batch_size: int = 256,
        validate_every: int = 250,
        validation_cells: int = 128,
        least_validation: int = 10,
        threads: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.latent = latent
        self.autoencoder_hidden = autoencoder_hidden
        self.autoencoder_steps = autoencoder_steps
        self.autoencoder_learning_rate = autoencoder_learning_rate
        self.autoencoder_halve_every = autoencoder_halve_every
        self.autoencoder_validate_every = autoencoder_validate_every
        self.weight_decay = weight_decay
        self.hidden = hidden
        self.start = start
        self.steps = steps
        self.inner_steps = inner_steps
        self.learning_rate = learning_rate
        self.betas = betas
        self.batch_size = batch_size
        self.validate_every = validate_every
        self.validation_cells = validation_cells
        self.least_validation = least_validation
        self.threads = threads

    # --- learning -------------------------------------------------------------------------------------

    def fit(self, given: Training, run: Run | None = None) -> Self:
        """Trains the autoencoder, then all maps; checkpoints of the same training in ``run.resume`` are taken up."""
        train = given.cells
        self._check()
        device = gpu.device()
        role = train.obs["role"].astype(str).to_numpy(str)
        learning, held_out = np.flatnonzero(np.isin(role, ["train", "control_input"])), np.flatnonzero(role == "val")
        draws = Draws(train, device)
        key = self._fingerprint(train) if run and run.resume else ""
        with reproducible(self.seed, device, self.threads):
            cells = CellsOnDevice(train.X, device)
            autoencoder = Autoencoder(train.n_vars, self.latent, self.autoencoder_hidden).to(device)
            self._train_autoencoder(autoencoder, cells, learning, held_out, run, key)
            learnt = _encode(autoencoder, cells)[torch.from_numpy(learning).to(device)]
            autoencoder.standardise("latent", learnt.mean(0), learnt.var(0, correction=0).mean().item())
            latents = _encode(autoencoder, cells)
        with reproducible(self.seed, device, self.threads):  # anew: a resumed training has drawn less by now
            maps = self._train_maps(latents, draws, run, key)
        for file in FILES:
            Checkpoint(run, "CellOT", key, file).discard()
        self.facts = {"genes": train.var_names.tolist(), "perturbations": draws.perturbations}
        self.autoencoder, self.maps = autoencoder.cpu().eval(), maps.cpu().eval()
        return self

    def _check(self) -> None:
        sizes = ["latent", "steps", "inner_steps", "batch_size", "validate_every", "validation_cells"]
        sizes += ["autoencoder_steps", "autoencoder_halve_every", "autoencoder_validate_every"]
        for name in sizes:
            if getattr(self, name) < 1:
                raise ContractError(f"CellOT: {name} is at least 1, not {getattr(self, name)}")
        if not self.hidden:
            raise ContractError("CellOT: hidden names the width of at least one layer, such as [64, 64]")
        self.check_choices()
        if self.start == "identity" and self.hidden[0] < 2 * self.latent:
            raise ContractError(
                f"CellOT: start: identity needs a first layer of {2 * self.latent} units, twice latent; "
                f"hidden has {self.hidden[0]} there"
            )

    def _fingerprint(self, train: ad.AnnData) -> str:
        labels = train.obs[["perturbation", "context", "batch", "role"]].astype(str)
        return fingerprint(self.params("threads"), train.X, labels.to_numpy(str))

    def _train_autoencoder(
        self,
        network: Autoencoder,
        cells: CellsOnDevice,
        rows: np.ndarray,
        val: np.ndarray,
        run: Run | None,
        key: str,
    ) -> None:
        """Trains ``network`` on the cells ``rows``; how well those of ``val`` are reconstructed chooses the weights."""
        network.standardise("gene", *_moments(cells, rows))
        optimizer = torch.optim.Adam(
            network.parameters(), lr=self.autoencoder_learning_rate, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, self.autoencoder_halve_every, 0.5)
        every, size = self.autoencoder_validate_every, min(self.batch_size, len(rows))

        def epoch(number: int, rng: np.random.Generator) -> dict[str, float]:
            steps = min(every, self.autoencoder_steps - number * every)
            passes = math.ceil(steps * size / len(rows))
            order = np.concatenate([rng.permutation(rows) for _ in range(passes)])[: steps * size]
            total = torch.zeros((), device=cells.device)
            for batch in order.reshape(steps, size):
                optimizer.zero_grad()
                loss = network.loss(cells.rows(batch))
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach()
            return {"loss": total.item() / steps}

        def validate() -> float:
            parts = [val[start : start + CHUNK] for start in range(0, len(val), CHUNK)]
            return sum(network.loss(cells.rows(part)).item() * len(part) for part in parts) / len(val)

        train_epochs(
            {"network": network, "optimizer": optimizer, "schedule": schedule},
            math.ceil(self.autoencoder_steps / every),
            epoch,
            name="CellOT, autoencoder",
            seed=self.seed,
            run=run,
            fingerprint=key,
            validate=validate if len(val) else None,
            file=FILES[0],
        )

    def _train_maps(self, latents: Tensor, draws: "Draws", run: Run | None, key: str) -> ConvexNetworks:
        """The maps of all perturbations, trained on latents (N, D) of all cells."""
        maps = Transport(len(draws.perturbations), self.latent, self.hidden, self.start).to(latents.device)
        optimizer_f, optimizer_g = (
            torch.optim.Adam(network.parameters(), lr=self.learning_rate, betas=tuple(self.betas))
            for network in (maps.f, maps.g)
        )
        measure = None
        if any(len(rows) for rows in draws.val):
            measure = Validation(latents, draws, self.validation_cells, self.least_validation, self.seed)

        def epoch(number: int, rng: np.random.Generator) -> dict[str, float]:
            total = torch.zeros(2, device=latents.device)
            steps = min(self.validate_every, self.steps - number * self.validate_every)
            for _ in range(steps):
                control, perturbed = draws.batches(self.inner_steps + 1, self.batch_size)
                losses = maps.step(latents[control], latents[perturbed], optimizer_f, optimizer_g)
                total += torch.stack([loss.mean() for loss in losses])
            values = dict(zip(("loss_g", "loss_f"), (total / steps).tolist(), strict=True))
            if measure is not None:
                with torch.no_grad():
                    own = measure.of(maps(measure.source))
                shared = own[measure.some].mean()
                maps.keep(torch.where(measure.enough, own, shared))
                values["val_loss"] = shared.item()
            return values

        # the best weights are kept map by map, where train_epochs would keep those of one step for all
        train_epochs(
            {"maps": maps, "f": optimizer_f, "g": optimizer_g},
            math.ceil(self.steps / self.validate_every),
            epoch,
            name="CellOT, maps",
            seed=self.seed,
            run=run,
            fingerprint=key,
            file=FILES[1],
            offset=math.ceil(self.autoencoder_steps / self.autoencoder_validate_every),
        )
        return maps.g if measure is None else maps.best

    # --- answering ------------------------------------------------------------------------------------

    def predict(self, asked_for: Query) -> ad.AnnData:
        """Cells for every asked condition: as many as the test has, from the input controls of its context."""
        query = asked_for.cells
        self.check_fitted()
        check_genes(query, self.facts["genes"], "CellOT")
        number = {name: i for i, name in enumerate(self.facts["perturbations"])}
        refuse_unseen(query, {(name,) for name in number}, ["perturbation"], "CellOT")
        wanted = asked(query)["perturbation"].astype(str).map(number).to_numpy()
        rows, owner = input_cells(query, self.seed)
        values = np.empty((len(rows), query.n_vars), dtype=np.float32)
        network = self.autoencoder.to(device := gpu.device())
        with torch.no_grad(), reproducible(self.seed, device, self.threads):
            latents = _encode(network, CellsOnDevice(query.X, device))
            for which in np.unique(wanted):
                one = self.maps.take(which).to(device)
                mine = np.flatnonzero(wanted[owner] == which)
                for start in range(0, len(mine), CHUNK):
                    part = mine[start : start + CHUNK]
                    moved = one.gradient(latents[torch.from_numpy(rows[part]).to(device)][None])[0]
                    values[part] = network.decode(moved).cpu().numpy()
        self.autoencoder.cpu()
        return make_prediction(query, values, owner)

    # --- keeping --------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes ``autoencoder.pt`` and ``maps.pt`` (state dicts) and ``model.json`` (genes, perturbations)."""
        self.check_fitted()
        torch.save(self.autoencoder.state_dict(), Path(folder, "autoencoder.pt"))
        torch.save(self.maps.state_dict(), Path(folder, "maps.pt"))
        write_json(self.facts, Path(folder, "model.json"))

    def load(self, folder: Path) -> Self:
        """Reads what :meth:`save` wrote; nothing is unpickled but tensors."""
        self.facts = read_json(Path(folder, "model.json"))
        self.autoencoder = Autoencoder(len(self.facts["genes"]), self.latent, self.autoencoder_hidden)
        self.maps = ConvexNetworks(len(self.facts["perturbations"]), self.latent, self.hidden)
        load_weights(self.autoencoder, Path(folder, "autoencoder.pt"))
        load_weights(self.maps, Path(folder, "maps.pt"))
        return self


class Draws:
    """Which rows of ``train`` a map learns from: ``batches`` of perturbed cells, a control of their own kind for each.

    ``perturbations`` are those with cells of role train, sorted; ``val`` holds the rows of role val of each.
    Raises :class:`trueshift.models.base.CannotLearnError` where there is nothing to learn from, and
    :class:`ContractError` for a context without controls.
    """

    def __init__(self, train: ad.AnnData, device: str) -> None:
        obs = train.obs[["perturbation", "context", "batch", "role"]].astype(str).reset_index(drop=True)
        control = train.obs["is_control"].to_numpy(bool)
        learning = ~control & (obs["role"] == "train").to_numpy()
        if not learning.any():
            raise CannotLearnError("train: there are no perturbed cells to learn from; check the split", TOO_FEW_CELLS)
        rows_of = obs[learning].groupby("perturbation").indices
        self.perturbations = sorted(rows_of)
        groups = [np.flatnonzero(learning)[rows_of[name]] for name in self.perturbations]
        held_out = obs[~control & (obs["role"] == "val").to_numpy()].groupby("perturbation").groups
        self.val = [np.asarray(held_out.get(name, []), dtype=np.int64) for name in self.perturbations]

        usable = np.flatnonzero(control & obs["role"].isin(["train", "control_input"]).to_numpy())
        same_batch = obs["context"].str.cat(obs["batch"], sep="\t")
        kind = same_batch.where(same_batch.isin(same_batch[usable]), obs["context"])
        pools = {
            name: usable[rows]
            for key in (obs["context"], same_batch)
            for name, rows in key[usable].reset_index(drop=True).groupby(key[usable].to_numpy(str)).indices.items()
        }
        lost = sorted(set(kind[~control]) - set(pools))
        if lost:
            raise ContractError(f"train: context {lost[0]} has perturbed cells but no control cells")
        pool_code = {name: i for i, name in enumerate(pools)}
        codes = kind.map(pool_code).fillna(-1).astype(int)  # -1: a control, in no need of one
        self.pool = torch.from_numpy(codes.to_numpy()).to(device)  # of each row of train
        self.perturbed, self.perturbed_start, self.n_perturbed = _flat(groups, device)
        self.controls, self.pool_start, self.pool_size = _flat(list(pools.values()), device)

    def batches(self, n: int, size: int) -> tuple[Tensor, Tensor]:
        """``n`` batches of controls, shape (n, P, B), and the perturbed cells (P, B) that go with the last."""
        shape = (n, len(self.perturbations), size)
        draw = torch.randint(1 << 31, shape, device=self.pool.device) % self.n_perturbed[:, None]
        perturbed = self.perturbed[self.perturbed_start[:, None] + draw]  # (n, P, B)
        return self.controls_for(perturbed), perturbed[-1]

    def controls_for(self, perturbed: Tensor) -> Tensor:
        """For every row given a random control of its context and batch, same shape."""
        pool = self.pool[perturbed]
        draw = torch.randint(1 << 31, pool.shape, device=pool.device) % self.pool_size[pool]
        return self.controls[self.pool_start[pool] + draw]


def _flat(groups: list[np.ndarray], device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Groups of rows one after the other, where each starts, and its size."""
    sizes = np.array([len(group) for group in groups])
    arrays = (np.concatenate(groups), np.cumsum(sizes) - sizes, sizes)
    rows, start, size = (torch.from_numpy(array.astype(np.int64)).to(device) for array in arrays)
    return rows, start, size


class Validation:
    """How far moved controls are from the perturbed cells of role val, for each of P perturbations.

    A value is the unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) less its term
    in the perturbed cells alone, which no map changes: so a single cell is enough to have a value. The kernel is the
    mean of Gaussians of ``WIDTHS`` times the median distance from perturbed cells to controls before they move.

    ``source`` (P, V, D) are the controls; ``some`` and ``enough`` (P,) say which perturbations have any such cells, and
    at least ``least``. Of more than ``most`` cells, a sample serves.
    """

    def __init__(self, latents: Tensor, draws: Draws, most: int, least: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        chosen = [rng.permutation(rows)[:most] for rows in draws.val]
        sizes = torch.tensor([len(rows) for rows in chosen], device=latents.device)
        V = max(map(len, chosen))
        anything = draws.perturbed[draws.perturbed_start].cpu().numpy()  # fills up where there is nothing to score
        padded = [np.resize(rows if len(rows) else row, V) for rows, row in zip(chosen, anything, strict=True)]
        rows = torch.from_numpy(np.stack(padded)).to(latents.device)  # (P, V)
        controls = draws.controls_for(rows)
        self.some, self.enough = sizes > 0, sizes >= least
        self.source, self._target = latents[controls], latents[rows]
        self._real = (torch.arange(V, device=latents.device) < sizes[:, None])[:, None, :]  # (P, 1, V)
        self._distinct = controls[:, :, None] != controls[:, None, :]  # (P, V, V): a control may be drawn twice
        medians = [
            distances(source, target[: max(int(n), 1)]).median()
            for source, target, n in zip(self.source, self._target, sizes, strict=True)
        ]
        self._bandwidth = torch.stack(medians).clamp_min(1e-6)

    def of(self, moved: Tensor) -> Tensor:
        """The values, shape (P,), of the controls as moved, (P, V, D); without meaning where there is no such cell."""
        return self._kernel(moved, moved, self._distinct) - 2 * self._kernel(moved, self._target, self._real)

    def _kernel(self, x: Tensor, y: Tensor, counted: Tensor) -> Tensor:
        """Mean of the kernel over the pairs of x and y (P, V, D) that are counted, shape (P,); 0 where none is."""
        squares = squared_distances(x, y)  # (P, V, V)
        counted = counted.expand_as(squares)
        scales = [2 * (width * self._bandwidth[:, None, None]).square() for width in WIDTHS]
        values = torch.stack([torch.exp(-squares / scale) for scale in scales]).mean(0)
        return torch.where(counted, values, 0.0).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1)


def _moments(cells: CellsOnDevice, rows: np.ndarray) -> tuple[Tensor, float]:
    """Mean of every gene, shape (G,), and the mean of their variances, over ``rows``."""
    total, squares = (torch.zeros(cells.matrix.shape[1], dtype=torch.float64, device=cells.device) for _ in range(2))
    for start in range(0, len(rows), CHUNK):
        part = cells.rows(rows[start : start + CHUNK]).double()
        total, squares = total + part.sum(0), squares + part.square().sum(0)
    mean = total / len(rows)
    return mean.float(), (squares / len(rows) - mean.square()).mean().item()


def _encode(network: Autoencoder, cells: CellsOnDevice) -> Tensor:
    """Latents of all cells, (N, D)."""
    n = cells.matrix.shape[0]
    with torch.no_grad():
        parts = [cells.rows(np.arange(start, min(start + CHUNK, n))) for start in range(0, n, CHUNK)]
        return torch.cat([network.encode(part) for part in parts])
