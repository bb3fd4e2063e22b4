"""What chemCPA is given of data: the rows to learn from as codes, and the drugs and doses of every condition."""

from collections.abc import Iterable
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import torch

from trueshift.contract import CONDITION, CONTROL, ContractError, component_doses, components, condition_codes
from trueshift.models.chemcpa_network import Batch


def drugs_of(perturbations: Iterable[str], doses: Iterable[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The drugs given under each label: names (K,), doses (K,) and the number of the label (K,); none for controls.

    Raises :class:`ContractError` unless every drug of a combination has its own dose (``A+B`` at ``1+0.5``).
    """
    found: list[tuple[str, float, int]] = []
    for number, (label, dose) in enumerate(zip(perturbations, doses, strict=True)):
        parts = components(label)
        amounts = component_doses(dose) if parts else []
        if len(amounts) != len(parts):
            raise ContractError(f"chemCPA: dose {dose} of {label} is not one number per drug, joined by +")
        found += [(part, float(amount), number) for part, amount in zip(parts, amounts, strict=True)]
    names, numbers, owner = zip(*found, strict=True) if found else ((), (), ())
    return np.array(names, str), np.array(numbers, np.float64), np.array(owner, np.int64)


@dataclass(frozen=True)
class Treatments:
    """The drugs of C conditions, one condition after the other.

    ``features`` (P, F) of the distinct drugs; ``drug`` (K,) the row there and ``dose`` (K,) the scaled dose of each
    drug given; ``count`` (C,) how many each condition has.
    """

    features: np.ndarray
    drug: np.ndarray
    dose: np.ndarray
    count: np.ndarray

    def arrays(self) -> list[np.ndarray]:
        """All that decides what a network is given."""
        return [self.features, self.drug, self.dose, self.count]

    def batch(
        self, x: torch.Tensor, condition: np.ndarray, context: np.ndarray, label: np.ndarray, device: str
    ) -> Batch:
        """Expression (B, G) with the drugs of its conditions (B,), its contexts (B,) and labels (B,), as codes."""
        count = self.count[condition]
        row = np.repeat(np.arange(len(condition)), count)
        first = np.cumsum(self.count) - self.count
        given = first[condition][row] + np.arange(len(row)) - (np.cumsum(count) - count)[row]
        arrays = (context, self.features[self.drug[given]], self.dose[given], row, label)
        return Batch(x, *(torch.from_numpy(array).to(device) for array in arrays))


@dataclass(frozen=True)
class Rows:
    """The rows of the training data as codes.

    Of every row (N,): ``condition`` in ``conditions``, ``context`` in ``contexts``, ``label`` in ``labels`` (−1: no row
    to learn from has it). ``learn`` are the rows to learn from, ``val`` those of role val, ``val_control`` (as many as
    ``val``) the control that each of these is predicted from.
    """

    obs: pd.DataFrame
    conditions: pd.DataFrame
    condition: np.ndarray
    contexts: list[str]
    context: np.ndarray
    labels: list[str]
    label: np.ndarray
    learn: np.ndarray
    val: np.ndarray
    val_control: np.ndarray

    @classmethod
    def of(cls, train: ad.AnnData) -> "Rows":
        """Reads obs. A validation row in a context without controls cannot be predicted and is left out."""
        obs = train.obs
        conditions, condition = condition_codes(obs)
        context, label = (obs[name].astype(str).to_numpy() for name in ("context", "perturbation"))
        control = obs["is_control"].to_numpy(bool)
        label = np.where(control, CONTROL, label)
        val = (obs["role"] == "val").to_numpy()
        learn = np.flatnonzero(~val)
        contexts, labels = sorted(set(context[learn])), sorted(set(label[learn]))

        own = np.full(len(obs), -1)
        if "control_id" in obs:
            own = pd.Index(obs.index.astype(str)).get_indexer(obs["control_id"].astype(str))
        pools = {name: np.flatnonzero(control & ~val & (context == name)) for name in contexts}
        rng = np.random.default_rng(0)  # the same for all seeds: they are compared on it
        asked_rows = [row for row in np.flatnonzero(val & ~control) if len(pools.get(context[row], ()))]
        starts = [own[row] if own[row] >= 0 else rng.choice(pools[context[row]]) for row in asked_rows]
        return cls(
            obs=obs[CONDITION],
            conditions=conditions,
            condition=condition,
            contexts=contexts,
            context=pd.Index(contexts).get_indexer(context).astype(np.int64),
            labels=labels,
            label=pd.Index(labels).get_indexer(label).astype(np.int64),
            learn=learn,
            val=np.array(asked_rows, np.int64),
            val_control=np.array(starts, np.int64),
        )

    def arrays(self) -> list[np.ndarray]:
        """All that decides what is learnt from which row."""
        return [self.condition, self.context, self.label, self.learn, self.val, self.val_control]
