"""Writes the key tables of config/README.md from the schema, so that the two cannot disagree: ``make docs``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- keys, written from config/schemas/config.schema.yaml by make docs -->", "<!-- end of keys -->"


def rows(schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(key, values, default, meaning) of every key below a schema, mappings entered depth first."""
    for key, value in schema.get("properties", {}).items():
        entry = resolve(value, definitions)
        name = f"{path}{key}"
        default = yaml.safe_dump(entry["default"], default_flow_style=True).split("\n")[0] if "default" in entry else ""
        yield name, values(entry), default, entry.get("description", "")
        yield from rows(entry, definitions, f"{name}.")
        inner = entry.get("additionalProperties")
        if isinstance(inner, dict):
            yield from rows(resolve(inner, definitions), definitions, f"{name}.*.")


def resolve(entry: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The entry with its reference replaced by what it points to."""
    if "$ref" not in entry:
        return entry
    return {**definitions[entry["$ref"].rpartition("/")[2]], **{k: v for k, v in entry.items() if k != "$ref"}}


def values(entry: dict[str, Any]) -> str:
    """What an entry accepts, in a few words."""
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "anyOf" in entry:
        return " or ".join(values(option) for option in entry["anyOf"])
    if "const" in entry:
        return f"`{entry['const']}`"
    words = {"array": "list", "object": "mapping", "null": "nothing"}
    kinds = entry.get("type", "")
    return " or ".join(words.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def tables() -> str:
    """The tables, one per top-level key, as Markdown."""
    schema = yaml.safe_load((ROOT / "config/schemas/config.schema.yaml").read_text())
    lines = []
    for top in schema["properties"]:
        part = {"properties": {top: schema["properties"][top]}}
        lines += [f"### `{top}`", "", "| key | value | default | meaning |", "|---|---|---|---|"]
        for row in rows(part, schema["$defs"]):
            key, value, default, meaning = (cell.replace("|", "\\|") for cell in row)
            lines.append(f"| `{key}` | {value} | {f'`{default}`' if default else ''} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    page = ROOT / "config/README.md"
    before, rest = page.read_text().split(START)
    after = rest.split(END)[1]
    page.write_text(f"{before}{START}\n\n{tables()}\n{END}{after}")


if __name__ == "__main__":
    main()
