"""The embedded default source: gamma-Poisson counts of a perturbation screen whose true effects are known.

The model, with genes g, latent programs k, contexts c, batches b and perturbations p:

* baseline log expression   m[c, g] = base[g] + context[c, g] + batch[b, g]
* activations of a single   a[p] = shared + own[p]                        (K,)  ``shared`` is common to all of them
* of a combination          a[A+B] = a[A] + a[B] + interaction            the last term for a stated share of them,
                            ``interaction`` × |a[A] + a[B]| in a random direction; 0 for the others: additive
* dose response             h(d) = d / (d + half[p]), scaled so that the highest dose has h = 1
* log fold change           e[c, p, d, g] = factor[c] · h(d) · (a[p] · loadings[:, g]) + target
                            ``target`` is ±``target_effect`` · h(d) on the gene the perturbation is named after
* counts                    n ~ Poisson(Gamma(shape 1 / dispersion, mean size · softmax_g(m + e)))

A mean-shift baseline profits from ``shared``, a model with features from ``own`` (``perturbation_features`` holds a
noisy view of it), transfer between contexts from ``factor``. The negative binomial as gamma-Poisson mixture follows
Grün, Kester & van Oudenaarden 2014 (doi:10.1038/nmeth.2930) and the Splat model (doi:10.1186/s13059-017-1305-0).

An entry::

    kind: counts
    source: {format: simulate, contexts: 2, perturbations: 5, combinations: 4, genes: 600, seed: 1}
    features: {programs: simulated}
    targets_measured: true
"""

from collections.abc import Sequence
from itertools import combinations as pairs_of
from typing import Any, Literal

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift.contract import CONTROL, ContractError

FILES = ()
COLUMNS = {
    "perturbation": {"from": "perturbation", "control": "control"},
    "context": "context",
    "batch": "batch",
    "dose": "dose",
    "modality": "modality",
}
ROWS = 4096  # cells drawn at a time
DIRECTION = {"CRISPRi": -1.0, "KO": -1.0, "CRISPRa": 1.0}


