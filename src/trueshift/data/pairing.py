"""Sets of perturbed cells with matched controls, for models that learn from sets (State, Adduri et al. 2025)."""

import numpy as np
import pandas as pd

from trueshift.contract import CONDITION, ContractError, Pairs

GROUP = [*CONDITION, "batch", "role"]


def make_pairs(obs: pd.DataFrame, set_size: int, seed: int) -> Pairs:
    """Chunks every (context, perturbation, dose, batch) of ``train.h5ad`` into sets of ``set_size`` cells.

    ``obs`` is that of ``train.h5ad``; train and validation cells are chunked apart. The last chunk of a group is filled
    up with other cells of the group; a group smaller than a set is padded with cells of its own, drawn with
    replacement. So no group is too small, and every perturbed cell is in a set. Controls come from the same
    context and batch, or from the context where that batch has none; each set has distinct controls if there are
    enough, and over the sets of a group the controls are used evenly.

    Raises :class:`ContractError` for a set size below 1, if no perturbed cell has role train, and for a context without
    controls.
    """
    if set_size < 1:
        raise ContractError(f"pair: set_size is {set_size}; give 1 or more")
    rng = np.random.default_rng([seed, set_size])
    text = obs[GROUP].astype(str)
    control = obs["is_control"].to_numpy(dtype=bool)
    groups = _rows_by(text[~control], GROUP, np.flatnonzero(~control))
    controls = np.flatnonzero(control)
    by_batch = _rows_by(text[control], ["context", "batch"], controls)
    by_context = _rows_by(text[control], ["context"], controls)
    if not any(key[-1] == "train" for key in groups):
        raise ContractError("pair: no perturbed cell has role train; check the split")
    perturbed, matched, facts = [], [], []
    for (context, perturbation, _, batch, role), rows in groups.items():
        if (context,) not in by_context:
            raise ContractError(f"pair: context {context} has no control cells in training; filter it out")
        sets = _chunks(rows, set_size, rng)
        pool = by_batch.get((context, batch))
        scope = "context" if pool is None else "batch"
        perturbed.append(sets)
        matched.append(_draw(by_context[(context,)] if pool is None else pool, len(sets), set_size, rng))
        facts += [(context, perturbation, batch, role, scope)] * len(sets)
    columns = [np.array(column, dtype=np.str_) for column in zip(*facts, strict=True)]
    return Pairs(np.vstack(perturbed).astype(np.int32), np.vstack(matched).astype(np.int32), *columns)


def padding(pairs: Pairs) -> float:
    """The share of the places in the sets that a cell of the same group fills once more, from 0 to below 1."""
    return 1 - len(np.unique(pairs.perturbed)) / pairs.perturbed.size


def _rows_by(text: pd.DataFrame, columns: list[str], rows: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
    """Row numbers by group, groups sorted."""
    return {
        key if isinstance(key, tuple) else (key,): rows[positions]
        for key, positions in sorted(text.groupby(columns, sort=True).indices.items())
    }


def _chunks(rows: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffled rows in sets, shape (ceil(n / size), size); every row occurs."""
    shuffled = rng.permutation(rows)
    lacking = -len(rows) % size
    if lacking:
        rest = len(rows) % size
        others = shuffled[: len(rows) - rest]
        filling = rng.choice(others, lacking, replace=False) if len(others) else rng.choice(rows, lacking)
        shuffled = np.concatenate([shuffled, filling])
    return shuffled.reshape(-1, size)


def _draw(pool: np.ndarray, n_sets: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Controls for ``n_sets`` sets, shape (n_sets, size), dealt from shuffles of the pool so that use is even."""
    if len(pool) >= size:
        sets_a_shuffle = len(pool) // size
        shuffles = rng.permuted(np.tile(pool, (-(-n_sets // sets_a_shuffle), 1)), axis=1)
        return shuffles[:, : sets_a_shuffle * size].reshape(-1, size)[:n_sets]
    repeats = -(-size // len(pool))
    shuffles = rng.permuted(np.tile(pool, (n_sets * repeats, 1)), axis=1)
    return shuffles.reshape(n_sets, repeats * len(pool))[:, :size]
