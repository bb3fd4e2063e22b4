"""How networks are trained here: epochs that repeat bit by bit, early stopping, checkpoints that resume.

What an epoch draws follows from (seed, epoch) alone. A checkpoint therefore needs no state of a random generator, and
a training that was killed and resumed ends with the weights of an undisturbed one.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from trueshift.contract import ContractError, atomic, check_intact, discard
from trueshift.tracking import Run


def train_epochs(
    parts: Mapping[str, Any],
    epochs: int,
    epoch: Callable[[int, np.random.Generator], dict[str, float]],
    *,
    name: str,
    seed: int,
    run: Run | None,
    fingerprint: str,
    validate: Callable[[], float] | None = None,
    validate_every: int = 1,
    patience: int | None = None,
    file: str = "state.pt",
    offset: int = 0,
) -> None:
    """Trains ``parts`` for ``epochs``; at the end networks have their best weights on validation, else their last.

    ``parts`` holds all that changes and has a state dict: networks, optimizers, schedulers. ``epoch(number, rng)``
    trains one (numbers from 0) and returns losses to report; draws of torch are seeded before it is called.
    ``validate()`` returns what is to become small, and is called after every ``validate_every`` epochs and the last;
    ``patience`` such values in a row without a better one end the training. After each of them a checkpoint is written
    to ``run.resume/file``, and taken up by the next training of the same ``fingerprint``; it is removed by
    :meth:`Checkpoint.discard`, once all phases of a training are done. A later phase reports its epochs ``offset`` on.

    Raises :class:`ContractError` when a loss is no longer finite.
    """
    checkpoint = Checkpoint(run, name, fingerprint, file)
    networks = [key for key, part in parts.items() if isinstance(part, torch.nn.Module)]
    number, stale, best_value, best = 0, 0, math.inf, None
    if saved := checkpoint.read():
        for key, part in parts.items():
            part.load_state_dict(saved["parts"][key])
        number, stale, best_value, best = (saved[key] for key in ("epoch", "stale", "best_value", "best"))
        checkpoint.say(f"resumed after epoch {number}")
    while number < epochs and (patience is None or stale < patience):
        for key in networks:
            parts[key].train()
        torch.manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        values = epoch(number, np.random.default_rng([seed, number]))
        number += 1
        if not all(map(math.isfinite, values.values())):
            raise ContractError(f"{name}: a loss is not finite in epoch {number} ({values}); lower the learning rate")
        if number % validate_every and number != epochs:
            continue
        if validate is not None:
            for key in networks:
                parts[key].eval()
            with torch.no_grad():
                values["val_loss"] = validate()
            stale += 1
            if values["val_loss"] < best_value:
                best_value, stale = values["val_loss"], 0
                best = {key: {n: v.detach().clone() for n, v in parts[key].state_dict().items()} for key in networks}
        states = {key: part.state_dict() for key, part in parts.items()}
        checkpoint.write({"parts": states, "epoch": number, "stale": stale, "best_value": best_value, "best": best})
        if run:
            run.log(offset + number, **values)
    if patience is not None and stale >= patience:
        checkpoint.say(f"stopped after epoch {number}: no better validation loss {stale} times in a row")
    for key in networks:
        if best is not None:
            parts[key].load_state_dict(best[key])
        parts[key].eval()


class Checkpoint:
    """A file in the run's folder for checkpoints; without a run or such a folder nothing is kept."""

    def __init__(self, run: Run | None, name: str, fingerprint: str, file: str = "state.pt") -> None:
        self.run, self.name, self.fingerprint = run, name, fingerprint
        self.path = run.resume / file if run and run.resume else None

    def read(self) -> dict[str, Any] | None:
        """What to resume from, or none: where there is none, or it is damaged or of another training."""
        if self.path is None:
            return None
        for partial in self.path.parent.glob(f".{self.path.stem}.*.partial.pt*"):  # of a training that was killed
            partial.unlink()
        if not self.path.exists():
            return None
        try:
            check_intact(self.path)
        except ContractError as error:
            self.say(f"{error}; started afresh")
            return None
        saved: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        if saved["fingerprint"] != self.fingerprint:
            self.say(f"{self.path} is of other settings or data: started afresh")
            return None
        return saved

    def write(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint."""
        if self.path:
            with atomic(self.path) as temporary:
                torch.save({"fingerprint": self.fingerprint, **state}, temporary)

    def discard(self) -> None:
        """Removes the checkpoint: the training is done."""
        if self.path:
            discard(self.path)

    def say(self, text: str) -> None:
        """A line in the log of the run."""
        if self.run:
            print(f"{self.name}: {text}", flush=True)


def fingerprint(settings: Mapping[str, Any], *arrays: Any) -> str:
    """A digest of what decides the weights: settings (JSON types) and arrays, sparse or dense."""
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for array in arrays:
        parts = [array.data, array.indices, array.indptr] if sparse.issparse(array) else [np.asarray(array)]
        for part in parts:
            digest.update(f"{part.shape}{part.dtype}".encode())
            digest.update(np.ascontiguousarray(part).view(np.uint8).data)
    return digest.hexdigest()


def shuffled_batches(rng: np.random.Generator, n: int, size: int, least: int = 1) -> list[np.ndarray]:
    """The numbers 0 … n − 1, shuffled, in batches of ``size``; a last one below ``least`` joins its neighbour."""
    order = rng.permutation(n)
    cuts = list(range(size, n, size))
    if cuts and n - cuts[-1] < least:
        cuts.pop()
    return np.split(order, cuts)


def load_weights(network: torch.nn.Module, path: Path) -> torch.nn.Module:
    """Fills a network from a state dict saved by ``torch.save`` and sets it to evaluation; only tensors are read."""
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except RuntimeError as error:
        raise ContractError(f"{path}: weights of other settings ({error}); use those of its training") from error
    return network.eval()


@contextmanager
def reproducible(seed: int, device: str, threads: int | None = None) -> Iterator[None]:
    """A block in which torch draws from ``seed`` and uses ``threads`` threads; what was set before is put back.

    On a GPU, kernels with a fixed order of summation are chosen where they exist (a warning names one where not).
    """
    before = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        if threads:
            torch.set_num_threads(threads)
        if device == "cuda":
            torch.use_deterministic_algorithms(True, warn_only=True)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn)
