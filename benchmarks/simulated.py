"""A simulated screen and a prediction of it, written as our artefacts and as cell-eval reads them.

Counts are gamma-Poisson, then log1p of counts per 10,000. Perturbations are named after the gene they knock down. The
prediction is a second draw of cells whose effects are shrunken and in part on the wrong genes.

truth.h5ad, train.h5ad (ten other perturbations) and prediction.h5ad are ours. real.h5ad and pred.h5ad are for
cell-eval: the first holds the test cells with the reference controls, the second the predicted cells with the input
controls, so that both programs subtract the same controls from the same cells. They are dense, as a prediction is;
real_sparse.h5ad and pred_sparse.h5ad are the same cells in CSR.
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from trueshift.contract import CONTROL, make_prediction, write_h5ad

CONTEXT, DOSE = "A", "1"
CONTROL_SHARE, FEWEST_CONTROLS = 0.1, 60
TRAINED = 10  # perturbations in train.h5ad
MEAN_COUNT, GENE_SPREAD, DISPERSION = 2.0, 1.1, 0.4  # so that about 60% of the entries are above 0
EFFECT, SHRINKAGE, MISSED = 0.5, 0.6, 0.2


def simulate(cells: int, genes: int, perturbations: int, seed: int) -> dict[str, ad.AnnData]:
    """All files by name. ``cells`` is what each side of a comparison has: test or predicted cells, a tenth controls."""
    rng = np.random.default_rng(seed)
    names = np.array([f"gene{i:05d}" for i in range(genes)])
    base = rng.normal(0, GENE_SPREAD, genes)
    effects = np.zeros((perturbations + TRAINED, genes))
    for i, share in enumerate(rng.uniform(0.02, 0.25, len(effects))):
        moved = rng.choice(genes, max(int(share * genes), 2), replace=False)
        effects[i, moved] = rng.normal(0, EFFECT, len(moved))
        effects[i, i] = -2
    missed = rng.random(effects.shape) < MISSED
    guessed = SHRINKAGE * np.where(missed, rng.permuted(effects, axis=1), effects)

    n_controls = max(int(cells * CONTROL_SHARE), FEWEST_CONTROLS)
    tested = np.sort(np.arange(cells - n_controls) % perturbations)
    trained = np.repeat(np.arange(perturbations, len(effects)), len(tested) // perturbations)
    test, predicted, train = (
        draw(rng, base + by[which]) for by, which in ((effects, tested), (guessed, tested), (effects, trained))
    )
    given, reference = (draw(rng, np.tile(base, (n_controls, 1))) for _ in range(2))

    def screen(*parts: tuple[np.ndarray, str, np.ndarray]) -> ad.AnnData:
        obs = pd.concat(
            [pd.DataFrame({"perturbation": label, "role": role}, index=range(len(x))) for x, role, label in parts]
        ).assign(context=CONTEXT, batch="b1", modality="CRISPRi")
        obs["is_control"] = obs["perturbation"] == CONTROL
        obs["dose"] = np.where(obs["is_control"], "0", DOSE)
        obs.index = pd.Index([f"cell{i:06d}" for i in range(len(obs))])
        matrix = sparse.vstack([sparse.csr_matrix(x) for x, _, _ in parts], format="csr")
        return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=pd.Index(names)))

    def control(x: np.ndarray) -> np.ndarray:
        return np.full(len(x), CONTROL, dtype=object)

    truth = screen(
        (test, "test", names[tested]),
        (given, "control_input", control(given)),
        (reference, "control_reference", control(reference)),
    )
    table = pd.DataFrame({"context": CONTEXT, "perturbation": names[:perturbations], "dose": DOSE})
    truth.uns["conditions"] = table.assign(modality="CRISPRi", n_cells=np.bincount(tested), n_seen=0)
    truth.uns["trueshift"] = {"schema_version": 1, "kind": "lognorm", "cluster": "perturbation"}
    files = {
        "truth": truth,
        "train": screen((train, "train", names[trained]), (given, "control_input", control(given))),
        "prediction": make_prediction(truth, predicted, tested),
    }
    for name, treated, untreated in (("real", test, reference), ("pred", predicted, given)):
        labels = np.concatenate([names[tested], control(untreated)])
        obs = pd.DataFrame({"perturbation": pd.Categorical(labels)}, index=[f"cell{i:06d}" for i in range(len(labels))])
        for suffix, form in (("", np.asarray), ("_sparse", sparse.csr_matrix)):
            matrix = form(np.concatenate([treated, untreated]))
            files[name + suffix] = ad.AnnData(matrix, obs=obs, var=truth.var)
    return files


def draw(rng: np.random.Generator, log_rate: np.ndarray) -> np.ndarray:
    """log1p of counts per 10,000 of one cell per row of ``log_rate``, float32, shape (N, G)."""
    n, genes = log_rate.shape
    result = np.empty((n, genes), dtype=np.float32)
    for start in range(0, n, 2000):  # bounds the memory
        rate = np.exp(log_rate[start : start + 2000])
        rate *= MEAN_COUNT * genes / rate.sum(axis=1, keepdims=True) * rng.lognormal(0, 0.3, (len(rate), 1))
        counts = rng.poisson(rate * rng.gamma(1 / DISPERSION, DISPERSION, rate.shape))
        result[start : start + 2000] = np.log1p(counts * (1e4 / counts.sum(axis=1, keepdims=True)))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cells", "genes", "perturbations", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    files = simulate(args.cells, args.genes, args.perturbations, args.seed)
    for name, data in files.items():
        write_h5ad(data, args.out / f"{name}.h5ad")
    truth = files["truth"]
    above = truth.X.nnz / np.prod(truth.shape)
    print(f"{truth.n_obs} cells × {truth.n_vars} genes × {args.perturbations} perturbations, {above:.0%} of X above 0")


if __name__ == "__main__":
    main()
