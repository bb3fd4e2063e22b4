"""Features computed from structures, tables keyed by SMILES, pickled embeddings; what is covered, and never zeros."""

import base64
import os
import pickle
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import AllChem, Crippen, Descriptors
from test_pickled import HOSTILE, Call
from test_structures import screen

from trueshift.contract import ContractError
from trueshift.data.features.structures import descriptors, make_structures, morgan
from trueshift.data.features.tables import coverage, load_features
from trueshift.data.pickles.vectors import read_vectors

DRUGS = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "metformin": "CN(C)C(=N)NC(N)=N",
    "diazepam": "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "L-thyroxine": "N[C@@H](Cc1cc(I)c(Oc2cc(I)c(O)c(I)c2)c(I)c1)C(=O)O",
    "D-thyroxine": "N[C@H](Cc1cc(I)c(Oc2cc(I)c(O)c(I)c2)c(I)c1)C(=O)O",
    "paclitaxel": (
        "CC1=C2[C@H](C(=O)[C@@]3([C@H](C[C@@H]4[C@]([C@H]3[C@@H]([C@@](C2(C)C)(C[C@@H]1OC(=O)[C@@H]([C@H]"
        "(c5ccccc5)NC(=O)c6ccccc6)O)O)OC(=O)c7ccccc7)(CO4)OC(=O)C)O)C)OC(=O)C"
    ),
}
ELSEWHERE = {"aspirin": "OC(=O)C1=CC=CC=C1OC(C)=O", "caffeine": "CN1C=NC2=C1C(=O)N(C(=O)N2C)C"}  # as others write them
# {"CCO": [1.5, -2, .25], "c1ccccc1": [.25, .75, 1.25] (a part of a larger one), "N": [1, 2, 3] (float64)} as tensors
# of torch 2.13, pickled (protocol 4) and written by torch.save; zlib, base 85
TENSORS = {
    "pickled": (
        "c-qyHziZn-6vt0LQU}LrP3e*?qe_agWYun#SR^5fXnu9k5)NCsMk-gG?{o?zV9;V{gSK3^4jubv^iS#9t!tq}o~)#4LJD2;h4)T+_vP;1hgX"
        "=NUYKaEsj^CAYim!HEy+X}cW^EfnyK<B7G#_!G{Tak858)#Q5Rrdu5B4Cqhq4VHl}P8;kSal$Kz8;GH`7+G=vKMyh(q5-uboq?(6<ar_f*jF"
        "d$DkvVu0;JP}N?kWqX>M3%6WYhVbLVTUGCQi4euC8Lz<AA%+n<>`drEIA_?H>TXQf(0mMF%yz6_<CT#Uy@4x$Tx$kHOkUs-tf&lhdZsHQJL!"
        "}a}>^7Xzswn<(s<L<XZ3;JnL?+`)c5H*X@BjaCm)gILW!;8@rO52XNXENB4QPQO7{n`ZlZ*K-f?-b*Oyg8#Co=Gxf1tf}SY}CA18fm-a+N1c"
        "|njPy)H<hf0FKTnz27lC5IXiW{424;pB{=en+A5Bj%&w(bRb;{~8C^tXx)NC4J@C?LKJYtY{-*d9V{h*gNLS3}q4&~<<wKe-00?OqXm_7I3}"
        "vwTd+KajrcId;GMA2WL6y)~nieh#lbyn0#m?#}BUbb03zchD(n"
    ),
    "saved": (
        "c-p0v&ui0Q7{}ixTia!w&i$y}oFb@DQM)ATPt>(!BbR{dDnk7MrAy-y%$mLF+o=PgpcQuZrXU{0f57X|o40xJ<U#S`P6~o&-#5v+BwaV1FT8"
        "n4c)ri`dEe)G-V`Oe4}fqObd3mzf^}_mx>iNi#Ogg=6h^?UuF;|%K@cy~STHxY00S~IOj%7-nn=?dOvO}|nwnm#Af?_g%*q<iKq?+Dhp>4AT"
        "UM79NZS%d)Qu{-ZhvH8UpatnSlDm5mRFlFDA5Rp79}9jZ5WmUZ8)$Y%Z9EiGSZBCgIO?ZimBA*H5oCGIbVW<2u4b9s7y8|b21qmJfdO%l~(N"
        "l96YK9r3iw<i&B6%J|<CZII^J<{V0NCB{*&wUV~9v=+Mp^%_Uvw;2yV(co<VH%n1i`l3<>&y-gu_vII{x6GbT$e)8_-(-|xwv)D5Qqc{m91&"
        "O<cxl%=yHN|Y;t%^dplL?M^d;8<_V-lat-rl0%vhB?|`ASvSmg_4@9f?9_kJSFvNGAzE{yyBMa0qH&fFUqv0W3X4ib0Yk3i-pv-5I)ukggDh"
        "_SJ6_K^!HxF9QRFPE}8{qA>fP003;}vD-}mTC;@W_nYyr5vzOlr?|39!HGf^96ml7ty%oQ90fdEc)rTpTwe%V0f1pVPvglJ2;=MRUmsY~T?a"
        "76b{Tn57z4fI|I9n0g1v;TIA_0~yB))Cv3=tVf@v#Gr?@Zt%VEqgB+}N)<r@dr-y}%e4Pb4lp_m%(fb}Z5Jt|sF6!=4Afz2j!$!s>8%;eH3H"
        "kr-Lq*yMM%yFqqCY8&ics8A5Ii4q!Q_tT&i(`(sMH!&1lX5uS7eb_q+<g!GmG0&r^{B|_J+2SG19$UAJr1^Z9CY0nejo1U8}j%lQNY{ueyO`"
        "-7?1Q51zf%A*SV|MtGh$Hbev!3u1c>C^tp7rU+1o|L61yzbUn`3o%TtO@S`K#yC92FFnH0iJVjsXs0MuN8OmNC^xG@ek^d`r5whRyze0b|)("
        "lwow(TD(NTy5"
    ),
}


