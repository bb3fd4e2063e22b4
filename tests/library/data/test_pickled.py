"""Pairs of pickled DataFrames: what is read, what is refused, and that a file runs nothing."""

import base64
import builtins
import codecs
import functools
import hashlib
import importlib
import operator
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy._core.multiarray import _reconstruct, scalar
from numpy._core.numeric import _frombuffer
from numpy.testing._private.utils import runstring
from pandas._libs.internals import _unpickle_block
from pandas.core.internals.managers import BlockManager

from trueshift.contract import ContractError
from trueshift.data.loading import load
from trueshift.data.pickles.restricted import note_class
from trueshift.data.sources import pickled

GENES = ["G1", "G2", "G3"]
# the frame of ``as_written`` pickled (protocol 4) by other versions of pandas; zlib, base 85
WRITTEN = {
    "1.5.3": (
        "c-n<jUu)Dr5Wl3k-q|Wv#J`kMROEc{==mT%2&KIu+Rz9^-;`yO>|H{0N!;DgJFuV+tu5?Z$M53D@FVyU{02I^Nw_;&Xds!{&CL8}W`DEaoS%"
        "=H4fCj5IZZ<<x<STScfje0fx5OsC4FP`b9nY0j-aC)G8%GFYqREYDj82{BDy1*(jnsl)b;Ho3l8?mHM)1y-O7a|u`i}Rpl*^P&Ew!8VZ_%?X"
        "svF~8B@;b1T9wy$tUBfxwo^W|7_FXfQ8y^F0In58&JuH8IJ>+fLiX)tj=Ng*Qbv+ydSU+>cOmQC?`1+l>oIe<F%vrru|r|!)v?y^IZwq7=!p"
        "!U@w<Q$_~jpy@$@xL)ENx)720=4eCx>jPgn8J}MF!n-Z{@gtH(^h2%vbb)8LP2&#o}#^fB_#xe9QA9OJt*K)06h@PlsSf#7%_pjjWwEVlEtg"
        "qmC-tIqq%*Wl7;Gca4WsQNNs+?3GyH}j(-n23vGL9`iEBxqj^i*R-of^r;#dBrHy=nZYHy^#BqxbDb15i1_9DUXHix?|Rv29I}#DPxIU2q-O"
        "(lK0Hf1~9~&|Le(;0@;Lc@38#u9xiovsudDm8_q?n>wH9t-I*9ufnxz+;|2z`fwTQN~?<Bu4ILxlfMGRF(?~&5*=lW9v+)`frpag`vn`-+gL"
        "C5z*ANqH#}fE?!_3mnAYBC*p+lD*__F$%tQj>MXS*oaxq%J7_og^=d>u|A&Em!3voC`V&sfVvu*_}NsP8s?PZ$wi((WfdNiype7DPtUzW6rR"
        "_BMV9vDv3p`Mt1EoY_#{g5h>a*1SDj*wZ7ozx0L#WFFO;j2TC^>}~jsjBZXGGdaNF+-L&sg!t29btlGkkFw~@6ja54h0E|9QlZ2O%m!eyrE7"
        "-;dlQ7POk9L"
    ),
    "3.1.1": (
        "c-pO0PjAyO6mQa`?K=JpAqEoD*afM(RCFf}h-vEtV$p&$&d72Sw~m%3A$GJ@Vge2uo8%kjd+`zY2yo*D&rY(o+axq;mRdW0e}C`&{61UXdyS"
        "f2qLJb_z)XsT9nA5o43CKXCfC2nBiRua8VxfkRtuf3pJb#P#++m^j#zhuV>~1o*xuTX68~VY_y+TiST0Ra6nboGBgI{m$7$#vL<D)t2(-ohI"
        "c1z>cmkR$2&I$pRNdX#Qj%@#ACN$q-7d{4gT;3|3*({I0{QNf#&660D)%L=Rk9sENfkbTJ>fKo<?By>ib9-#o>-3aQ99`&4Rn-8Jk-7cAj*i"
        "J#EfUT&y~HcHKk}m24y^_b}ajbCso9bV>srqq$|P>s*vW}=kn~dkk*CqQM#_X`xln}b2hp3&fY`mOx6Qswjl}JoJdc!ygY<dVt{C~DD;UA1`"
        "!P9%rP~@Mf#Yosubv2l>nr0BI#3MhI4^mTnJoKf%{9%q7JoIxl6dF8_LOrICtp1nbJO>%X2lnoQA4HM<X**DU1&lE^ux-^-Ip7SAERMFv&t6"
        "M;H6JG$X5;S(3Hwmm&g%dNfbjfQ$+2dYBO@+9)Q6=#9DqWAJHLXHEG4o`JkJNTUQPjIqRJ->g_YCO6mAY9?7gG9d0*?p<9Y)u`UIQFQ&PHkn"
        "0Zit^PR>&ALx_nxigd(-zYZIb2KH^+cJRLGrSfbBH?M`N?1@nD9=^yO96Su3*mxmoN#%Dq~@HcL`BoYrhqE+IGS(EtcQ2iJzzI)~R_;Shy^6"
        "!kC|L(fx^asA!&NfhZ*ySz&j6&q|6MvAV+7W}r)>%t1sKuR^y-pBEf%up1hFb6o!I7|UyF`lG=Lmdbl3~fm?=PU#-1SY$p^gvH`v4BQ|W6g0"
        "OtBpB_`F#YLph1L(`uGq>QF6#okf$(g;7y?jdjw|pDa*a?Kd~uKlm"
    ),
}


