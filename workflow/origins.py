"""Where a key of the merged configuration was written: the file and the line."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

COMMAND_LINE = "--config"
MERGE = "tag:yaml.org,2002:merge"  # of <<: *anchor

Key = str | int


class Origins:
    """The files that make up a configuration and the settings that were given without a file, which win over them.

    Of the files a later one wins; one that is named twice counts where it is named last.
    """

    def __init__(self, files: Sequence[str | Path], given: Mapping[str, Any], host: str = COMMAND_LINE) -> None:
        self.files = [*dict.fromkeys(map(Path, reversed(files)))][::-1]
        self.given, self.host = given, host

    def __call__(self, path: Sequence[Key]) -> str:
        """Where a key stands, as ``file:line``; if it stands nowhere, where the nearest one above it does."""
        for length in range(len(path), 0, -1):
            if found := self.all(path[:length]):
                return found[-1]
        return _short(self.files[-1]) if self.files else self.host

    def all(self, path: Sequence[Key]) -> list[str]:
        """All places where a key stands, the one that wins last."""
        lines = [(file, _line(tree, path)) for file, tree in self._trees.items()]
        places = [f"{_short(file)}:{line}" for file, line in lines if line]
        value: Any = self.given
        for key in path:
            if isinstance(value, Mapping):
                value = value.get(key)
            else:
                value = value[key] if isinstance(value, list) and isinstance(key, int) and key < len(value) else None
        return places + ([self.host] if value is not None else [])

    def repeated(self) -> list[tuple[str, tuple[Key, ...]]]:
        """Keys that stand twice in one mapping of a file, which YAML readers drop without a word: place, and key."""
        return [
            (f"{_short(file)}:{line}", path) for file, tree in self._trees.items() for line, path in _repeated(tree, ())
        ]

    @cached_property
    def _trees(self) -> dict[Path, yaml.Node | None]:
        return {file: yaml.compose(file.read_text(), yaml.CSafeLoader) for file in self.files}


def _line(node: yaml.Node | None, path: Sequence[Key]) -> int | None:
    """The line in which a key of a document stands, counted from 1; None if it has none such."""
    if node is None or not path:
        return node.start_mark.line + 1 if node else None
    first, rest = path[0], path[1:]
    if isinstance(node, yaml.SequenceNode):
        there = isinstance(first, int) and first < len(node.value)
        return _line(node.value[first], rest) if there else None
    if not isinstance(node, yaml.MappingNode):
        return None
    for key, value in node.value:
        if key.value == str(first):
            return _line(value, rest) if rest else key.start_mark.line + 1
    for key, value in node.value:
        if key.tag == MERGE:
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if line := _line(part, path):
                    return line
    return None


def _repeated(node: yaml.Node | None, above: tuple[Key, ...]) -> Iterator[tuple[int, tuple[Key, ...]]]:
    seen: set[str] = set()
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        path = (*above, str(key.value))
        if key.value in seen and key.tag != MERGE:
            yield key.start_mark.line + 1, path
        seen.add(key.value)
        yield from _repeated(value, path)


def _short(file: Path) -> str:
    """A path as a user would write it: below the folder that Snakemake runs in without that folder."""
    relative = os.path.relpath(file)
    return str(file) if relative.startswith("..") else relative
