"""Writes the key tables of config/README.md from the schema, so that the two cannot disagree: ``make docs``."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from code_hash import Code
from schema import config_schema

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- keys, written from config/schemas/config.schema.yaml by make docs -->", "<!-- end of keys -->"


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


def table(entries: Iterable[tuple[str, str, str, str]]) -> list[str]:
    """The lines of one Markdown table of keys."""
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for row in entries:
        key, value, default, meaning = (cell.replace("|", "\\|") for cell in row)
        lines.append(f"| `{key}` | {value} | {f'`{default}`' if default else ''} | {meaning} |")
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


def tables() -> str:
    """The tables, one per top-level key and one per shared mapping, as Markdown."""
    schema = config_schema(Code(ROOT))
    lines = []
    for top in schema["properties"]:
        part = {"properties": {top: schema["properties"][top]}}
        lines += [f"### `{top}`", "", *table(rows(part, schema["$defs"])), ""]
    for title, entries in shared(schema["$defs"]):
        lines += [f"### {title}", "", *table(entries), ""]
    return "\n".join(lines)


def filled(page: str, start: str, end: str, content: str) -> str:
    """``page`` with ``content`` in place of what stands between its two marker lines."""
    before, rest = page.split(start)
    return f"{before}{start}\n\n{content}\n{end}{rest.split(end)[1]}"


def written(page: str) -> str:
    """config/README.md as it should be, from config/README.md as it is."""
    return filled(page, START, END, tables())


def main() -> None:
    """Writes the page anew."""
    page = ROOT / "config/README.md"
    page.write_text(written(page.read_text()))


if __name__ == "__main__":
    main()
