"""Source ``simulate_profiles``: bulk profiles of a drug screen whose true effects are known and follow structures.

A drug is a core ring system with one substituent, so it has a real SMILES, and its effect is the sum of what the two
do. With genes g, lines c, plates b of a line, drugs d = (core, substituent):

* a control profile      x = level[g] + line[c, g] + plate[b, g] + noise           in log2 intensities, 4 to 14
* a treated profile      x + sensitivity[c] · h(dose) · (shared[g] + core[g] + substituent[g])
* dose response          h(d) = d / (d + half), scaled so that the highest dose has h = 1

Every treated profile is paired with a control of its own plate, as LINCS L1000 profiles are (Subramanian et al. 2017,
Cell 171:1437). A model that reads structures can learn the parts of an unseen drug from others; an unseen core it
cannot, which is what a split by scaffold asks. An entry::

    kind: profile
    source: {format: simulate_profiles, lines: 3, cores: 5, genes: 100, seed: 1}
    features: {morgan: morgan}
"""

from collections.abc import Sequence

import anndata as ad
import numpy as np
import pandas as pd

from trueshift.contract import CONTROL, ContractError

FILES = ()
COLUMNS = {
    "perturbation": {"from": "perturbation", "control": "control"},
    "context": "context",
    "batch": "batch",
    "dose": "dose",
    "modality": "modality",
    "control_id": "control_id",
    "smiles": "smiles",
}
# Ring systems with one open place, and what can stand there.
CORES = (
    "c1ccc({})cc1",
    "c1cc({})ccn1",
    "c1ccc2[nH]c({})cc2c1",
    "c1ccc2nc({})ccc2c1",
    "O=C1CCC({})CC1",
    "c1cc({})cs1",
    "C1CN({})CCO1",
    "c1ccc2c(c1)Cc1cc({})ccc1-2",
    "O=c1cc({})oc2ccccc12",
    "c1nc({})c2[nH]cnc2n1",
)
SUBSTITUENTS = ("C", "CC(C)C", "OC", "C(=O)O", "C(F)(F)F", "CCN(C)C", "C#N", "S(C)(=O)=O")