def simulate(
    *,
    contexts: int = 3,
    batches: int = 2,
    genes: int = 500,
    perturbations: int = 10,
    combinations: int = 10,
    doses: Sequence[float] = (1.0,),
    cells_per_condition: int = 80,
    controls_per_batch: int = 200,
    programs: int = 5,
    effect: float = 0.2,
    shared: float = 0.3,
    target_effect: float = 1.5,
    context_spread: float = 0.2,
    interaction: float = 0.6,
    interaction_share: float = 0.3,
    library_size: float = 3000.0,
    dispersion: float = 0.2,
    feature_noise: float = 0.2,
    modality: Literal["CRISPRi", "KO", "CRISPRa"] = "CRISPRi",
    seed: int = 0,
) -> ad.AnnData:
    """Simulates a screen in canonical form: every perturbation, combination and dose in every context.

    - ``contexts``: Number of contexts.
    - ``batches``: Number of batches in each context.
    - ``genes``: Number of genes.
    - ``perturbations``: Number of single perturbations; each has a target gene of its own.
    - ``combinations``: Number of combinations of two.
    - ``doses``: The doses of every perturbation.
    - ``cells_per_condition``: Cells for each context × perturbation × dose, spread evenly over the batches.
    - ``controls_per_batch``: Control cells for each context × batch.
    - ``programs``: Number of latent programs.
    - ``effect``: Size of the activations of a perturbation, in log units per unit of loading.
    - ``shared``: Size of the activation that all perturbations share, in the same units.
    - ``target_effect``: Log fold change of the target gene at the highest dose.
    - ``context_spread``: Half-width of the contexts' factors around 1.
    - ``interaction``: Size of an interaction, as a share of the sum of the two singles.
    - ``interaction_share``: Share of the combinations that interact.
    - ``library_size``: Median number of counts of a cell.
    - ``dispersion``: Dispersion of the negative binomial.
    - ``feature_noise``: Noise of the features programs, in units of their spread.
    - ``modality``: CRISPRi and KO lower the target gene, CRISPRa raises it.
    - ``seed``: Seed of the simulation.

    Memory grows with cells × genes; the defaults take about a second.

    Returns counts (CSR float32), obs in canonical columns, ``uns["perturbation_features"]["programs"]`` (single
    perturbations × programs: activations plus noise of ``feature_noise`` times their spread) and ``uns["simulation"]``:
    ``conditions`` (context, perturbation, dose, interaction) and ``log_fold_change``, float32 (conditions, genes), the
    natural log of the expected share of counts over that of the context's controls.

    Raises :class:`ContractError` if a parameter is out of range.
    """
    _check(locals())
    rng = np.random.default_rng([seed, 0x7E])
    digits = max(3, len(str(genes)))
    names = np.array([f"GENE{i + 1:0{digits}d}" for i in range(genes)])

    base = rng.normal(0.0, 1.0, genes)
    by_context = base + rng.normal(0.0, 0.5, (contexts, genes))
    by_batch = rng.normal(0.0, 0.1, (batches, genes))
    factor = np.linspace(1.0 - context_spread, 1.0 + context_spread, contexts) if contexts > 1 else np.ones(1)
    loadings = rng.normal(0.0, 1.0, (programs, genes)) * (rng.random((programs, genes)) < 0.25)

    targets = np.sort(rng.choice(np.argsort(-base)[: max(perturbations, genes // 2)], perturbations, replace=False))
    common = shared * _unit(rng.normal(size=programs))
    activations = common + effect * rng.normal(size=(perturbations, programs))
    half = float(np.median(doses)) * rng.lognormal(0.0, 0.3, perturbations)
    every_pair = list(pairs_of(range(perturbations), 2))
    chosen = [every_pair[i] for i in sorted(rng.permutation(len(every_pair))[:combinations])]
    treatments: list[tuple[int, ...]] = [(p,) for p in range(perturbations)] + chosen
    interacting = set(rng.permutation(combinations)[: round(interaction_share * combinations)] + perturbations)

    conditions, effects = [], []
    for number, parts in enumerate(treatments):
        members = list(parts)
        push = _unit(rng.normal(size=programs)) * interaction if number in interacting else np.zeros(programs)
        for dose in sorted(doses):
            response = (dose / (dose + half) * (max(doses) + half) / max(doses))[members]
            single = activations[members] * response[:, None]
            total = single.sum(axis=0)
            total = total + push * np.linalg.norm(total)
            target = np.zeros(genes)
            target[targets[members]] = DIRECTION[modality] * target_effect * response
            for c in range(contexts):
                conditions.append((c, parts, dose, number in interacting))
                effects.append(factor[c] * (total @ loadings) + target)
    effect_of = np.array(effects)

    context_names = [f"context{i + 1}" for i in range(contexts)]
    batch_names = [f"batch{i + 1}" for i in range(batches)]
    labels = pd.DataFrame(
        {
            "context": [context_names[c] for c, *_ in conditions],
            "perturbation": ["+".join(names[targets[list(parts)]]) for _, parts, *_ in conditions],
            "dose": ["+".join([f"{dose:g}"] * len(parts)) for _, parts, dose, _ in conditions],
            "interaction": [flag for *_, flag in conditions],
        }
    )
    in_context = np.array([c for c, *_ in conditions])

    # one row per cell: condition (-1 for controls), context, batch
    n = len(conditions)
    condition = np.concatenate(
        [np.repeat(np.arange(n), cells_per_condition), np.full(contexts * batches * controls_per_batch, -1)]
    )
    context = np.concatenate(
        [np.repeat(in_context, cells_per_condition), np.repeat(np.arange(contexts), batches * controls_per_batch)]
    )
    batch = np.concatenate(
        [
            np.tile(np.arange(cells_per_condition) % batches, n),
            np.tile(np.repeat(np.arange(batches), controls_per_batch), contexts),
        ]
    )
    order = rng.permutation(len(condition))  # real files are in no order either
    condition, context, batch = condition[order], context[order], batch[order]

    depth = rng.normal(0.0, 0.1, (contexts, batches))
    size = library_size * np.exp(depth[context, batch] + rng.normal(0.0, 0.25, len(condition)))
    with_controls = np.vstack([effect_of, np.zeros(genes)])  # row -1 is the controls'
    blocks = []
    for start in range(0, len(condition), ROWS):
        rows = slice(start, start + ROWS)
        share = _softmax(by_context[context[rows]] + by_batch[batch[rows]] + with_controls[condition[rows]])
        rate = rng.standard_gamma(1.0 / dispersion, share.shape) * (dispersion * size[rows, None] * share)
        blocks.append(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))

    control = condition < 0
    obs = pd.DataFrame(
        {
            "perturbation": np.where(control, CONTROL, labels["perturbation"].to_numpy()[condition]),
            "modality": modality,
            "context": np.array(context_names)[context],
            "batch": np.array(batch_names)[batch],
            "dose": np.where(control, "0", labels["dose"].to_numpy()[condition]),
        },
        index=pd.Index([f"cell{i + 1:06d}" for i in range(len(condition))]),
    ).astype("category")
    obs["is_control"] = control
    spread = activations.std()
    features = activations + feature_noise * spread * rng.normal(size=activations.shape)
    reference = np.log(_softmax(by_context))[in_context]
    true = np.log(_softmax(by_context[in_context] + effect_of)) - reference
    return ad.AnnData(
        sparse.vstack(blocks, format="csr"),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(names)),
        uns={
            "perturbation_features": {
                "programs": pd.DataFrame(
                    features, index=pd.Index(names[targets]), columns=[f"f{k}" for k in range(programs)]
                )
            },
            "simulation": {"conditions": labels, "log_fold_change": true.astype(np.float32)},
        },
    )


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _check(given: dict[str, Any]) -> None:
    whole = ("contexts", "batches", "genes", "perturbations", "cells_per_condition", "controls_per_batch", "programs")
    for name in whole:
        if isinstance(given[name], bool) or not isinstance(given[name], int) or given[name] < 1:
            raise ContractError(f"simulate: {name} is {given[name]}, must be a whole number of at least 1")
    for name in ("library_size", "dispersion"):
        if given[name] <= 0:
            raise ContractError(f"simulate: {name} is {given[name]}, must be above 0")
    if given["perturbations"] > given["genes"]:
        raise ContractError(
            f"simulate: {given['perturbations']} perturbations of {given['genes']} genes; each has its own target gene"
        )
    possible = given["perturbations"] * (given["perturbations"] - 1) // 2
    if not 0 <= given["combinations"] <= possible:
        raise ContractError(f"simulate: combinations is {given['combinations']}, must be between 0 and {possible}")
    if not given["doses"] or min(given["doses"]) <= 0 or len(set(given["doses"])) < len(given["doses"]):
        raise ContractError(f"simulate: doses is {given['doses']}, must be different numbers above 0, at least one")
    if given["modality"] not in DIRECTION:
        raise ContractError(f"simulate: modality is {given['modality']}, must be one of {', '.join(DIRECTION)}")
    if not 0 <= given["interaction_share"] <= 1:
        raise ContractError(f"simulate: interaction_share is {given['interaction_share']}, must be between 0 and 1")


read = simulate
