"""What the opcodes of a pickle may ask for: memory bombs and damage are refused before the unpickler sees them."""

import io
import pickle
import pickletools
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueshift.contract import ContractError
from trueshift.data.pickles.restricted import NESTING, Form, load, refusals

FORM = Form("a list of numbers", frozenset({"collections.OrderedDict"}), "Write one")
HUGE = (1 << 62).to_bytes(8, "little")
BOMBS = {
    "bytes of 4 EB": b"\x80\x04\x8e" + HUGE + b"abc.",
    "text of 4 EB": b"\x80\x04\x8d" + HUGE + b"abc.",
    "an array of 4 EB": b"\x80\x05\x96" + HUGE + b"abc.",
    "bytes of 4 GB": b"\x80\x03B\xff\xff\xff\xffabc.",
    "text of 4 GB": b"\x80\x03X\xff\xff\xff\xffabc.",
    "text of a negative length": b"T\xff\xff\xff\xffabc.",
    "a number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "a frame of 4 EB": b"\x80\x04\x95" + HUGE + b"N.",
    "a memo of 4 billion": b"\x80\x02Nr\xff\xff\xff\xff.",
    "a memo of a billion, as text": b"Np1000000000\n.",
    "tuples in tuples": b"\x80\x04}N" + b"\x85" * 2_000_000 + b"Ns.",  # their hash would overflow the stack
    "tuples in tuples of the memo": b"\x80\x02N" + b"\x85q\x000h\x00" * 2000 + b".",
    "frozen sets in frozen sets": b"\x80\x04" + b"(" * 2000 + b"N" + b"\x91" * 2000 + b".",
    "lists in lists": b"\x80\x02" + b"]" * 2000 + b"a" * 1999 + b".",
    "a protocol to come": b"\x80\x06N.",
    "an opcode to come": b"\x80\x05\xf0.",
    "nothing to take": b"\x80\x02s.",
    "a mark that lacks": b"\x80\x02Nt.",
    "an empty file": b"",
}


def content(data: bytes) -> Any:
    with refusals("x.pkl", FORM):
        return load(io.BytesIO(data), "x.pkl", FORM)


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_in_one_line(tmp_path: Path, bomb: str) -> None:
    (tmp_path / "x.pkl").write_bytes(BOMBS[bomb])
    with pytest.raises(ContractError, match=r"^x\.pkl: cannot be read as a list of numbers: [^\n]*Write one$"):
        content(BOMBS[bomb])
    with (tmp_path / "x.pkl").open("rb") as stream, pytest.raises(ContractError), refusals("x.pkl", FORM):
        load(stream, "x.pkl", FORM)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.integers(), inner).map(OrderedDict)
    ),
)


@given(PLAIN, st.integers(3, 5))
def test_plain_values_are_as_pickle_reads_them(value: Any, protocol: int) -> None:
    for data in (pickle.dumps(value, protocol), pickletools.optimize(pickle.dumps(value, protocol))):
        found = content(data)
        assert found == value and type(found) is type(value)


def test_what_is_long_is_not_deep() -> None:
    values = [*range(5000)] + [(i, {i: [i]}) for i in range(5000)]  # lists and dicts are written 1,000 items at a time
    assert content(pickle.dumps(values)) == values
    assert content(b"\x80\x02)" + b"\x85" * NESTING + b".")
    with pytest.raises(ContractError, match="deep"):
        content(b"\x80\x02)" + b"\x85" * (NESTING + 1) + b".")


def test_changed_bytes_end_in_a_refusal_or_a_value() -> None:
    draw = random.Random(0)
    data = pickle.dumps([{"a": (1, 2.5, "text"), "b": [OrderedDict(c=b"bytes")] * 3}, [None, True] * 20], 4)
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            content(bytes(changed))
        except ContractError as error:
            assert str(error).startswith("x.pkl: ") and "\n" not in str(error)
