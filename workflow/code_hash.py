"""What the code says, read without running it: a hash of what a job runs, and what the modules of a folder declare.

A change of what code does reruns the jobs that run it; a change of its comments does not.
"""

import ast
import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import signatures
from signatures import taken, words_of

CACHE = Path(".snakemake/trueshift_parsed.json")  # in the folder that Snakemake runs in and keeps its own notes in
# What is kept between runs is of no use to another version of what reads it.
PARSER = hashlib.sha256(b"".join(Path(file).read_bytes() for file in (__file__, signatures.__file__))).hexdigest()
REGISTRY = "src/trueshift/evaluation/registry.py"  # imports whatever there is of metrics
KINDS = "src/trueshift/kinds.py"  # a row for each kind of data
SPLIT_SETTINGS = "src/trueshift/data/split_settings.py"  # the keys of every type of split
READERS, SPLITS, METRICS = (f"src/trueshift/{name}" for name in ("data/sources", "data/splits", "evaluation/metrics"))


class Parsed(NamedTuple):
    """A file of code: a hash of its text, where what it imports of the library may be, a hash of what it means, its
    constants (names in capitals with a literal value), the functions that it marks with ``@metric`` and what its
    functions and classes take, and its words: what its docstring says of settings."""

    text: str
    imports: list[str]
    meaning: str
    constants: dict[str, Any]
    metrics: list[str]
    takes: dict[str, dict[str, Any]]
    words: dict[str, str]


class Code:
    """The code below ``root``. What a file means is kept between runs: parsing all takes a third of a second."""

    def __init__(self, root: Path) -> None:
        self.root, self._cache = root, CACHE.absolute()  # Snakemake leaves its folder before the end
        self._known: dict[str, Parsed] = {}
        self._hashes: dict[tuple[str, ...], str] = {}
        self._kept: dict[str, Parsed] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError, AttributeError):  # none yet, or another's
            kept = json.loads(self._cache.read_text())
            if kept["parser"] == PARSER:
                self._kept = {file: Parsed(*entry) for file, entry in kept["files"].items()}

    def hash(self, *files: str) -> str:
        """A hash of some files and of all that they import of the library, directly or through others."""
        if files not in self._hashes:
            digest = hashlib.sha256()
            for file in sorted(self.closure(*files)):
                digest.update(f"{file}\0{self._read(file).meaning}\0".encode())
            self._hashes[files] = digest.hexdigest()[:12]
        return self._hashes[files]

    def closure(self, *files: str) -> set[str]:
        """Some files and all that they import of the library, directly or through others."""
        seen: set[str] = set()
        waiting = [*files]
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                waiting += [found for found in self._read(current).imports if self._exists(found)]
        return seen

    def modules(self, folder: str) -> dict[str, str]:
        """The modules of a folder: name → file."""
        files = sorted((self.root / folder).glob("*.py"))
        return {file.stem: f"{folder}/{file.name}" for file in files if file.stem != "__init__"}

    def constants(self, file: str) -> dict[str, Any]:
        """The constants of a file: names in capitals that are given a literal; tuples are lists.

        Of a table, a mapping of names to calls, the names.
        """
        return self._read(file).constants

    def takes(self, file: str, name: str) -> dict[str, Any] | None:
        """What a function or class of a file takes, see :func:`signatures.taken`; None if the file has none so named.

        A class without constructor takes what the first of its bases takes, here or in what the file imports.
        """
        found = self._read(file).takes.get(name)
        if found is None or "properties" in found:
            return found
        inherited = (self.takes(*base) for base in self._bases(file, name))
        return next((entry for entry in inherited if entry), {"properties": {}, "required": []})

    def derives(self, file: str, name: str, ancestor: str) -> bool:
        """Whether a class of a file derives from one called ``ancestor``, directly or through others."""
        bases = self._read(file).takes.get(name, {}).get("bases", [])
        return ancestor in bases or any(self.derives(*base, ancestor) for base in self._bases(file, name))

    def _bases(self, file: str, name: str) -> Iterator[tuple[str, str]]:
        """The bases of a class that are here or in what the file imports of the library: file and name."""
        places = [file, *(place for place in self._read(file).imports if self._exists(place))]
        for base in self._read(file).takes.get(name, {}).get("bases", []):
            yield from ((place, base) for place in places if base in self._read(place).takes)

    def words(self, file: str) -> dict[str, str]:
        """What the docstring of a file says of settings, by their names."""
        return self._read(file).words

    def classes(self, file: str) -> list[str]:
        """The names of a file's classes and functions."""
        return list(self._read(file).takes)

    def metrics(self) -> dict[str, str]:
        """The metrics that there are: name → the file that defines it."""
        return {name: file for file in self.modules(METRICS).values() for name in self._read(file).metrics}

    def keep(self) -> None:
        """Writes down what was parsed, where that is new and can be written."""
        if all(self._kept.get(file) == source for file, source in self._known.items()):
            return
        temporary = self._cache.with_name(f".{CACHE.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a folder that cannot be written costs a third of a second, no more
            self._cache.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps({"parser": PARSER, "files": {**self._kept, **self._known}}))
            temporary.replace(self._cache)

    def _exists(self, file: str) -> bool:
        return file in self._known or (self.root / file).exists()

    def _read(self, file: str) -> Parsed:
        if file not in self._known:
            content = (self.root / file).read_bytes()
            text = hashlib.sha256(content).hexdigest()
            kept = self._kept.get(file)
            self._known[file] = kept if kept and kept.text == text else _parsed(content, text)
        return self._known[file]


def _parsed(content: bytes, text: str) -> Parsed:
    tree = ast.parse(content)
    constants, metrics = _constants(tree), _metrics(tree)
    takes, words = taken(tree, constants), words_of(tree)
    imports = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "trueshift":
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "trueshift"]
        for name in names:
            base = "src/" + name.replace(".", "/")
            imports += [f"{base}.py", f"{base}/__init__.py"]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    meaning = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return Parsed(text, list(dict.fromkeys(imports)), meaning, constants, metrics, takes, words)


def _constants(tree: ast.Module) -> dict[str, Any]:
    found = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Name) and target.id.isupper():
            with contextlib.suppress(ValueError, TypeError):  # not a literal, or not one of JSON
                found[target.id] = json.loads(json.dumps(_literal(node.value)))
    return found


def _literal(value: ast.expr) -> Any:
    if isinstance(value, ast.Dict) and value.values and all(isinstance(row, ast.Call) for row in value.values):
        return [ast.literal_eval(name) for name in value.keys if name]
    return ast.literal_eval(value)


def _metrics(tree: ast.Module) -> list[str]:
    def marked(node: ast.FunctionDef) -> bool:
        calls = [mark.func for mark in node.decorator_list if isinstance(mark, ast.Call)]
        return any(isinstance(call, ast.Name) and call.id == "metric" for call in calls)

    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and marked(node)]
