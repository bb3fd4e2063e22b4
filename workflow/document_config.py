"""Writes what config/README.md and docs/parameters.md say of keys from their definition: ``make docs``."""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from code_hash import READERS, Code
from schema import config_schema, parameters

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- keys, written from their definition by make docs -->", "<!-- end of keys -->"
SOURCES = (
    "Each with the entry of a small dataset, to which `splits:` are added. Where a value is a file, it is a path or a "
    "mapping, see below; `{data}` is the data folder."
)


def rows(schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(key, values, default, meaning) of every key below a schema, mappings entered depth first."""
    for key, value in schema.get("properties", {}).items():
        entry = resolve(value, definitions)
        name = f"{path}{key}"
        default = yaml.safe_dump(entry["default"], default_flow_style=True).split("\n")[0] if "default" in entry else ""
        yield name, values(entry, definitions), default, entry.get("description", "")
        yield from rows(entry, definitions, f"{name}.")
        inner = entry.get("additionalProperties")
        if isinstance(inner, dict):
            yield from rows(resolve(inner, definitions), definitions, f"{name}.*.")


def resolve(entry: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The entry with its reference replaced by what it points to."""
    if "$ref" not in entry:
        return entry
    return {**definitions[entry["$ref"].rpartition("/")[2]], **{k: v for k, v in entry.items() if k != "$ref"}}


def values(entry: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What an entry accepts, in a few words."""
    entry = resolve(entry, definitions)
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "anyOf" in entry:
        return " or ".join(values(option, definitions) for option in entry["anyOf"])
    if "const" in entry:
        return f"`{json.dumps(entry['const'])}`" if isinstance(entry["const"], bool) else f"`{entry['const']}`"
    words = {"array": "list", "object": "mapping", "null": "nothing"}
    kinds = entry.get("type", "")
    return " or ".join(words.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def table(
    entries: Iterable[tuple[str, ...]], head: tuple[str, ...] = ("key", "value", "default", "meaning")
) -> list[str]:
    """The lines of one Markdown table of keys."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in entries:
        key, value, default, *meaning = (cell.replace("|", "\\|") for cell in row)
        lines.append(f"| {' | '.join([f'`{key}`', value, f'`{default}`' if default else '', *meaning])} |")
    return lines


def shared(definitions: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, str, str, str]]]]:
    """The mappings that many keys accept instead of a plain value, each with a title and its rows."""
    for name, title in (
        ("column", "A column of `columns`, as a mapping"),
        ("file", "A file, as a mapping"),
        ("features", "A file of perturbation features, as a mapping"),
    ):
        for option in definitions[name]["anyOf"]:
            if "properties" in option:
                yield title, list(rows(option, definitions))


def of_types(split: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """The rows of the keys of splits; where not all types have a key, its meaning names those that do."""
    types = {branch["if"]["properties"]["type"]["const"]: branch["then"]["properties"] for branch in split["allOf"]}
    for key in dict.fromkeys(key for entries in types.values() for key in entries if key != "type"):
        having = {name: entries[key] for name, entries in types.items() if key in entries}
        ((_, value, default, meaning),) = list(rows({"properties": {key: next(iter(having.values()))}}, definitions))[
            :1
        ]
        where = "" if len(having) == len(types) else f" ({', '.join(having)})"
        yield f"datasets.*.splits.*.{key}", value, default, meaning + where


def of_sources(code: Code, schema: dict[str, Any]) -> Iterator[str]:
    """For each format what it is, a small entry and its keys, as lines of Markdown."""
    source = schema["$defs"]["dataset"]["properties"]["source"]
    for branch in source["allOf"]:
        name = branch["if"]["properties"]["format"]["const"]
        text = ast.get_docstring(ast.parse((ROOT / READERS / f"{name}.py").read_text())) or ""
        keys = {key: value for key, value in branch["then"]["properties"].items() if key != "format"}
        yield from ("", f"#### `{name}`", "", text.split("\n")[0].replace("``", "`"), "")
        if entry := example(text):
            yield from ("```yaml", *entry, "```", "")
        yield from table(rows({"properties": keys}, schema["$defs"]))


def example(text: str) -> list[str]:
    """The entry of a dataset in the text of a reader: the lines of the block that begins with its kind, if any."""
    block = text.partition("    kind: ")[2].split("\n\n")[0]
    return [line.removeprefix("    ") for line in f"    kind: {block}".splitlines()] if block else []


def tables() -> str:
    """The tables: of each top-level key, of the keys of each format and of each shared mapping, as Markdown."""
    code = Code(ROOT)
    schema = config_schema(code)
    lines = []
    for top in schema["properties"]:
        part = {"properties": {top: schema["properties"][top]}}
        entries = list(rows(part, schema["$defs"]))
        if top == "datasets":
            entries += of_types(schema["$defs"]["split"], schema["$defs"])
        lines += [f"### `{top}`", "", *table(entries), ""]
    lines += ["### The formats of `source`", "", SOURCES, *of_sources(code, schema), ""]
    for title, entries in shared(schema["$defs"]):
        lines += [f"### {title}", "", *table(entries), ""]
    return "\n".join(lines)


def of_models(page: str) -> str:
    """docs/parameters.md as it should be: of each class of models its parameters and its own words."""
    code, lines = Code(ROOT), []
    models = yaml.safe_load((ROOT / "config/models.yaml").read_text())["models"]
    for dotted in dict.fromkeys(entry["class"] for entry in models.values()):
        names = [f"`{name}`" for name, entry in models.items() if entry["class"] == dotted]
        module, _, name = dotted.rpartition(".")
        tree = ast.parse((ROOT / f"src/{module.replace('.', '/')}.py").read_text())
        (node,) = (part for part in tree.body if isinstance(part, ast.ClassDef) and part.name == name)
        takes = parameters(code, dotted) or {}
        entries = [row[:3] for row in rows(takes, {})]
        lines += [f"## {', '.join(names)}", "", markdown(ast.get_docstring(node) or ""), ""]
        lines += table(entries, ("parameter", "value", "default")) if entries else ["It has no parameters."]
        lines.append("")
    return filled(page, START, END, "\n".join(lines))


def markdown(docstring: str) -> str:
    """A docstring as Markdown."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", docstring)
    return text.replace("``", "`")


def filled(page: str, start: str, end: str, content: str) -> str:
    """``page`` with ``content`` in place of what stands between its two marker lines."""
    before, rest = page.split(start)
    return f"{before}{start}\n\n{content}\n{end}{rest.split(end)[1]}"


def written(page: str) -> str:
    """config/README.md as it should be, from config/README.md as it is."""
    return filled(page, START, END, tables())


def main() -> None:
    """Writes the pages anew."""
    for name, made in (("config/README.md", written), ("docs/parameters.md", of_models)):
        page = ROOT / name
        page.write_text(made(page.read_text()))


if __name__ == "__main__":
    main()
