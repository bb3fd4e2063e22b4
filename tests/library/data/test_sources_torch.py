"""Files of torch.save without torch: what is read, what is refused, and that a file runs nothing."""

import collections
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files as made
from hypothesis import given
from hypothesis import strategies as st
from test_pickled import HOSTILE, Call

from trueshift.contract import ContractError
from trueshift.data.pickles import torch_file
from trueshift.data.pickles.restricted import note_class

# --- what is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "bool"])
@pytest.mark.parametrize("order", ["little", "big"])
def test_tensors_of_every_kind(tmp_path: Path, kind: str, order: str) -> None:
    values = np.array([[0, 1, 2], [3, 4, 5]]).astype(kind)
    stored = values if order == "little" else values.astype(values.dtype.newbyteorder(">"))
    found = torch_file.read(made.write(tmp_path / "x.pt", {"a": made.plain(stored)}, order=order))["a"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    values = [1.5, -2.0, 0.0, 3.140625, float("inf")]
    found = torch_file.read(made.write(tmp_path / "x.pt", [made.bfloat16(values)]))[0]
    assert found.dtype == np.float32 and found.tolist() == values


@given(st.data())
def test_views_of_one_storage(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = np.arange(60, dtype=np.int32)
    size = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    stride = tuple(data.draw(st.integers(0, 5)) for _ in size)
    offset = data.draw(st.integers(0, 15))
    path = made.write(
        tmp_path_factory.getbasetemp() / "view.pt", made.tensor(made.storage(whole), size, stride, offset)
    )
    found = torch_file.read(path)
    assert found.shape == size
    for place in np.ndindex(*size):
        assert found[place] == offset + sum(i * s for i, s in zip(place, stride, strict=True))


def test_what_is_shared_is_read_once(tmp_path: Path) -> None:
    whole = made.storage(np.arange(6.0))
    names = ["g1", "g2"]
    content = [made.tensor(whole, (3,), (1,), 0), made.tensor(whole, (2, 2), (2, 1), 2), names, names]
    first, second, one, other = torch_file.read(made.write(tmp_path / "x.pt", content))
    assert first.tolist() == [0, 1, 2] and second.tolist() == [[2, 3], [4, 5]]
    assert one is other and one == names
    assert np.shares_memory(first, second)


def test_plain_values_arrays_and_ordered_dicts(tmp_path: Path) -> None:
    content = {
        1: {"text": "é", "none": None, "yes": True, "number": -3, "real": 0.5, "pair": (1, [2])},
        "array": np.arange(3),
        "names": np.array(["a", "b"], dtype=object),
        "scalar": np.str_("drug"),
        "ordered": made.Reduced(made.ORDERED, (), None, [("b", 1), ("a", made.plain([2]))]),
    }
    found = torch_file.read(made.write(tmp_path / "x.pt", content))
    assert found[1] == content[1]
    assert found["array"].tolist() == [0, 1, 2] and found["names"].tolist() == ["a", "b"] and found["scalar"] == "drug"
    assert list(found["ordered"]) == ["b", "a"] and found["ordered"]["a"].tolist() == [2]


@pytest.mark.parametrize("make", [made.data, made.old_data])
def test_objects_of_torch_geometric_are_records(tmp_path: Path, make: Any) -> None:
    path = made.write(tmp_path / "x.pt", [make(name="d", treated=made.plain([1.0, 2.0])), make(name="e")])
    first, second = torch_file.read(path)
    assert first.attributes["name"] == "d" and first.attributes["treated"].tolist() == [1, 2]
    assert second.attributes["name"] == "e"
    only = torch_file.read(path, only=["name", "absent"])[0]
    assert only.attributes == {"name": "d"} and {"name", "treated"} <= set(only.names)


# --- what does not fit --------------------------------------------------------------------------------


def zeros(count: int = 4) -> made.Storage:
    return made.storage(np.zeros(count, dtype=np.float32))


FORGED = {
    "beyond the end": (lambda: made.tensor(zeros(), (2, 2), (3, 2)), "reaches to value 5 of a storage of 4"),
    "offset beyond": (lambda: made.tensor(zeros(), (1,), (1,), 4), "reaches to value 4 of a storage of 4"),
    "empty storage": (lambda: made.tensor(zeros(0), (1,), (1,)), "reaches to value 0 of a storage of 0"),
    "huge": (lambda: made.tensor(zeros(), (1 << 62, 1 << 62), (1, 1)), "reaches to value"),
    "huge and still": (lambda: made.tensor(zeros(), (1 << 62, 1 << 62), (0, 0)), "cannot be read"),
    "negative offset": (lambda: made.tensor(zeros(), (2,), (1,), -1), "a tensor without a shape"),
    "negative size": (lambda: made.tensor(zeros(), (-2,), (1,)), "a tensor without a shape"),
    "negative stride": (lambda: made.tensor(zeros(), (2,), (-1,), 3), "a tensor without a shape"),
    "sizes that are no numbers": (lambda: made.tensor(zeros(), ("2",), (1,)), "a tensor without a shape"),  # type: ignore[arg-type]
    "fewer strides": (lambda: made.tensor(zeros(), (2, 2), (1,)), "a tensor without a shape"),
    "spread over more than the file": (
        lambda: made.tensor(zeros(), (1 << 20,), (0,)),
        "more values than the file has bytes",
    ),
    "several spread": (
        lambda: [made.tensor(zeros(), (900,), (0,)) for _ in range(99)],
        "more values than the file has bytes",
    ),
    "a negative bit": (lambda: made.tensor(zeros(), (2,), (1,), 0, {"neg": True}), "conjugate or negative bit"),
    "too few bytes": (
        lambda: made.tensor(made.Storage("Float", b"abcd", 2), (1,), (1,)),
        "1 values that should have 2",
    ),
    "not whole values": (lambda: made.tensor(made.Storage("Float", b"abc", 1), (1,), (1,)), "cannot be read"),
    "no storage": (lambda: made.tensor(np.zeros(2), (2,), (1,)), "a tensor without a storage"),  # type: ignore[arg-type]
    "keys of another kind": (lambda: {(1, 2): 3}, "a dict whose keys"),
    "a set": (lambda: {1, 2}, "names 'builtins.set'"),
    "a Data without attributes": (lambda: made._New(made.DATA, None), "a Data without content"),
    "a Data with another store": (lambda: made._New(made.DATA, {"_store": {"_mapping": {}}}), "a Data without attrib"),
    "a class": (lambda: [made.DATA], "a value of kind 'type'"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_what_does_not_fit_is_refused(tmp_path: Path, forged: str) -> None:
    make, message = FORGED[forged]
    path = made.write(tmp_path / "x.pt", make())
    with pytest.raises(ContractError, match=rf"x\.pt: .*{message}"):
        torch_file.read(path)


def test_sharing_in_depth_and_circles_cost_nothing(tmp_path: Path) -> None:
    deep: list[Any] = [1]
    for _ in range(60):
        deep = [deep, deep]  # 2⁶⁰ items, written once each
    found = torch_file.read(made.write(tmp_path / "deep.pt", deep))
    assert found[0] is found[1]
    round_: list[Any] = []
    round_.append(round_)
    with pytest.raises(ContractError, match="cannot be read"):
        torch_file.read(made.write(tmp_path / "round.pt", round_))


def test_old_files_and_other_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2))  # how a file of torch before 1.6 begins
    with pytest.raises(ContractError, match=r"x\.pt: not a zip archive, .* save it again with a newer one"):
        torch_file.read(path)
    made.write(path, [1], compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ContractError, match=r"x\.pt: .*compressed entries"):
        torch_file.read(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", b"N.")
    with pytest.raises(ContractError, match=r"x\.pt: .*no data\.pkl"):
        torch_file.read(path)


def test_a_damaged_file_is_named_wherever_it_is(tmp_path: Path) -> None:
    path = made.write(tmp_path / "x.pt", {"a": made.plain(np.arange(40)), "b": [made.data(name="d")]})
    content = path.read_bytes()
    for length in range(4, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(ContractError, match=r"x\.pt: cannot be read"):
            torch_file.read(path)
    at = content.index(np.arange(40).tobytes())
    path.write_bytes(content[: at + 100] + b"\x01" + content[at + 101 :])  # one bit of a value
    with pytest.raises(ContractError, match=r"x\.pt: cannot be read .*CRC"):
        torch_file.read(path)


# --- what a hostile file could do ---------------------------------------------------------------------


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, hostile: str) -> None:
    file, path = tmp_path / "pwned", tmp_path / "x.pt"
    content = b""
    for protocol in (0, 1, 2, 3, 4, 5):
        content = pickle.dumps(HOSTILE[hostile](file), protocol)
        made.archive(path, content, [])
        with pytest.raises(ContractError, match=r"x\.pt: the pickle names '.*nothing of it was run"):
            torch_file.read(path)
        assert not file.exists()
    pickle.loads(content)  # noqa: S301 - shows that it would have
    assert file.exists()


def call(file: Path) -> Any:
    return HOSTILE["os.system"](file)


INSIDE = {
    "in a list": lambda file: pickle.dumps([1, call(file)], 2),
    "as a key": lambda file: pickle.dumps({call(file): 1}, 2),
    "in an ordered dict": lambda file: pickle.dumps(collections.OrderedDict(a=call(file)), 2),
    "in the arguments of a name that is admitted": lambda file: pickle.dumps(Call(np.dtype, call(file)), 2),
    "in the state of a name that is admitted": lambda file: pickle.dumps(Call(np.dtype, "f8", state=call(file)), 2),
    "where a storage is named": lambda file: pickle.dumps(call(file), 2)[:-1] + b"Q.",  # BINPERSID
}


@pytest.mark.parametrize("place", INSIDE)
def test_nor_does_one_hidden_among_admitted_names(tmp_path: Path, place: str) -> None:
    file = tmp_path / "pwned"
    made.archive(tmp_path / "x.pt", INSIDE[place](file), [])
    with pytest.raises(ContractError, match=r"x\.pt: the pickle names 'posix\.system'"):
        torch_file.read(tmp_path / "x.pt")
    assert not file.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "torch load",
        "torch.storage _load_from_bytes",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_wrapper_subclass",
        "torch.hub load",
        "torch_geometric.data.data Data.__init__",
        "torch_geometric.data Data",
        "collections namedtuple",
        "trueshift.data.pickles.torch_file Record",
    ],
)
def test_names_that_are_not_admitted_are_not_even_looked_up(tmp_path: Path, name: str) -> None:
    module, attribute = name.split(" ", 1)
    before = set(sys.modules)
    made.archive(tmp_path / "x.pt", f"c{module}\n{attribute}\n.".encode(), [])
    with pytest.raises(ContractError, match=r"x\.pt: the pickle names"):
        torch_file.read(tmp_path / "x.pt")
    assert set(sys.modules) == before


def test_names_themselves_cannot_be_changed(tmp_path: Path) -> None:
    """Neither attributes (BUILD) nor items (SETITEM) can be put on the classes that later files share."""
    for name in (b"torch_geometric.data.data\nData", b"collections\nOrderedDict", b"torch\nFloatStorage"):
        for change in (b"}(Vrole\nVtensor\nub.", b"N}(Vrole\nVtensor\nu\x86b.", b"(Vrole\nVtensor\nu."):
            made.archive(tmp_path / "x.pt", b"c" + name + b"\n" + change, [])
            with pytest.raises(ContractError, match="cannot be read"):
                torch_file.read(tmp_path / "x.pt")
    assert not any(hasattr(note_class(name), "role") for name in ("Data", "FloatStorage"))
