"""A tiny screen in the form that models meet it: train.h5ad, one query.h5ad for every ability, and pairs.

What is left out of training: everything perturbed in context ``hidden``; perturbation G3 in context ``partial``; G5
everywhere; the combination G0+G1; every dose but 1. All perturbations share a strong effect; each adds its own, linear
in its features. Of kind profile rows are bulk profiles, each perturbed one with its own control, and perturbations have
structures (SMILES).
"""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift.contract import CONDITION, SCHEMA_VERSION, Pairs

CONTEXTS = ("full", "partial", "hidden")
BATCHES = ("b0", "b1")
SINGLES = [f"G{i}" for i in range(6)]
COMBINATIONS = ["G0+G1", "G1+G2", "G2+G3"]
N_GENES, N_CELLS = 30, 16  # cells of each context × perturbation × batch
QUESTIONS = {
    "seen": [("full", "G0"), ("full", "G1+G2"), ("partial", "G1")],
    "partial_context": [("partial", "G3")],
    "new_context": [("hidden", "G0"), ("hidden", "G2")],
    "new_perturbation": [("full", "G5"), ("partial", "G5")],
    "new_combination": [("full", "G0+G1"), ("partial", "G0+G1")],
    "new_dose": [("full", "G0", "2"), ("partial", "G1", "2")],
}
SMILES = ("CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "CC(C)Cc1ccc(cc1)C(C)C(=O)O")
SMILES += ("CC(=O)Nc1ccc(O)cc1", "c1ccc2[nH]ccc2c1", "CN(C)CCc1c[nH]c2ccccc12")


def _trained(context: str, perturbation: str) -> bool:
    left_out = [pair for ability, pairs in QUESTIONS.items() if ability not in ("seen", "new_dose") for pair in pairs]
    return context != "hidden" and perturbation not in ("G5", "G0+G1") and (context, perturbation) not in left_out


class Screen:
    """``train``, ``query(conditions)`` and ``pairs(set_size)`` of one kind of data."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        rng = np.random.default_rng(7)
        self.features = pd.DataFrame(rng.uniform(0.2, 1, (len(SINGLES), 4)), SINGLES, [f"f{i}" for i in range(4)])
        base = rng.uniform(0.5, 2, N_GENES) + 0.3 * rng.normal(size=(len(CONTEXTS), N_GENES))
        shared = np.where(np.arange(N_GENES) % 3 == 0, 1.2, 0.0)
        own = 0.4 * rng.normal(size=(4, N_GENES))
        blocks, rows = [], []
        for c, context in enumerate(CONTEXTS):
            for perturbation in ["control", *SINGLES, *COMBINATIONS]:
                if perturbation != "control" and not _trained(context, perturbation):
                    continue
                parts = [] if perturbation == "control" else perturbation.split("+")
                mean = base[c] + (shared + sum(self.features.loc[p].to_numpy() for p in parts) @ own if parts else 0)
                for batch in BATCHES:
                    log_depth = rng.normal(0, 0.1, (N_CELLS, 1))
                    if kind == "profile":
                        blocks.append(mean + 4 + 0.2 * rng.normal(size=(N_CELLS, N_GENES)))
                    else:
                        blocks.append(rng.poisson(np.exp(np.clip(mean, 0, None) + log_depth)))
                    rows += [(context, perturbation, batch, "+".join("1" for _ in parts) or "0")] * N_CELLS
        counts = np.concatenate(blocks).astype(np.float32)
        obs = pd.DataFrame(rows, columns=["context", "perturbation", "batch", "dose"])
        order = rng.permutation(len(obs))
        obs, counts = obs.iloc[order].reset_index(drop=True), counts[order]
        obs.index = pd.Index([f"cell{i}" for i in range(len(obs))])
        obs["modality"] = "CRISPRi"
        obs["is_control"] = obs["perturbation"] == "control"
        validation = ~obs["is_control"] & (np.arange(len(obs)) % 8 == 0)
        obs["role"] = np.where(obs["is_control"], "control_input", np.where(validation, "val", "train"))
        obs = obs.astype({column: "category" for column in obs.columns if column != "is_control"})
        log1p = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 200).astype(np.float32)
        normalised = counts if kind == "profile" else log1p
        if kind == "profile":
            obs["control_id"] = ""
            for _, group in obs.groupby(["context", "batch"], observed=True):
                treated = group.index[~group["is_control"]]
                obs.loc[treated, "control_id"] = rng.choice(group.index[group["is_control"]], len(treated))
        genes = [*SINGLES, *(f"H{i}" for i in range(N_GENES - len(SINGLES)))]
        self.train = ad.AnnData(
            normalised if kind == "profile" else sparse.csr_matrix(normalised),
            obs=obs,
            var=pd.DataFrame(index=pd.Index(genes)),
            layers={"counts": sparse.csr_matrix(counts)} if kind == "counts" else {},
            uns={
                "trueshift": {"schema_version": SCHEMA_VERSION, "kind": kind, "dataset": "screen"},
                "perturbation_features": {"programs": self.features},
            },
        )
        if kind == "profile":
            structures = {"smiles": list(SMILES), "scaffold": [f"scaffold{i % 3}" for i in range(len(SMILES))]}
            self.train.uns["structures"] = pd.DataFrame(structures, index=pd.Index(SINGLES))

    def query(self, conditions: list[tuple[str, ...]]) -> ad.AnnData:
        """The input controls of the contexts asked, and the conditions in the order given."""
        seen = {p for label in self.train.obs["perturbation"].unique() for p in label.split("+")}
        rows = [(c, p, *(dose or ["+".join("1" for _ in p.split("+"))])) for c, p, *dose in conditions]
        table = pd.DataFrame(rows, columns=CONDITION)
        table["modality"] = "CRISPRi"
        table["n_cells"] = 12
        table["n_seen"] = [sum(part in seen for part in p.split("+")) for p in table["perturbation"]]
        wanted = self.train.obs["is_control"] & self.train.obs["context"].isin(table["context"])
        query = self.train[wanted.to_numpy()].copy()
        if self.kind == "profile":  # paired with two controls of the context
            controls = {name: group.index[:2] for name, group in query.obs.groupby("context", observed=True)}
            table["control_id"] = ["\t".join(controls[name]) for name in table["context"]]
        query.uns["conditions"] = table
        return query

    def delta(self, query: ad.AnnData) -> np.ndarray:
        """The observed mean effects of trained conditions, shape (C, G)."""
        obs, values = self.train.obs, ad.AnnData(self.train.X).to_df().to_numpy(np.float64)
        rows = []
        for context, perturbation, _ in query.uns["conditions"][CONDITION].itertuples(index=False):
            here = (obs["context"] == context).to_numpy()
            treated = values[here & (obs["perturbation"] == perturbation).to_numpy()].mean(axis=0)
            rows.append(treated - values[here & obs["is_control"].to_numpy()].mean(axis=0))
        return np.stack(rows)

    def pairs(self, size: int) -> Pairs:
        """Sets of ``size`` cells of one context, perturbation and batch, with controls of the same."""
        rng = np.random.default_rng(8)
        obs = self.train.obs.astype(dict.fromkeys(("context", "perturbation", "batch", "role"), str)).reset_index()
        keys = ["context", "perturbation", "batch", "role"]
        found: dict[str, list] = {name: [] for name in ("perturbed", "control", *keys)}
        for labels, group in obs[~obs["is_control"]].groupby(keys):
            same = obs["is_control"] & (obs["context"] == labels[0]) & (obs["batch"] == labels[2])
            rows = rng.permutation(group.index.to_numpy())
            rows = np.concatenate([rows, rng.choice(rows, -len(rows) % size)])
            for chunk in rows.reshape(-1, size):
                found["perturbed"].append(chunk)
                found["control"].append(rng.choice(np.flatnonzero(same), size))
                for key, label in zip(keys, labels, strict=True):
                    found[key].append(label)
        arrays = {name: np.array(value) for name, value in found.items()}
        for name in ("perturbed", "control"):
            arrays[name] = arrays[name].astype(np.int32)
        return Pairs(**arrays, control_scope=np.full(len(arrays["role"]), "batch"))
