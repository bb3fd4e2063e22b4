"""What functions and classes take, read from their code without running it, as JSON Schema.

Types come from annotations, defaults from defaults, words from a docstring's lines of the form
``- ``name``, ``other``: words``.
"""

import ast
import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean", "Path": "string"}
LISTS, MAPPINGS = ("Sequence", "list", "tuple"), ("Mapping", "dict")
WORDS = re.compile(r"^- (``\w+``(?:(?:, | and )``\w+``)*): (.*)", re.S)


def taken(tree: ast.Module, constants: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the functions and classes of a module take, by their names and those that they are given besides.

    ``properties`` and ``required`` are those of JSON Schema, an object of parameters by name; a class without
    constructor has none. ``bases`` are the names of a class's own.
    """
    found: dict[str, dict[str, Any]] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found[node.name] = _of_call(node, words_of(node), constants)
        elif isinstance(node, ast.ClassDef):
            makers = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            made = _of_call(makers[0], words_of(node), constants) if makers else {}
            found[node.name] = {**made, "bases": bases}
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in found:
            found |= {name.id: found[node.value.id] for name in node.targets if isinstance(name, ast.Name)}
    return found


def _of_call(node: ast.FunctionDef, words: dict[str, str], constants: dict[str, Any]) -> dict[str, Any]:
    plain = [*node.args.posonlyargs, *node.args.args]
    defaults = [None] * (len(plain) - len(node.args.defaults)) + [*node.args.defaults, *node.args.kw_defaults]
    properties: dict[str, Any] = {}
    required = []
    for argument, default in zip([*plain, *node.args.kwonlyargs], defaults, strict=True):
        name = argument.arg
        if name == "self":
            continue
        properties[name] = _type(argument.annotation)
        if default is None:
            required.append(name)
        else:
            with contextlib.suppress(ValueError, KeyError):  # not a literal: it has a default, but none to show
                properties[name]["default"] = _value(default, constants)
        if name in words:
            properties[name]["description"] = words[name]
    return {"properties": properties, "required": required}


def _type(node: ast.expr | None) -> dict[str, Any]:
    """The JSON Schema of an annotation; any value where it says more than JSON Schema can."""
    if isinstance(node, ast.Constant) and node.value is None:
        return {"type": "null"}
    if isinstance(node, ast.Name) and node.id in TYPES:
        return {"type": TYPES[node.id]}
    if isinstance(node, ast.BinOp):
        options = [part for part in (_type(node.left), _type(node.right)) if part]
        several = [option for part in options for option in part.get("anyOf", [part])]
        distinct = [option for i, option in enumerate(several) if option not in several[:i]]
        return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if node.value.id == "Literal":
            return {"enum": [ast.literal_eval(part) for part in parts]}
        if node.value.id in LISTS:
            return {"type": "array", "items": _type(parts[0])}
        if node.value.id in MAPPINGS:
            return {"type": "object", "additionalProperties": _type(parts[-1])}
    return {}


def _value(node: ast.expr, constants: dict[str, Any]) -> Any:
    """A default, as JSON; a constant of the module is looked up."""
    return constants[node.id] if isinstance(node, ast.Name) else json.loads(json.dumps(ast.literal_eval(node)))


def words_of(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> dict[str, str]:
    """What a docstring says of names, as ``- ``name``: words``."""
    return {name: words for names, words in _items(ast.get_docstring(node) or "") for name in names}


def _items(docstring: str) -> Iterator[tuple[list[str], str]]:
    for paragraph in docstring.split("\n\n"):
        for item in re.split(r"\n(?=- )", paragraph):
            if match := WORDS.match(" ".join(line.strip() for line in item.splitlines())):
                yield re.findall(r"\w+", match[1].replace(" and ", " ")), match[2].replace("``", "")