def structures(drugs: dict[str, str] = DRUGS) -> pd.DataFrame:
    return make_structures({name: {smiles} for name, smiles in drugs.items()}, list(drugs), "toy", lambda _: None)


def features(wanted: dict[str, Any], folder: Any = ".", said: list[str] | None = None, **given: Any) -> pd.DataFrame:
    """The one table of ``wanted``, for the drugs and one perturbation without structure."""
    log = (said if said is not None else []).append
    given = {"structures": structures(), **given}
    return load_features(wanted, {}, [*DRUGS, "no drug"], folder, log, **given)["f"]


# --- fingerprints and descriptors ---------------------------------------------------------------------


def test_fingerprints_are_the_bits_of_rdkit() -> None:
    table = features({"f": "morgan"})
    assert table.shape == (len(DRUGS), 2048) and set(np.unique(table)) == {0, 1}
    assert (table.dtypes == np.float32).all()
    for name, smiles in DRUGS.items():
        vector = AllChem.GetMorganFingerprintAsBitVect(Chem.MolFromSmiles(smiles), 2, nBits=2048)
        assert np.flatnonzero(table.loc[name]).tolist() == list(vector.GetOnBits())


def test_tanimoto_of_the_table_is_that_of_bit_vectors() -> None:
    table = features({"f": "morgan"}).loc[list(DRUGS)].to_numpy()
    shared = table @ table.T
    ours = shared / (np.diag(shared)[:, None] + np.diag(shared) - shared)
    vectors = [AllChem.GetMorganFingerprintAsBitVect(Chem.MolFromSmiles(x), 2, nBits=2048) for x in DRUGS.values()]
    theirs = [DataStructs.BulkTanimotoSimilarity(vector, vectors) for vector in vectors]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    left, right = list(DRUGS).index("L-thyroxine"), list(DRUGS).index("D-thyroxine")
    assert ours[left, right] == 1, "stereoisomers have one fingerprint"
    assert np.sort(ours[0])[-2] < 0.6


def test_descriptors_are_those_of_rdkit_standardised() -> None:
    table = descriptors(structures(), lambda _: None)
    molecules = {name: Chem.MolFromSmiles(smiles) for name, smiles in DRUGS.items()}
    direct = {"MolWt": Descriptors.MolWt, "MolLogP": Crippen.MolLogP, "TPSA": Descriptors.TPSA}
    for name, of in direct.items():
        values = np.array([of(molecules[drug]) for drug in table.index])
        np.testing.assert_allclose(table[name], (values - values.mean()) / values.std(), atol=1e-9)
    values = np.log1p([Descriptors.Ipc(molecules[drug]) for drug in table.index])
    np.testing.assert_allclose(table["Ipc"], (values - values.mean()) / values.std(), atol=1e-9)
    assert np.abs(table.to_numpy()).max() <= 5
    np.testing.assert_array_equal(features({"f": "descriptors"}), table.astype(np.float32))


