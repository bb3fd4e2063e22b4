"""The gene values of a pickled DataFrame as rows of float32, chunk by chunk, however its blocks lie in the file."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from trueshift.contract import ContractError
from trueshift.data.pickles.inert import Frame, offset_of
from trueshift.data.pickles.once import Once
from trueshift.values import all_finite

CHUNK = 1 << 20  # values read together
TALL, ROOM, TILE = 1024, 1 << 24, 8  # of a strip: most rows and values, and genes turned at once: what caches hold

Chunks = Generator[tuple[int, np.ndarray]]
Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # a block (columns, rows), which columns are genes, and their places


def lies_by_row(table: Frame, genes: list[str]) -> bool:
    """Whether all genes are one block that lies in the file row by row, so that rows can be read in turn."""
    parts = _parts(table, genes)
    return len(parts) == 1 and _by_row(parts[0][0]) and offset_of(parts[0][0]) is not None


def strips(genes: int, rows: int) -> list[np.ndarray]:
    """Room for all values, float32: some rows each, shape (genes, rows). It takes no memory before it is filled."""
    tall = max(1, min(TALL, ROOM // genes))
    return [np.empty((genes, min(tall, rows - at)), dtype=np.float32) for at in range(0, rows, tall)]


def chunks(table: Frame, genes: list[str], ids: list[str], file: Once, room: list[np.ndarray], keep: bool) -> Chunks:
    """Converts the genes chunk by chunk; yields the first row of each and its values, shape (rows, genes).

    Values of a table that lies by row are read as they are asked for. Those of any other come into ``room`` (of
    :func:`strips`) first, in the order of the file: a disk is slow in any other. Unless it is to be kept, the room goes
    strip by strip when its rows were given, so that its memory is at hand for what is written.

    A chunk is there until the one after the next is asked for. A negative zero becomes zero. Raises
    :class:`ContractError` at the first value that is NaN or infinite, naming gene and row (``ids``).
    """
    parts = _parts(table, genes)
    by_row = len(parts) == 1 and _by_row(parts[0][0])
    for start, chunk in _taken(parts[0], file) if by_row else _turned(parts, file, room, keep):
        chunk += np.float32(0)
        if not all_finite(chunk):
            row, column = (int(x[0]) for x in np.nonzero(~np.isfinite(chunk)))
            raise ContractError(
                f"{table.path}: gene '{genes[column]}' is NaN or infinite in row {start + row} (sig_id "
                f"{ids[start + row]}); fill such values in or remove the row from both files"
            )
        yield start, chunk


def ahead(chunks: Chunks) -> Chunks:
    """The same chunks, each made while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, chunks, None)
        while (chunk := following.result()) is not None:
            following = pool.submit(next, chunks, None)
            yield chunk


def _parts(table: Frame, genes: list[str]) -> list[Part]:
    column_of = {name: column for column, name in enumerate(genes)}
    parts = []
    for places, values in table.blocks:
        wanted = [(row, column_of[table.names[at]]) for row, at in enumerate(places) if table.names[at] in column_of]
        if wanted:
            parts.append((values, *np.array(wanted).T))
    return parts


def _by_row(values: np.ndarray) -> bool:
    return values.T.flags.c_contiguous and not values.flags.c_contiguous


def _span(places: np.ndarray) -> Any:
    """Places as a slice where they follow one another: that is read in place, not copied."""
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if np.array_equal(places, np.arange(first, last + 1)) else places


def _lines(values: np.ndarray, file: Once) -> Chunks:
    """The lines of a C-contiguous array some at a time: the number of the first, and values as they are stored.

    Those left in the file are read from there; they are there until the ones after the next are asked for.
    """
    offset, length = offset_of(values), values.shape[1]
    step = max(1, CHUNK // length)
    rooms = np.empty((2, 0 if offset is None else min(step, len(values)), length), values.dtype)
    for start in range(0, len(values), step):
        some = values[start : start + step]
        if offset is not None:
            some = rooms[start // step % 2, : len(some)]
            file.read(offset + start * length * values.itemsize, some.reshape(-1).view(np.uint8))
        yield start, some


def _taken(part: Part, file: Once) -> Chunks:
    values, columns, places = part
    step = max(1, CHUNK // len(values))
    rooms = np.empty((2, min(step, values.shape[1]), len(places)), dtype=np.float32)
    for start, lines in _lines(values.T, file):
        chunk = rooms[start // step % 2, : len(lines)]
        with np.errstate(over="ignore"):
            chunk[:, _span(places)] = lines[:, _span(columns)]
        yield start, chunk


def _turned(parts: list[Part], file: Once, room: list[np.ndarray], keep: bool) -> Chunks:
    for values, columns, places in parts:
        by_row = _by_row(values)
        for start, lines in ahead(_lines(values.T if by_row else values, file)):
            if by_row:
                _put(lines[:, _span(columns)].T, room, places, start)
            elif (among := (columns >= start) & (columns < start + len(lines))).any():
                _put(lines[_span(columns[among] - start)], room, places[among], 0)
    (genes, tall), number = room[0].shape, len(room)
    rooms = np.empty((2, tall, genes), dtype=np.float32)
    for place in range(number):
        strip = room[place] if keep else room.pop(0)
        chunk = rooms[place % 2, : strip.shape[1]]
        for gene in range(0, genes, TILE):
            chunk.T[gene : gene + TILE] = strip[gene : gene + TILE]
        yield place * tall, chunk


def _put(values: np.ndarray, room: list[np.ndarray], places: np.ndarray, start: int) -> None:
    """Puts values, shape (columns, rows), of the rows from ``start`` on where they belong."""
    genes, tall, stop = _span(places), room[0].shape[1], start + values.shape[1]
    with np.errstate(over="ignore"):
        for number in range(start // tall, -(-stop // tall)):
            first = number * tall
            low, high = max(start, first), min(stop, first + tall)
            room[number][genes, low - first : high - first] = values[:, low - start : high - start]
