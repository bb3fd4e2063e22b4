"""The code that a job runs, as a hash: a change of what it does reruns the job, a change of its comments does not."""

import ast
import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

CACHE = Path(".snakemake/trueshift_sources.json")  # in the folder that Snakemake runs in and keeps its own notes in


class Source(NamedTuple):
    """A file of code: a hash of its text, where what it imports of the library may be, a hash of what it means."""

    text: str
    imports: list[str]
    meaning: str


class Sources:
    """The code below ``root``. What a file means is kept between runs: parsing all takes a third of a second."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, Source] = {}
        self._hashes: dict[tuple[str, ...], str] = {}
        self._kept: dict[str, Source] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):  # none yet, or of another version
            self._kept = {file: Source(*entry) for file, entry in json.loads(CACHE.read_text()).items()}

    def hash(self, *files: str) -> str:
        """A hash of some files and of all that they import of the library, directly or through others."""
        if files not in self._hashes:
            digest = hashlib.sha256()
            for file in sorted({found for name in files for found in self._closure(name)}):
                digest.update(f"{file}\0{self._read(file).meaning}\0".encode())
            self._hashes[files] = digest.hexdigest()[:12]
        return self._hashes[files]

    def keep(self) -> None:
        """Writes down what was parsed, where that is new and can be written."""
        if all(self._kept.get(file) == source for file, source in self._known.items()):
            return
        temporary = CACHE.with_name(f".{CACHE.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a folder that cannot be written costs a third of a second, no more
            CACHE.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps({**self._kept, **self._known}))
            temporary.replace(CACHE)

    def _closure(self, file: str) -> set[str]:
        seen: set[str] = set()
        waiting = [file]
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                waiting += [found for found in self._read(current).imports if self._exists(found)]
        return seen

    def _exists(self, file: str) -> bool:
        return file in self._known or (self.root / file).exists()

    def _read(self, file: str) -> Source:
        if file not in self._known:
            content = (self.root / file).read_bytes()
            text = hashlib.sha256(content).hexdigest()
            kept = self._kept.get(file)
            self._known[file] = kept if kept and kept.text == text else Source(text, *self._parsed(content))
        return self._known[file]

    def _parsed(self, content: bytes) -> tuple[list[str], str]:
        """Where what a file imports of the library may be, and a hash of its syntax tree without docstrings."""
        tree = ast.parse(content)
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
        return list(dict.fromkeys(imports)), hashlib.sha256(ast.dump(tree).encode()).hexdigest()