def as_written() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sig_id": ["s1", "s2"],
            "idx": [7, 8],
            "pert_id": ["p", "q"],
            "cell_id": pd.Categorical(["x", "x"]),
            "pert_idose": ["10 uM", None],
            "smiles": ["C", "N"],
            "A": [0.5, 0.25],
            "B": [0.0, 1.0],
        }
    )


def pair(rows: int = 6, dtype: str = "f8") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Treated and control; rows 0, 1 and 4 have one control profile, of which row 4 is another cell line's."""
    rng = np.random.default_rng(0)
    metadata = pd.DataFrame(
        {
            "sig_id": [f"P{i // 2}:{i}" for i in range(rows)],
            "idx": np.arange(rows) * 10,
            "pert_id": [f"BRD-{i % 3}" for i in range(rows)],
            "cell_id": ["A549"] * (rows - 2) + ["MCF7"] * 2,
            "pert_idose": ["10 uM", "-666"] * (rows // 2),
            "smiles": ["CCO", None] * (rows // 2),
        }
    )
    treated, control = rng.random((2, rows, 3)) * (1000 if dtype == "i4" else 1)
    treated[0, 1] = 0
    control[[1, 4]] = control[0]
    frames = [pd.DataFrame(values.astype(dtype), columns=GENES) for values in (treated, control)]
    return tuple(pd.concat([metadata, frame], axis=1) for frame in frames)  # type: ignore[return-value]


def numbers(frame: pd.DataFrame) -> np.ndarray:
    return np.column_stack([frame[gene] for gene in GENES]).astype("f4")


def written(folder: Path, treated: Any, control: Any, protocol: int = 5) -> tuple[Path, Path]:
    paths = folder / "treated.pkl", folder / "control.pkl"
    for path, content in zip(paths, (treated, control), strict=True):
        path.write_bytes(pickle.dumps(content, protocol))
    return paths


def read_files(treated: Path, control: Path) -> Any:
    return pickled.read(treated, control, log=lambda _: None)


def read(folder: Path, treated: Any, control: Any, protocol: int = 5) -> Any:
    return read_files(*written(folder, treated, control, protocol))


# --- what is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["f8", "f4", ">f8", "i4"])
def test_a_pair_becomes_treated_rows_and_distinct_controls(tmp_path: Path, protocol: int, dtype: str) -> None:
    treated, control = pair(dtype=dtype)
    data = read(tmp_path, treated, control, protocol)
    assert isinstance(data.X, np.ndarray) and data.X.dtype == np.float32
    assert data.shape == (6 + 5, 3)
    assert data.var_names.tolist() == GENES
    np.testing.assert_array_equal(data.X[:6], numbers(treated))
    np.testing.assert_array_equal(data.X[6:], numbers(control)[[0, 2, 3, 4, 5]])
    obs = data.obs
    assert obs["is_control"].tolist() == [False] * 6 + [True] * 5
    assert obs.index[:6].tolist() == obs["sig_id"][:6].tolist() == treated["sig_id"].tolist()
    assert obs["control_id"].tolist()[:6] == [f"P{i // 2}:{i}/control" for i in (0, 0, 2, 3, 4, 5)]
    assert obs["control_id"].tolist()[6:] == [""] * 5
    assert obs["idx"].tolist() == ["0", "10", "20", "30", "40", "50"] + [""] * 5
    assert obs["pert_idose"].tolist()[:6] == ["10 uM", "-666"] * 3 and set(obs["pert_idose"][6:]) == {"0"}
    assert obs["smiles"].tolist()[:2] == ["CCO", None] and obs["smiles"][6:].isna().all()
    assert obs["pert_id"].tolist() == treated["pert_id"].tolist() + ["control"] * 5
    assert obs["cell_id"].tolist()[6:] == ["A549", "A549", "A549", "MCF7", "MCF7"]
    # every treated row's control is the one of its own row
    rows = obs.index.get_indexer(obs["control_id"][:6])
    np.testing.assert_array_equal(data.X[rows], numbers(control))


def test_controls_that_differ_in_one_gene_alone_are_two(tmp_path: Path) -> None:
    treated, control = pair()
    control.loc[2, GENES] = control.loc[0, GENES]
    control.loc[2, "G3"] += 1
    data = read(tmp_path, treated, control)
    assert data.obs["control_id"].tolist()[:3] == ["P0:0/control", "P0:0/control", "P1:2/control"]
    np.testing.assert_array_equal(data["P1:2/control"].X[0], numbers(control)[2])


def fragmented(frame: pd.DataFrame) -> pd.DataFrame:
    new = pd.DataFrame({"G2": frame["G2"]})
    for name in ["smiles", "G1", "sig_id", "idx", "pert_id", "cell_id", "pert_idose", "G3"]:
        new[name] = frame[name]
    return new


VARIANTS = {
    "fragmented": fragmented,
    "reversed": lambda frame: frame[frame.columns[::-1]],
    "by row": lambda frame: frame.set_index("sig_id", drop=False),
    "F order": lambda frame: pd.concat(
        [frame.iloc[:, :6], pd.DataFrame(np.asfortranarray(frame[GENES].to_numpy()), columns=GENES)], axis=1
    ),
    "categories": lambda frame: frame.astype({"cell_id": "category", "pert_id": "category", "smiles": "category"}),
    "strings": lambda frame: frame.astype(dict.fromkeys(("sig_id", "pert_id", "cell_id", "smiles"), "string[python]")),
    "scalars": lambda frame: frame.assign(
        idx=pd.Series([np.int64(x) for x in frame["idx"]], dtype=object),
        sig_id=pd.Series([np.str_(x) for x in frame["sig_id"]], dtype=object),
    ),
    "a part of a larger frame": lambda frame: pd.concat([frame, frame]).iloc[: len(frame)],
    "mixed numbers": lambda frame: frame.astype({"G1": "f4"}),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("variant", VARIANTS)
def test_frames_of_any_making_give_the_same(tmp_path: Path, variant: str, protocol: int) -> None:
    frames = pair()
    plain = read(tmp_path, *frames)
    data = read(tmp_path, VARIANTS[variant](frames[0]), VARIANTS[variant](frames[1]), protocol)
    np.testing.assert_array_equal(data[:, GENES].X, plain.X)
    pd.testing.assert_frame_equal(data.obs.fillna("none"), plain.obs.fillna("none"))


@pytest.mark.parametrize("version", WRITTEN)
def test_frames_written_by_other_versions_of_pandas(tmp_path: Path, version: str) -> None:
    file = tmp_path / "frame.pkl"
    file.write_bytes(zlib.decompress(base64.b85decode(WRITTEN[version])))
    data = read_files(file, file)
    expected = read(tmp_path, as_written(), as_written())
    np.testing.assert_array_equal(data.X, expected.X)
    pd.testing.assert_frame_equal(data.obs.fillna("none"), expected.obs.fillna("none"))


def held(by: str, rows: int) -> list[pd.DataFrame]:
    """A pair whose genes are one block, by row or by column; pickle keeps what is below 64 KiB with the rest."""
    order = {"row": np.ascontiguousarray, "column": np.asfortranarray}[by]
    frames = []
    for frame in pair(rows=rows):
        values = pd.DataFrame(order(numbers(frame)), columns=GENES, copy=False)
        for name in pickled.METADATA:
            values[name] = frame[name]
        frames.append(values)
    return frames


@pytest.mark.parametrize("by", ["row", "column"])
def test_small_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    frames = held(by, rows=1200)
    whole = read(tmp_path, *frames)
    monkeypatch.setattr(pickled, "ROWS", 7)
    parts = read(tmp_path, *frames)
    np.testing.assert_array_equal(parts.X, whole.X)
    pd.testing.assert_frame_equal(parts.obs, whole.obs)


def test_genes_in_blocks_of_several_kinds(tmp_path: Path) -> None:
    """By row and by column in one frame, with metadata among the genes of a block, and genes in another order."""
    n, rng = 1300, np.random.default_rng(0)
    frame = pair(rows=n)[0].drop(columns=[*GENES, "idx"])
    blocks = {
        "rows": (np.ascontiguousarray(rng.random((n, 3))), ["B", "A", "F"]),
        "columns": (np.asfortranarray(rng.random((n, 4)), dtype="f4"), ["C", "E", "D", "G"]),
        "numbers": (np.ascontiguousarray(rng.integers(9, size=(n, 3))), ["H", "idx", "I"]),
    }
    parts = [pd.DataFrame(values, columns=names, copy=False) for values, names in blocks.values()]
    treated = pd.concat([frame, *parts], axis=1)
    assert treated._mgr.nblocks > 3  # they were not brought together
    control = treated[["I", *[name for name in treated if name != "I"]]]
    data = read(tmp_path, treated, control)
    assert set(data.var_names) == set("ABCDEFGHI") and data.var_names[0] == "I"
    np.testing.assert_array_equal(data.X[:n], treated[data.var_names].to_numpy(dtype="f4"))


def test_a_negative_zero_is_zero(tmp_path: Path) -> None:
    treated, control = pair()
    control.loc[0, GENES], control.loc[1, GENES] = -0.0, 0.0
    data = read(tmp_path, treated, control)
    assert data.obs["control_id"].iloc[0] == data.obs["control_id"].iloc[1]
    assert not np.signbit(data.X).any()


MEASURE = """
import sys
from pathlib import Path
from trueshift import values
from trueshift.data.sources import pickled
values.LARGE = 0
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
pickled.read(*sys.argv[1:3], log=len, values=Path(sys.argv[3]) if sys.argv[3:] else None)
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="NEEDS /proc of Linux")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("by", ["row", "column"])
@pytest.mark.parametrize("apart", [True, False])
def test_peak_memory_is_what_the_docstring_says(tmp_path: Path, apart: bool, by: str, dtype: str) -> None:
    n, d, g = 4000, 200, 4000
    rng = np.random.default_rng(0)
    frames = []
    for values in (rng.random((n, g)), rng.random((d, g))[np.arange(n) % d]):
        values = values.astype(dtype)
        table = pd.DataFrame(values if by == "row" else np.asfortranarray(values), copy=False)
        table.columns = [f"G{i}" for i in range(g)]
        for name, column in pair(rows=n)[0].drop(columns=GENES).assign(cell_id="A549").items():
            table[name] = column
        frames.append(table)
    files = [*written(tmp_path, *frames), *([tmp_path / "values"] if apart else [])]
    done = subprocess.run([sys.executable, "-c", MEASURE, *files], check=True, capture_output=True, text=True)
    one, chunks = n * g * values.itemsize, 2 * 4 * pickled.ROWS * g
    assert one < int(done.stdout) < 2.2 * one + chunks + 10e6  # and the metadata


@pytest.mark.parametrize("by", ["row", "column"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_through_the_one_way_in(tmp_path: Path, by: str, protocol: int) -> None:
    files = written(tmp_path, *held(by, rows=6), protocol=protocol)
    settings = {
        "kind": "profile",
        "source": {"format": "pickled", "treated": "{data}/treated.pkl", "control": "{data}/control.pkl"},
        "columns": {
            "perturbation": {"from": "pert_id", "control": "control"},
            "context": "cell_id",
            "dose": {"from": "pert_idose", "unit": "uM"},
            "control_id": "control_id",
            "keep": ["idx", "smiles"],
        },
        "filter": {"pert_idose": {"not_in": ["-666"]}},
    }
    data = load("pdgrapher", settings, tmp_path, log=lambda _: None)
    sums = [f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    assert data.uns["trueshift"]["provenance"]["checksum"] == " ".join(sums)
    assert data.obs["is_control"].tolist() == [False] * 3 + [True] * 5
    assert data.obs["dose"].tolist() == ["10"] * 3 + ["0"] * 5
    assert data.obs["control_id"].tolist()[0] == "P0:0/control"
    assert set(data.obs.loc[~data.obs["is_control"], "control_id"]) <= set(data.obs_names)
    data.write_h5ad(tmp_path / "out.h5ad")
    with pytest.raises(ContractError, match="source: control not given"):
        load("p", {**settings, "source": {"format": "pickled", "treated": "{data}/treated.pkl"}}, tmp_path)


# --- what does not fit --------------------------------------------------------------------------------


def change(frame: pd.DataFrame, row: int, column: str, value: Any) -> pd.DataFrame:
    frame = frame.astype({column: object}) if isinstance(value, str) else frame.copy()
    frame.loc[row, column] = value
    return frame


MISTAKES = {
    "sig_id": (lambda t, c: (t, change(c, 2, "sig_id", "other")), r"control\.pkl: row 2 .* sig_id is 'other' here"),
    "idx": (lambda t, c: (t, change(c, 3, "idx", 5)), r"control\.pkl: row 3 .* idx is '5' here and '30' there"),
    "cell_id": (lambda t, c: (t, change(c, 1, "cell_id", "PC3")), r"row 1 .* cell_id is 'PC3' here and 'A549' there"),
    "swapped": (lambda t, c: (t, c.iloc[[0, 2, 1, 3, 4, 5]]), r"row 1 does not belong to row 1"),
    "fewer": (lambda t, c: (t, c.iloc[:4]), r"control\.pkl: 4 rows, but .*treated\.pkl has 6; .* row 4 has no partner"),
    "more": (lambda t, c: (t.iloc[:5], c), r"6 rows, but .* has 5; .* row 5 has no partner"),
    "twice": (
        lambda t, c: (change(t, 4, "sig_id", "P0:1"), change(c, 4, "sig_id", "P0:1")),
        r"treated\.pkl: sig_id P0:1 occurs more than once \(rows 1 and 4",
    ),
    "no sig_id": (lambda t, c: (change(t, 4, "sig_id", ""), c), r"treated\.pkl: row 4 has no sig_id"),
    "words": (
        lambda t, c: (change(t, 0, "G2", "high"), c),
        r"treated\.pkl: gene column 'G2' is not numeric \(such as 'high'\)",
    ),
    "words in controls": (lambda t, c: (t, c.assign(G4="x")), r"control\.pkl: gene column 'G4' is not numeric"),
    "lacks smiles": (lambda t, c: (t.drop(columns="smiles"), c), r"treated\.pkl: no column 'smiles'"),
    "lacks idx": (lambda t, c: (t, c.drop(columns="idx")), r"control\.pkl: no column 'idx'; .*There are: sig_id"),
    "nan": (
        lambda t, c: (change(t, 5, "G3", np.nan), c),
        r"treated\.pkl: gene 'G3' is NaN or infinite in row 5 \(sig_id P2:5\)",
    ),
    "infinite": (lambda t, c: (t, change(c, 1, "G1", np.inf)), r"control\.pkl: gene 'G1' is NaN or inf.* row 1 "),
    "too large": (lambda t, c: (t, change(c, 1, "G1", 1e300)), r"control\.pkl: gene 'G1' is NaN or infinite"),
    "another gene": (lambda t, c: (t.assign(G0=0.5), c), r"gene 'G0' is in only one of"),
    "two of a name": (lambda t, c: (t, c.rename(columns={"G3": "G1"})), r"control\.pkl: column 'G1' occurs twice"),
    "no genes": (lambda t, c: (t, c.drop(columns=GENES)), r"control\.pkl: no gene columns"),
    "no rows": (lambda t, c: (t, c.iloc[:0]), r"control\.pkl: no rows"),
    "control": (lambda t, c: (change(t, 0, "pert_id", "control"), c), r"pert_id is 'control' in a treated row"),
    "a list": (lambda t, c: (t, [1, 2]), r"control\.pkl: cannot be read as a pickled DataFrame .*: it holds 'list'"),
    "an array": (lambda t, c: (c[GENES].to_numpy(), c), r"treated\.pkl: cannot .*: it holds '_frombuffer'"),
    "a series": (lambda t, c: (t, c["G1"]), r"control\.pkl: the pickle names 'pandas.*Series'"),
    "lists inside": (
        lambda t, c: (t, c.assign(smiles=[[1]] * 6)),
        r"control\.pkl: cannot be read as a pickled DataFrame .* values of type list",
    ),
    "levels": (
        lambda t, c: (t, c.set_axis(pd.MultiIndex.from_product([["a"], c.columns]), axis=1)),
        r"control\.pkl: the pickle names 'pandas.*MultiIndex'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_fit_is_named(tmp_path: Path, mistake: str) -> None:
    make, message = MISTAKES[mistake]
    with pytest.raises(ContractError, match=message):
        read(tmp_path, *make(*pair()))


@pytest.mark.parametrize("declared", [None, "sha256", "md5"])
def test_the_wrong_file_is_told_before_what_is_wrong_with_it(tmp_path: Path, declared: str | None) -> None:
    treated, control = pair()
    files = written(tmp_path, treated, change(control, 2, "sig_id", "other"))
    entry = {"path": str(files[1]), **({declared: "0" * 64} if declared else {})}
    settings = {"kind": "profile", "source": {"format": "pickled", "treated": str(files[0]), "control": entry}}
    message = rf"control\.pkl: checksum is {declared}:.*, declared is" if declared else "row 2 does not belong to row 2"
    with pytest.raises(ContractError, match=message):
        load("p", settings, tmp_path)


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_damaged_file_is_named_wherever_it_ends(tmp_path: Path, protocol: int) -> None:
    treated, control = written(tmp_path, *pair(), protocol=protocol)
    content = control.read_bytes()
    for length in range(0, len(content), 17):
        control.write_bytes(content[:length])
        with pytest.raises(ContractError, match=r"control\.pkl: cannot be read as a pickled DataFrame"):
            read_files(treated, control)
    control.write_bytes(b"\x1f\x8b" + content)
    with pytest.raises(ContractError, match=r"control\.pkl: cannot be read .* without compression"):
        read_files(treated, control)


# --- what a hostile file could do ---------------------------------------------------------------------


class Call:
    """Pickles as the call of something, with a state put on its result if there is one."""

    def __init__(self, what: Any, *args: Any, state: Any = None) -> None:
        self.how = (what, args) if state is None else (what, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.how

    def __call__(self) -> None:
        """So that what a call gives can be called in its turn."""


def code(file: Path) -> str:
    return f"open({str(file)!r}, 'w').close()"


HOSTILE = {
    "os.system": lambda file: Call(os.system, f"touch '{file}'"),
    "subprocess.Popen": lambda file: Call(subprocess.check_call, ["touch", str(file)]),
    "eval": lambda file: Call(builtins.eval, code(file)),
    "exec": lambda file: Call(builtins.exec, code(file)),
    "open": lambda file: Call(builtins.open, str(file), "w"),
    "getattr": lambda file: Call(Call(getattr, Call(importlib.import_module, "os"), "system"), f"touch '{file}'"),
    "import": lambda file: Call(
        Call(operator.attrgetter("system"), Call(builtins.__import__, "os")), f"touch '{file}'"
    ),
    "partial": lambda file: Call(functools.partial(os.system, f"touch '{file}'")),
    "methodcaller": lambda file: Call(operator.methodcaller("touch"), Path(file)),
    "runstring": lambda file: Call(runstring, code(file), {}),
    "pandas": lambda file: Call(pd.DataFrame.to_csv, pd.DataFrame({"a": [1]}), str(file)),
    "numpy": lambda file: Call(np.savetxt, str(file), [1.0]),
}
INSIDE = {
    "alone": lambda call: call,
    "in a column": lambda call: pair()[1].assign(smiles=pd.Series(["C"] * 5 + [call], dtype=object)),
    "in the names": lambda call: pair()[1].rename(columns={"smiles": call}),
    "in the row names": lambda call: pair()[1].set_axis([*range(5), call]),
    "in a category": lambda call: pair()[1].assign(smiles=pd.Categorical.from_codes([0] * 6, [call])),
    "in attributes": lambda call: attributed(pair()[1], call),
    "in a list": lambda call: [pair()[1], call],
    "in the state of a name that is admitted": lambda call: Call(pd.DataFrame, state={"_mgr": call}),
    "in the arguments of a name that is admitted": lambda call: Call(np.dtype, call),
}


def attributed(frame: pd.DataFrame, call: Any) -> pd.DataFrame:
    frame.attrs["made by"] = call
    return frame


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, hostile: str) -> None:
    file = tmp_path / "pwned"
    for protocol in (0, 1, 2, 3, 4, 5):
        treated, control = written(tmp_path, pair()[0], None)
        control.write_bytes(pickle.dumps(HOSTILE[hostile](file), protocol))
        for one, other in ((treated, control), (control, treated)):
            with pytest.raises(ContractError, match=r"control\.pkl: the pickle names '.*nothing of it was run"):
                read_files(one, other)
        assert not file.exists()
    pickle.loads(control.read_bytes())  # noqa: S301 - shows that it would have
    assert file.exists()


@pytest.mark.parametrize("place", INSIDE)
def test_nor_does_one_hidden_in_a_frame(tmp_path: Path, place: str) -> None:
    file = tmp_path / "pwned"
    for protocol in (2, 3, 4, 5):
        call = HOSTILE["os.system"](file)
        treated, control = written(tmp_path, pair()[0], INSIDE[place](call), protocol)
        with pytest.raises(ContractError, match=r"control\.pkl: the pickle names 'posix\.system'"):
            read_files(treated, control)
        assert not file.exists()
    try:
        pickle.loads(control.read_bytes())  # noqa: S301 - as above
    except Exception as error:  # what it leaves is no frame, but it has run
        assert "state" in place or "arguments" in place, error
    assert file.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "builtins getattr",
        "builtins type",
        "builtins object",
        "builtins slice.__init__",
        "__builtin__ eval",
        "os system",
        "nt system",
        "sys modules",
        "subprocess Popen",
        "copyreg _reconstructor",
        "copyreg __newobj__",
        "codecs encode",
        "_codecs decode",
        "numpy load",
        "numpy ndarray.tofile",
        "numpy._core.multiarray fromfile",
        "numpy.testing._private.utils runstring",
        "pandas read_pickle",
        "pandas.core.frame DataFrame.eval",
        "pandas.core.computation.eval eval",
        "pickle loads",
        "trueshift.data.sources.pickled _Table",
        "no.such.module at\tall",
    ],
)
def test_names_that_are_not_admitted_are_not_even_looked_up(tmp_path: Path, name: str) -> None:
    module, attribute = name.split(" ", 1)
    before = set(sys.modules)
    text = [b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute)]
    for content in (f"c{module}\n{attribute}\n.".encode(), b"\x80\x04" + b"".join(text) + b"\x93."):
        (tmp_path / "x.pkl").write_bytes(content)
        with pytest.raises(ContractError, match=r"x\.pkl: the pickle names"):
            read_files(tmp_path / "x.pkl", tmp_path / "x.pkl")
    assert set(sys.modules) == before


def frame_of(values: Any, places: Any = slice(0, 2, 1)) -> Call:
    """A DataFrame of one block, written without pandas checking it; names ``a`` and ``b``."""
    block = Call(_unpickle_block, values, places, 2)
    return Call(pd.DataFrame, state={"_mgr": Call(BlockManager, (block,), [pd.Index(["a", "b"], dtype=object)] * 2)})


def shared_blocks() -> Call:
    """A table of 400 columns whose values are in the file once."""
    values, names = np.zeros((1, 1000)), pd.Index([f"G{i}" for i in range(400)], dtype=object)
    blocks = tuple(Call(_unpickle_block, values, slice(i, i + 1, 1), 2) for i in range(400))
    return Call(pd.DataFrame, state={"_mgr": Call(BlockManager, blocks, [names, names])})


FIELDS = {"names": ["x"], "formats": ["O"]}
FORGED = {
    "pointers": lambda: frame_of(Call(_frombuffer, b"A" * 32, np.dtype("O"), (2, 2), "C")),
    "objects from bytes": lambda: frame_of(
        Call(_reconstruct, np.ndarray, (0,), b"b", state=(1, (2, 2), np.dtype("O"), False, b"A" * 32))
    ),
    "a dtype whose flags lie": lambda: frame_of(
        Call(
            _frombuffer,
            b"A" * 32,
            Call(np.dtype, "O8", False, True, state=(3, "|", None, None, None, -1, -1, 0)),
            (4,),
            "C",
        )
    ),
    "fields": lambda: frame_of(Call(_frombuffer, b"A" * 32, np.dtype(FIELDS), (2, 2), "C")),
    "fields in a plain dtype": lambda: frame_of(
        Call(
            _frombuffer,
            b"A" * 32,
            Call(np.dtype, "f8", state=(3, "<", None, ("x",), {"x": (np.dtype("O"), 0)}, 8, 1, 0)),
            (2, 2),
            "C",
        )
    ),
    "too few bytes": lambda: frame_of(Call(_frombuffer, b"A" * 8, np.dtype("f8"), (2, 1 << 60), "C")),
    "a negative shape": lambda: frame_of(Call(_frombuffer, b"A" * 32, np.dtype("f8"), (2, -1), "C")),
    "too few objects": lambda: frame_of(
        Call(_reconstruct, np.ndarray, (0,), b"b", state=(1, (2, 1 << 60), np.dtype("O"), False, ["a"]))
    ),
    "places out of range": lambda: frame_of(np.zeros((2, 2)), slice(1, 3, 1)),
    "negative places": lambda: frame_of(np.zeros((2, 2)), slice(-2, None, 1)),
    "places at will": lambda: frame_of(np.zeros((2, 2)), np.array([0, 1 << 40])),
    "blocks that share their values": lambda: shared_blocks(),
    "one place twice": lambda: frame_of(np.zeros((2, 2)), np.array([1, 1])),
    "an encoding of the attacker's": lambda: frame_of(
        Call(_frombuffer, Call(codecs.encode, "n" * 32, "rot13"), np.dtype("f8"), (2, 2), "C")
    ),
    "a scalar without bytes": lambda: frame_of(
        np.array([Call(scalar, np.dtype("f8"), b"") for _ in range(4)], dtype=object).reshape(2, 2)
    ),
    "text beyond Unicode": lambda: frame_of(
        np.array([Call(scalar, np.dtype("U1"), b"\xff" * 4) for _ in range(4)], dtype=object).reshape(2, 2)
    ),
    "a name's own attributes": lambda: Call(pd.DataFrame, state=(None, {"__class__": 1, "find_class": 2})),
}


@pytest.mark.parametrize("forged", FORGED)
def test_forged_contents_under_admitted_names_are_refused(tmp_path: Path, forged: str) -> None:
    """What pandas or NumPy would take at its word, out-of-range places and raw pointers say, never reaches them."""
    treated, control = written(tmp_path, pair()[0], FORGED[forged](), 4)
    with pytest.raises(ContractError, match=r"control\.pkl: "):
        read_files(treated, control)


def test_the_state_of_a_name_itself_cannot_be_set(tmp_path: Path) -> None:
    """BUILD on the name (not on what it makes) would otherwise put attributes on a class that later files share."""
    for name in (b"pandas.core.frame\nDataFrame", b"_codecs\nencode", b"builtins\nslice"):
        (tmp_path / "x.pkl").write_bytes(b"c" + name + b"\n}(Vrole\nVframe\nub.")
        with pytest.raises(ContractError, match="cannot be read"):
            read_files(tmp_path / "x.pkl", tmp_path / "x.pkl")
        (tmp_path / "x.pkl").write_bytes(b"c" + name + b"\nN}(Vrole\nVframe\nu\x86b.")
        with pytest.raises(ContractError, match="cannot be read"):
            read_files(tmp_path / "x.pkl", tmp_path / "x.pkl")
    assert not any(hasattr(note_class(name), "role") for name in ("DataFrame", "encode"))