def simulate_profiles(
    *,
    lines: int = 4,
    cores: int = 8,
    substituents: int = 5,
    doses: Sequence[float] = (0.1, 1.0, 10.0),
    plates: int = 2,
    replicates: int = 1,
    controls_per_plate: int = 12,
    genes: int = 300,
    effect: float = 0.5,
    shared: float = 0.5,
    plate_spread: float = 0.15,
    noise: float = 0.15,
    seed: int = 0,
) -> ad.AnnData:
    """Simulates every drug at every dose in every line, ``replicates`` times, spread over the plates of the line.

    - ``lines``: Number of cell lines.
    - ``cores``: Number of ring systems, 10 at most.
    - ``substituents``: Number of substituents, 8 at most; a drug is one of them on one ring system.
    - ``doses``: The doses of every drug.
    - ``plates``: Number of plates in each line.
    - ``replicates``: Profiles of each line × drug × dose.
    - ``controls_per_plate``: Control profiles of each plate.
    - ``genes``: Number of genes.
    - ``effect``: Standard deviation over genes of what a ring system or a substituent does, in log2 units.
    - ``shared``: Standard deviation over genes of what all drugs do, in log2 units.
    - ``plate_spread``: Standard deviation of plates, in log2 units.
    - ``noise``: Standard deviation of single profiles, in log2 units.
    - ``seed``: Seed of the simulation.

    Returns profiles (float32, (profiles, genes)); obs: perturbation, smiles, modality, context, batch, dose, is_control
    and ``control_id``; ``uns["simulation"]``: ``drugs`` (name, smiles, core, substituent) and ``effects``, float32
    (drugs, genes), at the highest dose in a line of sensitivity 1.

    Raises :class:`ContractError` if a parameter is out of range.
    """
    for name, value, most in (("cores", cores, len(CORES)), ("substituents", substituents, len(SUBSTITUENTS))):
        if not 1 <= value <= most:
            raise ContractError(f"simulate_profiles: {name} is {value}, must be from 1 to {most}")
    positive = {"lines": lines, "plates": plates, "replicates": replicates, "genes": genes}
    for name, value in {**positive, "controls_per_plate": controls_per_plate, "doses": len(doses)}.items():
        if value < 1:
            raise ContractError(f"simulate_profiles: {name} is {value}, must be at least 1")
    if min(doses) <= 0:
        raise ContractError(f"simulate_profiles: dose {min(doses):g} is not above 0")
    rng = np.random.default_rng([seed, 0xB1])
    level = rng.uniform(5, 12, genes)
    line = level + rng.normal(0, 0.7, (lines, genes))
    plate = line[:, None] + rng.normal(0, plate_spread, (lines, plates, genes))
    sensitivity = np.linspace(0.7, 1.3, lines) if lines > 1 else np.ones(1)
    sparse = rng.random((2, max(cores, substituents), genes)) < 0.3  # most genes do not answer to a part
    parts = effect * rng.normal(size=sparse.shape) * sparse / np.sqrt(0.3)
    common = shared * rng.normal(size=genes)

    drugs = pd.DataFrame([(c, s) for c in range(cores) for s in range(substituents)], columns=["core", "substituent"])
    drugs.insert(0, "smiles", [CORES[c].format(SUBSTITUENTS[s]) for c, s in drugs.itertuples(index=False)])
    drugs.insert(0, "name", [f"drug{i + 1:02d}" for i in range(len(drugs))])
    effects = common + parts[0, drugs["core"]] + parts[1, drugs["substituent"]]
    half = float(np.median(doses)) * rng.lognormal(0, 0.3, len(drugs))

    n_controls = lines * plates * controls_per_plate
    controls = pd.DataFrame({"line": np.repeat(np.arange(lines), plates * controls_per_plate)})
    controls["plate"] = np.tile(np.repeat(np.arange(plates), controls_per_plate), lines)
    treated = pd.MultiIndex.from_product(
        [range(lines), range(len(drugs)), sorted(doses), range(replicates)], names=["line", "drug", "dose", "replicate"]
    ).to_frame(index=False)
    treated["plate"] = rng.permuted(np.arange(len(treated)) % plates)
    table = pd.concat([treated, controls], ignore_index=True)
    is_control = table["drug"].isna().to_numpy()
    drug = table["drug"].fillna(0).astype(int).to_numpy()
    amount = table["dose"].fillna(0).to_numpy(float)
    response = np.where(is_control, 0, amount / (amount + half[drug]) * (max(doses) + half[drug]) / max(doses))
    values = plate[table["line"], table["plate"]] + rng.normal(0, noise, (len(table), genes))
    values += (sensitivity[table["line"]] * response)[:, None] * effects[drug]

    names = np.array([f"profile{i + 1:05d}" for i in range(len(table))])
    own = (table["line"] * plates + table["plate"]) * controls_per_plate + rng.integers(
        controls_per_plate, size=len(table)
    )
    obs = pd.DataFrame(
        {
            "perturbation": np.where(is_control, CONTROL, drugs["name"].to_numpy()[drug]),
            "smiles": np.where(is_control, "", drugs["smiles"].to_numpy()[drug]),
            "modality": "drug",
            "context": "line" + (table["line"] + 1).astype(str),
            "batch": "line" + (table["line"] + 1).astype(str) + "_plate" + (table["plate"] + 1).astype(str),
            "dose": [f"{value:g}" for value in amount],
            "is_control": is_control,
            "control_id": np.where(is_control, "", names[len(table) - n_controls + own]),
        }
    )
    obs.index = pd.Index(names)
    return ad.AnnData(
        np.clip(values, 0, None).astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=pd.Index([f"GENE{i + 1:04d}" for i in range(genes)])),
        uns={"simulation": {"drugs": drugs, "effects": effects.astype(np.float32)}},
    )


read = simulate_profiles
