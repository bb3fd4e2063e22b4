"""What the adapters of packages built on scvi-tools share: seeds, quiet, progress, roles and batches."""

import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anndata as ad
import numpy as np
import scvi
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment

from trueshift import gpu
from trueshift.contract import ContractError, column_means, dense, kind_of
from trueshift.models.base import TOO_FEW_CELLS, CannotLearnError
from trueshift.tracking import Run

ENVIRONMENT = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "XLA_FLAGS")  # what seeding through scvi-tools sets
CHATTY = ("scvi", "scgen", "biolord", "lightning", "lightning.pytorch", "lightning.fabric")
NOISE = (
    r"The '\w+' does not have many workers",  # data are in memory: workers would only copy them
    r"The number of training batches",  # is below the logging interval: epochs are reported, not steps
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # lightning on this torch
    r"The `srun` command is available",  # Snakemake's plugin calls it
    r"Detected call of `lr_scheduler.step\(\)` before",  # biolord steps them by hand, after the optimizers
)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A block in which Python, NumPy, torch and scvi-tools draw from ``seed``; all that this changes is put back."""
    python, numpy, previous = random.getstate(), np.random.get_state(), scvi.settings.seed
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    environment = {name: os.environ.get(name) for name in ENVIRONMENT}
    with torch.random.fork_rng(), quiet():
        try:
            scvi.settings.seed = seed
            yield
        finally:
            scvi.settings.seed = previous
            random.setstate(python)
            np.random.set_state(numpy)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
            for name, value in environment.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextmanager
def quiet() -> Iterator[None]:
    """A block in which the packages log from warnings on, and the warnings in ``NOISE`` are left out."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            for message in NOISE:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Progress(Callback):
    """Reports the metrics named (``{shown as: name in the training plan}``) to a run after every epoch."""

    def __init__(self, run: Run | None, names: dict[str, str]) -> None:
        self.run, self.names = run, names

    def _report(self, trainer: Trainer, epoch: int) -> None:
        known = trainer.callback_metrics
        values = {shown: float(known[name]) for shown, name in self.names.items() if name in known}
        if self.run is not None:
            self.run.log(epoch, **values)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the epoch before: the plans end an epoch, and log it, after their callbacks."""
        if trainer.current_epoch:
            self._report(trainer, trainer.current_epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the last epoch."""
        self._report(trainer, trainer.current_epoch)


def trainer_settings(progress: Progress) -> dict[str, Any]:
    """Settings of the trainer that both packages take: the device, no bar, nothing written to the working folder."""
    return {
        "accelerator": "gpu" if gpu.device() == "cuda" else "cpu",
        "plugins": [LightningEnvironment()],  # one process, also inside a SLURM job that has room for more
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "callbacks": [progress],
    }


def gene_centre(train: ad.AnnData) -> np.ndarray:
    """What is taken off each gene before a package sees it, float32 (G,): of profiles the training mean, else 0.

    The packages start near 0, where expression of single cells is. Intensities of arrays lie between 4 and 15: most of
    a training on a few hundred profiles would go into finding that level.
    """
    if not kind_of(train).intensities:
        return np.zeros(train.n_vars, dtype=np.float32)
    return column_means(train.X).astype(np.float32)


def labelled(train: ad.AnnData, columns: list[str], centre: np.ndarray) -> ad.AnnData:
    """What a package registers, and adds to: X around ``centre``, the named columns of obs as sorted categories."""
    matrix = dense(train.X) - centre if centre.any() else train.X
    return ad.AnnData(matrix, obs=train.obs[columns].astype(str).astype("category"), var=train.var[[]])


def roles(train: ad.AnnData, batch_size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows to train on (roles train and control_input), rows of role val, and the batch size to take them by.

    The batch size is the largest up to the one asked that leaves no batch of a single cell: batch normalisation and
    biolord's module fail on one. A single validation cell is not used.

    Raises :class:`ContractError` for a ``batch_size`` below 2 or none that fits, and
    :class:`trueshift.models.base.CannotLearnError` for fewer than two cells to train on.
    """
    validation = (train.obs["role"] == "val").to_numpy()
    rows, held_out = np.flatnonzero(~validation), np.flatnonzero(validation)
    if batch_size < 2:
        raise ContractError(f"batch_size is {batch_size}; give 2 or more")
    if len(rows) < 2:
        raise CannotLearnError(f"train: {len(rows)} cells to train on; the model needs at least 2", TOO_FEW_CELLS)
    held_out = held_out if len(held_out) > 1 else held_out[:0]
    fitting = [size for size in range(2, batch_size + 1) if len(rows) % size != 1 and len(held_out) % size != 1]
    if not fitting:
        raise ContractError(f"train: no batch size up to {batch_size} divides the cells; set a larger batch_size")
    return rows, held_out, max(fitting)