def test_descriptors_that_tell_nothing_are_left_out() -> None:
    metal = {**DRUGS, "cisplatin": "[NH3][Pt](Cl)(Cl)[NH3]"}
    undefined = {
        name for name, value in Descriptors.CalcMolDescriptors(Chem.MolFromSmiles(metal["cisplatin"])).items()
        if value is None or not np.isfinite(value)
    }  # fmt: skip
    assert undefined
    said: list[str] = []
    without, having = descriptors(structures(), len), descriptors(structures(metal), said.append)
    assert undefined & set(without.columns) and not undefined & set(having.columns)
    assert "NumRadicalElectrons" not in without, "the same for all of them"
    assert np.isfinite(having.to_numpy()).all()
    assert f" {len(undefined)} undefined for some drug" in said[0]


def test_an_outlier_is_clipped() -> None:
    drugs = {f"d{i}": "C" * (i % 3 + 1) for i in range(60)} | {"giant": "C" * 200}
    table = descriptors(structures(drugs), len)
    assert table.loc["giant", "MolWt"] == 5
    assert np.abs(table.drop(index="giant").to_numpy()).max() < 5


def test_descriptors_need_two_molecules() -> None:
    with pytest.raises(ContractError, match="descriptors: none differs between the 2 drugs"):
        descriptors(structures({"a": "CCO", "b": "OCC"}), len)


@pytest.mark.parametrize("entry", ["morgan", "descriptors", {"path": "f.csv", "key": "smiles"}])
def test_without_structures_they_cannot_be_made(tmp_path: Path, entry: Any) -> None:
    pd.DataFrame({"smiles": ["CCO"], "x": [1.0]}).to_csv(tmp_path / "f.csv", index=False)
    entry = {**entry, "path": str(tmp_path / "f.csv")} if isinstance(entry, dict) else entry
    with pytest.raises(ContractError, match=r"features: f.* needs the structures of drugs; .*columns: smiles"):
        features({"f": entry}, structures=None)


# --- tables keyed by SMILES ---------------------------------------------------------------------------


def written(folder: Path, table: dict[str, Any]) -> dict[str, str]:
    pd.DataFrame({"key": list(table), "x": list(table.values()), "y": 1.0}).to_csv(folder / "f.csv", index=False)
    return {"path": "{data}/f.csv", "key": "smiles"}


def test_ways_of_writing_one_molecule_join(tmp_path: Path) -> None:
    rows = {ELSEWHERE["aspirin"]: 1.0, ELSEWHERE["caffeine"]: 2.0, DRUGS["L-thyroxine"]: 3.0, "CCCC": 4.0}
    said: list[str] = []
    table = features({"f": written(tmp_path, rows)}, tmp_path, said)
    assert table["f0"].to_dict() == {"L-thyroxine": 3, "aspirin": 1, "caffeine": 2}, "not D-thyroxine, and no zeros"
    lacking = "D-thyroxine, diazepam, ibuprofen, metformin, no drug …"
    assert said == [f"features f: 2 for 3 of 9 single perturbations; not for {lacking}"]


def test_drugs_of_one_structure_share_a_row(tmp_path: Path) -> None:
    both = structures({"aspirin": DRUGS["aspirin"], "caffeine": ELSEWHERE["aspirin"], "metformin": "CO"})
    table = features({"f": written(tmp_path, {DRUGS["aspirin"]: 1.0})}, tmp_path, structures=both)
    assert table["f0"].to_dict() == {"aspirin": 1, "caffeine": 1}


