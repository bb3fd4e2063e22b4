"""Reads a pickle without running anything of it.

To unpickle is to call what a file names. Here a file names only what is admitted for its form, and not even that is
imported or called: a :class:`Note` of the same name keeps the arguments and the state. NumPy and pandas believe what a
pickle tells them (the flags of a dtype, the places of columns), so that a forged one makes them read any memory. Arrays
are therefore made of notes, with checks, by :mod:`trueshift.data.pickles.arrays`.

Before that :func:`check_opcodes` goes through the opcodes. The unpickler reserves memory as a file asks for it, so a
small file could ask for all there is.
"""

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from trueshift.contract import ContractError

NESTING = 1000  # tuples in tuples: the hash of a deeper one overflows the stack of the interpreter
PROTOCOL = 5
_CHANGES = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")  # they change what lies below on the stack
_REAL = {"collections.OrderedDict": OrderedDict, "builtins.slice": slice, "__builtin__.slice": slice}  # harmless


@dataclass(frozen=True)
class Form:
    """What a file should hold, the names (module.name) that its pickle needs for it, and how to write such a file."""

    what: str
    names: frozenset[str]
    remedy: str


class Note:
    """An object of a pickle that was not made: its class has the name, ``args`` are the arguments of the call."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Self:
        """Keeps the arguments of a call that is not made."""
        note = super().__new__(cls)
        note.args, note.state = args, None
        return note

    def __setstate__(self, state: Any) -> None:
        self.state = state


@cache
def note_class(name: str) -> type[Note]:
    """The class of notes of a name, without its module: which one that was does not matter."""
    return type(name, (Note,), {"__slots__": ()})


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BufferedReader | io.BytesIO, path: str | Path, form: Form) -> None:
        super().__init__(stream)
        self.path, self.form = path, form

    def find_class(self, module: str, name: str) -> type:
        """The class of notes for an admitted name; :class:`ContractError` for any other."""
        full = f"{module}.{name}"
        if full not in self.form.names:
            raise ContractError(
                f"{self.path}: the pickle names {full[:100]!a}, which {self.form.what} does not need; the file was "
                f"refused and nothing of it was run. {self.form.remedy}"
            )
        return _REAL.get(full) or note_class(name)

    def persistent_load(self, pid: Any) -> Note:
        """A note of what torch keeps outside the pickle: the storage of a tensor."""
        return note_class("storage")(*pid if isinstance(pid, tuple) else ())


def load(stream: io.BufferedReader | io.BytesIO, path: str | Path, form: Form) -> Any:
    """The content of the pickle at the position of the stream, as plain values and notes; the stream ends up behind it.

    Raises :class:`ContractError` at a name that the form does not need, ValueError at what :func:`check_opcodes`
    refuses, and anything on damage: call it within :func:`refusals`.
    """
    start = stream.tell()
    check_opcodes(stream)
    stream.seek(start)
    return _Unpickler(stream, path, form).load()


@contextmanager
def refusals(path: str | Path, form: Form) -> Iterator[None]:
    """Turns what fails while a file is read into a :class:`ContractError` of one line: the file, why, the remedy."""
    try:
        yield
    except (ContractError, OSError):
        raise
    except Exception as error:  # a damaged or forged file can fail in any way
        what = "it does not fit in memory" if isinstance(error, MemoryError) else " ".join(str(error).split())[:200]
        what = what or type(error).__name__
        raise ContractError(f"{path}: cannot be read as {form.what}: {what}. {form.remedy}") from error


def need(condition: object, what: str) -> None:
    """Raises ValueError, saying ``what`` the file holds instead, unless the condition holds."""
    if not condition:
        raise ValueError(f"it holds {what}")


# --- what the unpickler would do ----------------------------------------------------------------------


def check_opcodes(stream: io.BufferedReader | io.BytesIO) -> None:
    """Goes through the opcodes of the pickle at the position of the stream.

    Raises ValueError on an unknown opcode or protocol, on an end before the last opcode, on text or an array that is
    longer than the rest of the file, on a place in the memo that no pickler reached yet, and on values nested more than
    ``NESTING`` deep.
    """
    stack: list[int] = []  # how deeply nested each value on the stack of the unpickler is
    marks: list[int] = []
    memo: dict[int, int] = {}
    argument: Any  # a number of the opcodes that are asked for it here
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        name = opcode.name
        if name == "PROTO" and argument > PROTOCOL:
            raise ValueError(f"its protocol is {argument}, the last one known is {PROTOCOL}")
        if name == "MARK":
            marks.append(len(stack))
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if argument > number:  # the unpickler makes room for all places below
                raise ValueError(f"it has a memo of {argument} objects after {number} opcodes")
            memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name != "STOP":
            _nest(stack, marks, opcode)


def _nest(stack: list[int], marks: list[int], opcode: pickletools.OpcodeInfo) -> None:
    """Takes from the stack what an opcode takes and puts there how deeply nested that is now which it gives."""
    changes = opcode.name in _CHANGES
    if pickletools.markobject in opcode.stack_before:
        start = marks.pop() - changes
    else:
        start = len(stack) - len(opcode.stack_before)
    if start < 0:
        raise ValueError(f"its opcode {opcode.name} finds nothing to take")
    taken = stack[start:]
    del stack[start:]
    depth = 1 + max(taken[changes:], default=-1)
    if changes:
        depth = max(depth, taken[0])
    if depth > NESTING:
        raise ValueError(f"it has values nested more than {NESTING} deep")
    stack.extend([depth] * len(opcode.stack_after))
