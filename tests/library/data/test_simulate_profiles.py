"""The simulated drug screen: its structures are molecules, its effects are what it says."""

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from trueshift.contract import ContractError
from trueshift.data.loading import load
from trueshift.data.sources.simulate_profiles import CORES, SUBSTITUENTS, simulate_profiles


def test_every_drug_is_a_molecule_and_a_core_is_its_scaffold() -> None:
    molecules = {
        (c, s): Chem.MolFromSmiles(core.format(sub))
        for c, core in enumerate(CORES)
        for s, sub in enumerate(SUBSTITUENTS)
    }
    assert all(molecule is not None for molecule in molecules.values())
    assert len({Chem.MolToSmiles(molecule) for molecule in molecules.values()}) == len(CORES) * len(SUBSTITUENTS)
    scaffolds = {key: MurckoScaffold.MurckoScaffoldSmiles(mol=molecule) for key, molecule in molecules.items()}
    assert len(set(scaffolds.values())) == len(CORES)
    assert all(scaffolds[c, s] == scaffolds[c, 0] for c, s in scaffolds)


def test_profiles_follow_the_equation() -> None:
    data = simulate_profiles(lines=2, cores=2, substituents=2, doses=(1.0, 10.0), noise=0.0, plate_spread=0.3, genes=40)
    obs = data.obs
    treated = obs[~obs["is_control"]]
    assert (obs.loc[treated["control_id"], "batch"].to_numpy() == treated["batch"].to_numpy()).all()
    delta = data[treated.index].X - data[treated["control_id"]].X
    known = data.uns["simulation"]
    effect = known["effects"][pd.Index(known["drugs"]["name"]).get_indexer(treated["perturbation"])]
    sensitivity = treated["context"].map({"line1": 0.7, "line2": 1.3}).to_numpy()[:, None]
    highest = (treated["dose"] == "10").to_numpy()
    np.testing.assert_allclose(delta[highest], (sensitivity * effect)[highest], atol=2e-5)
    shrunk = delta[~highest] / (sensitivity * effect)[~highest]
    assert np.ptp(shrunk, axis=1).max() < 0.05, "a lower dose moves all genes by one factor"
    assert (shrunk > 0).all() and (shrunk < 1).all()
    parts = known["drugs"].assign(row=range(4)).pivot(index="core", columns="substituent", values="row").to_numpy()
    e = known["effects"]
    np.testing.assert_allclose(e[parts[0, 0]] - e[parts[0, 1]], e[parts[1, 0]] - e[parts[1, 1]], atol=1e-5)


def test_the_same_seed_gives_the_same_screen_in_canonical_form() -> None:
    settings = {
        "kind": "profile",
        "source": {"format": "simulate_profiles", "lines": 2, "genes": 30},
        "features": {"bits": "morgan"},
    }
    one, again = (load("set", settings, ".", log=lambda _: None) for _ in range(2))
    assert np.array_equal(
        one.X if isinstance(one.X, np.ndarray) else one.X.toarray(),
        again.X if isinstance(again.X, np.ndarray) else again.X.toarray(),
    )
    assert one.uns["trueshift"]["provenance"] == again.uns["trueshift"]["provenance"]
    assert set(one.uns["structures"].index) == set(one.obs["perturbation"]) - {"control"}
    assert one.uns["perturbation_features"]["bits"].shape == (40, 2048)
    assert one.obs["control_id"][one.obs["is_control"]].eq("").all()


@pytest.mark.parametrize("wrong", [{"cores": 11}, {"substituents": 0}, {"doses": []}, {"doses": [0.0]}, {"plates": 0}])
def test_parameters_out_of_range_are_named(wrong: dict) -> None:
    with pytest.raises(ContractError, match=next(iter(wrong)).rstrip("s")):
        simulate_profiles(**wrong)