def test_rows_of_one_molecule_must_be_alike(tmp_path: Path) -> None:
    alike = {DRUGS["aspirin"]: 1.0, ELSEWHERE["aspirin"]: 1.00001, "C1CC": 9.0}
    said: list[str] = []
    assert features({"f": written(tmp_path, alike)}, tmp_path, said)["f0"].to_dict() == {"aspirin": 1}
    assert said[0] == "features: f: f.csv: 1 of 3 SMILES cannot be read"
    with pytest.raises(ContractError, match=r"f\.csv: CC\(=O\)Oc.* and OC\(=O\)C1.* are one molecule with different"):
        features({"f": written(tmp_path, {**alike, ELSEWHERE["aspirin"]: 1.1})}, tmp_path)


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ({"CCO": 1.0}, {}, r"f\.csv: no perturbation has a row; rows are such as CCO, structures N\["),
        ({DRUGS["aspirin"]: "x"}, {}, "column 'x' is not numeric"),
        ({DRUGS["aspirin"]: np.nan}, {}, "features of aspirin are NaN or infinite"),
        ({DRUGS["aspirin"]: 1.0}, {"key": "smile"}, r"key is smile; did you mean 'smiles'\? There are: name, smiles"),
        ({DRUGS["aspirin"]: 1.0}, {"keys": "smiles"}, "unknown setting 'keys'"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, rows: dict[str, Any], more: dict[str, str], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        features({"f": {**written(tmp_path, rows), **more}}, tmp_path)


def test_a_name_with_a_plus_is_found_by_name(tmp_path: Path) -> None:
    pd.DataFrame({"name": ["(+)-x"], "x": [1.0]}).to_csv(tmp_path / "f.csv", index=False)
    table = load_features({"f": "{data}/f.csv"}, {}, ["(plus)-x"], tmp_path, len)["f"]
    assert table.index.tolist() == ["(plus)-x"]


# --- pickled embeddings -------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("ending", ["pkl", "pickle"])
def test_embeddings_by_smiles(tmp_path: Path, protocol: int, ending: str) -> None:
    vectors = {ELSEWHERE["aspirin"]: np.arange(4.0), DRUGS["metformin"]: np.ones(4, "f4"), "CCCC": np.zeros(4)}
    (tmp_path / f"kpgt.{ending}").write_bytes(pickle.dumps(vectors, protocol))
    table = features({"f": {"path": f"{{data}}/kpgt.{ending}", "key": "smiles"}}, tmp_path)
    assert table.T.to_dict("list") == {"aspirin": [0, 1, 2, 3], "metformin": [1, 1, 1, 1]}


@pytest.mark.parametrize("way", TENSORS)
def test_embeddings_that_are_tensors(tmp_path: Path, way: str) -> None:
    (tmp_path / "kpgt.pickle").write_bytes(zlib.decompress(base64.b85decode(TENSORS[way])))
    vectors = {name: values.tolist() for name, values in read_vectors(tmp_path / "kpgt.pickle").items()}
    assert vectors == {"CCO": [1.5, -2, 0.25], "c1ccccc1": [0.25, 0.75, 1.25], "N": [1, 2, 3]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([np.ones(3)], "cannot be read as a dict of vectors: it holds 'list'"),
        ({}, "it holds 'dict', or nothing"),
        ({"C": np.ones(3), "N": np.ones(4)}, "vectors of different lengths, 3 that of 'C' and 4 that of 'N'"),
        ({"C": np.ones((1, 3))}, r"an array of shape \(1, 3\), that of 'C'"),
        ({"C": [1.0, 2.0]}, "a value of kind 'list', that of 'C'"),
        ({7: np.ones(3)}, "a key that is not text, '7'"),
        ({"C": np.array(["x", None], dtype=object)}, "a vector that is not of numbers, that of 'C'"),
        (pd.Series({"C": 1.0}), "the pickle names 'pandas.*, which a dict of vectors does not need"),
        (OrderedDict(C=np.ones(3)), "it holds 'OrderedDict'"),
        (dict.fromkeys((f"C{i}" for i in range(99)), np.ones(3000)), "vectors that share their values"),
    ],
)
def test_pickles_of_something_else(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "f.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ContractError, match=rf"f\.pkl: .*({message})"):
        read_vectors(tmp_path / "f.pkl")


def test_a_damaged_file_is_named_wherever_it_ends(tmp_path: Path) -> None:
    for content in (pickle.dumps({"C": np.ones(30)}), zlib.decompress(base64.b85decode(TENSORS["pickled"]))):
        for length in range(0, len(content), 13):
            (tmp_path / "f.pkl").write_bytes(content[:length])
            with pytest.raises(ContractError, match=r"f\.pkl: cannot be read as a dict of vectors"):
                read_vectors(tmp_path / "f.pkl")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, hostile: str) -> None:
    trace = tmp_path / "pwned"
    for protocol in (0, 2, 5):
        for content in (HOSTILE[hostile](trace), {"C": np.ones(2), "N": HOSTILE[hostile](trace)}):
            (tmp_path / "f.pkl").write_bytes(pickle.dumps(content, protocol))
            with pytest.raises(ContractError, match=r"f\.pkl: the pickle names '.*nothing of it was run"):
                features({"f": "{data}/f.pkl"}, tmp_path)
        assert not trace.exists()
    pickle.loads((tmp_path / "f.pkl").read_bytes())  # noqa: S301 - shows that it would have
    assert trace.exists()


