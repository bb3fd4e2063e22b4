"""How State is trained: steps over sets of cells, early stopping, and checkpoints that resume to the same weights.

Which sets a step sees and what dropout draws follow from (seed, phase, step) alone. A checkpoint therefore needs no
state of a random generator, and a training that was killed and resumed ends with the weights of an undisturbed one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trueshift.contract import ContractError
from trueshift.models.state_network import StateNetwork
from trueshift.networks.cells_on_device import CellsOnDevice
from trueshift.networks.training import Checkpoint
from trueshift.tracking import Run


@dataclass(frozen=True)
class Sets:
    """Training sets: rows of the training cells (N, S), and per set (N,) its perturbation, batch, context and role."""

    target: np.ndarray
    control: np.ndarray
    perturbation: np.ndarray
    batch: np.ndarray
    context: np.ndarray
    role: np.ndarray

    def take(self, index: np.ndarray) -> "Sets":
        """The sets at ``index``."""
        return Sets(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class Phase:
    """One stretch of training: its sets, the sets it is validated on (none: no early stopping) and its steps."""

    name: str
    train: Sets
    val: Sets
    steps: int


@dataclass
class Trainer:
    """Trains a network on phases of sets. ``encode`` turns perturbation codes (B,) into the network's input (B, P)."""

    network: StateNetwork
    cells: CellsOnDevice
    encode: Callable[[np.ndarray], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    make_optimizer: Callable[[], torch.optim.Optimizer]
    seed: int
    batch_size: int
    validate_every: int
    patience: int
    clip: float
    mixed: bool
    run: Run | None
    fingerprint: str

    def fit(self, phases: list[Phase]) -> None:
        """Runs the phases in turn; each ends with its best weights on validation, or its last where there is none."""
        checkpoint = Checkpoint(self.run, "State", self.fingerprint)
        saved = checkpoint.read()
        offset = 0
        for number, phase in enumerate(phases):
            if saved is None or number >= saved["phase"]:
                self._phase(number, phase, offset, checkpoint, saved if saved and number == saved["phase"] else None)
            offset += phase.steps
        checkpoint.discard()

    def _phase(
        self, number: int, phase: Phase, offset: int, checkpoint: Checkpoint, saved: dict[str, Any] | None
    ) -> None:
        optimizer = self.make_optimizer()
        step, stale, best_loss, best = 0, 0, math.inf, None
        if saved is not None:
            self.network.load_state_dict(saved["network"])
            optimizer.load_state_dict(saved["optimizer"])
            step, stale, best_loss, best = saved["step"], saved["stale"], saved["best_loss"], saved["best"]
        stopping = f"early stopping on {len(phase.val)} sets" if len(phase.val) else "all run: no validation sets"
        resumed = f"; resumed at step {step}" if saved else ""
        checkpoint.say(f"{phase.name}: {len(phase.train)} sets, {phase.steps} steps, {stopping}{resumed}")
        losses: list[float] = []
        order = Order(self.seed, number, len(phase.train))
        while step < phase.steps and stale < self.patience:
            losses.append(self._step(phase, number, step, order, optimizer))
            step += 1
            if step % self.validate_every and step != phase.steps:
                continue
            values = {"loss": float(np.mean(losses))}
            losses = []
            if len(phase.val):
                values["val_loss"] = self.evaluate(phase.val)
                stale += 1
                if values["val_loss"] < best_loss:
                    best_loss, stale = values["val_loss"], 0
                    best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
            state = {"phase": number, "step": step, "stale": stale, "best_loss": best_loss, "best": best}
            checkpoint.write({**state, "network": self.network.state_dict(), "optimizer": optimizer.state_dict()})
            if self.run:
                self.run.log(offset + step, **values, learning_rate=optimizer.param_groups[0]["lr"])
        if stale >= self.patience:
            checkpoint.say(f"{phase.name}: stopped at step {step}, no better validation loss {stale} times in a row")
        if best is not None:
            self.network.load_state_dict(best)

    def _step(self, phase: Phase, number: int, step: int, order: "Order", optimizer: torch.optim.Optimizer) -> float:
        torch.manual_seed(int(np.random.SeedSequence([self.seed, number, step]).generate_state(1)[0]))  # dropout
        self.network.train()
        batch = phase.train.take(order.batch(step, self.batch_size))
        loss = self._losses(batch).mean()
        value = loss.item()
        if not math.isfinite(value):
            raise ContractError(
                f"State: the loss is {value} at step {step + 1} of {phase.name}; "
                "lower learning_rate or clip, or set precision: float32"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        optimizer.step()
        return value

    @torch.no_grad()
    def evaluate(self, sets: Sets) -> float:
        """The mean loss over ``sets``, without dropout."""
        self.network.eval()
        parts = np.array_split(np.arange(len(sets)), math.ceil(len(sets) / self.batch_size))
        return sum(self._losses(sets.take(part)).sum().item() for part in parts) / len(sets)

    def _losses(self, sets: Sets) -> Tensor:
        """The loss of each set, shape (B,), in float32."""
        device = self.cells.device
        batch = torch.from_numpy(np.broadcast_to(sets.batch[:, None], sets.control.shape).copy()).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=self.mixed):
            predicted = self.network(self.cells.rows(sets.control), self.encode(sets.perturbation), batch)
        return self.loss(predicted.float(), self.cells.rows(sets.target))


class Order:
    """The sets of each step: one shuffle of all sets after the other, cut into batches."""

    def __init__(self, seed: int, phase: int, n_sets: int) -> None:
        self.key, self.n_sets = [seed, phase], n_sets
        self._shuffles: dict[int, np.ndarray] = {}

    def batch(self, step: int, size: int) -> np.ndarray:
        """Indices of the sets of a step, shape (size,)."""
        position = np.arange(step * size, (step + 1) * size)
        epochs = range(int(position[0] // self.n_sets), int(position[-1] // self.n_sets) + 1)
        self._shuffles = {epoch: self._shuffles.get(epoch, self._shuffle(epoch)) for epoch in epochs}
        return np.array([self._shuffles[p // self.n_sets][p % self.n_sets] for p in position.tolist()])

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([*self.key, epoch]).permutation(self.n_sets)