def tensor(storage: bytes, offset: int = 0, size: int = 3) -> bytes:
    """The pickle of ``{"N": tensor}`` with these bytes for a storage, as torch writes it."""
    numbers = b"ctorch.storage\n_load_from_bytes\nB" + len(storage).to_bytes(4, "little") + storage + b"\x85R"
    shape = bytes([ord("K"), offset, ord("K"), size, 0x85, ord("K"), 1, 0x85])
    return b"\x80\x04}\x8c\x01Nctorch._utils\n_rebuild_tensor_v2\n(" + numbers + shape + b"\x89}tRs."


def test_nor_does_one_hidden_in_the_numbers_of_a_tensor(tmp_path: Path) -> None:
    trace = tmp_path / "pwned"
    hidden = pickle.dumps(Call(os.system, f"touch '{trace}'"), 2)
    (tmp_path / "f.pkl").write_bytes(tensor(hidden))
    with pytest.raises(ContractError, match=r"f\.pkl: the pickle names 'posix\.system'.*nothing of it was run"):
        read_vectors(tmp_path / "f.pkl")
    assert not trace.exists()


@pytest.mark.parametrize(("offset", "size"), [(0, 3), (1, 2), (1, 3), (200, 1)])
def test_a_tensor_stays_within_its_storage(tmp_path: Path, offset: int, size: int) -> None:
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    reference = b"\x80\x02(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x03NtQ."
    storage = b"".join([*head, reference, pickle.dumps(["0"], 2), (3).to_bytes(8, "little")])
    storage += np.array([5, 6, 7], "<f4").tobytes()
    (tmp_path / "f.pkl").write_bytes(tensor(storage, offset, size))
    if offset + size <= 3:
        assert read_vectors(tmp_path / "f.pkl")["N"].tolist() == [5, 6, 7][offset : offset + size]
        return
    with pytest.raises(ContractError, match=r"f\.pkl: .* a tensor that reaches to value"):
        read_vectors(tmp_path / "f.pkl")


# --- through the one way in ---------------------------------------------------------------------------


def test_coverage_of_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "kpgt.pickle").write_bytes(pickle.dumps({"OCC": np.array([1.0, 2.0, 3.0])}))
    wanted = {"fingerprint": "morgan", "kpgt": {"path": "{data}/kpgt.pickle", "key": "smiles"}}
    obs = {"guide": ["NT", "NT", "A", "A", "B", "A+B", "C", "NT"]}
    data = screen([None, None, "CCO", "CCO", "CN", None, "C1CC", None], tmp_path, obs=obs, features=wanted)
    tables = data.uns["perturbation_features"]
    assert tables["fingerprint"].index.tolist() == ["A", "B"]
    assert tables["kpgt"].T.to_dict("list") == {"A": [1, 2, 3]}
    coverage(data).to_csv(tmp_path / "features.csv", index=False)
    assert (tmp_path / "features.csv").read_text().splitlines() == [
        "dataset,features,n_features,n_perturbations,n_covered,missing",
        "toy,structures,,3,2,C",
        "toy,fingerprint,2048,3,2,C",
        'toy,kpgt,3,3,1,"B, C"',
    ]


def test_coverage_without_features_is_a_header() -> None:
    table = coverage(screen([None] * 8, columns={}))
    assert table.empty and list(table) == [
        "dataset",
        "features",
        "n_features",
        "n_perturbations",
        "n_covered",
        "missing",
    ]


def test_morgan_does_not_depend_on_who_else_is_there() -> None:
    alone = morgan(structures({"aspirin": DRUGS["aspirin"]}))
    np.testing.assert_array_equal(alone.loc["aspirin"], morgan(structures()).loc["aspirin"])
