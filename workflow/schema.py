"""The one definition of the configuration: config/schemas/config.schema.yaml, filled with what the code defines.

What the YAML file leaves to the code it says by three keys of its own:

* ``names of``: an enumeration of the kinds of data, formats, types of splits or metrics that there are;
* ``defaults of``: a file and its constant, a mapping of names to defaults;
* ``for each of``: the keys of every format (what its reader takes) or of every type of split (its settings).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from code_hash import KINDS, READERS, SPLIT_SETTINGS, SPLITS, Code

FILE = "config/schemas/config.schema.yaml"
GIVEN = ("log", "values", "scratch")  # what a reader gets beside the settings of a source
DRIVEN = ("run", "evaluation", "models", "predictions")  # parts whose defaults only the workflow reads

Schema = dict[str, Any]


def config_schema(code: Code) -> Schema:
    """The JSON Schema of the merged configuration, but for the parameters of models (:func:`parameters`)."""
    text = (code.root / FILE).read_text()
    written: Schema = yaml.load(text, yaml.CSafeLoader)  # safe_load in a tenth of the time
    names = {
        "kinds": code.constants(KINDS)["KINDS"],
        "formats": list(code.modules(READERS)),
        "types of splits": list(code.modules(SPLITS)),
        "metrics": list(code.metrics()),
    }
    file = written["$defs"]["file"]["anyOf"][1]["properties"]
    branches = {
        "formats": [("format", name, of_format(code, name, file)) for name in names["formats"]],
        "types of splits": [("type", name, of_split(code, name)) for name in names["types of splits"]],
    }

    def filled(part: Any) -> Any:
        if isinstance(part, list):
            return [filled(entry) for entry in part]
        if not isinstance(part, dict):
            return part
        entry = {key: filled(value) for key, value in part.items() if not key.endswith(" of")}
        if "names of" in part:
            entry = {"enum": names[part["names of"]], **entry}
        if "defaults of" in part:
            path, constant = part["defaults of"].split()
            defaults = code.constants(path)[constant]
            entry["properties"] = {k: {**value, "default": defaults[k]} for k, value in entry["properties"].items()}
        if "for each of" in part:
            entry["allOf"] = [
                {
                    "if": {"required": [key], "properties": {key: {"const": name}}},
                    "then": {**branch, "additionalProperties": False},
                }
                for key, name, branch in branches[part["for each of"]]
            ]
        return entry

    schema: Schema = filled(written)
    return schema


def of_format(code: Code, name: str, file: Schema) -> Schema:
    """The keys of a source of one format, ``file`` being those of a file: what its reader takes."""
    path = code.modules(READERS)[name]
    takes, files = code.takes(path, "read"), code.constants(path)["FILES"]
    if takes is None:
        raise LookupError(f"{path}: a format needs a function read; see docs/add-a-reader.md")
    properties = {"format": {}, **{key: value for key, value in takes["properties"].items() if key not in GIVEN}}
    for key in files:
        one = {"$ref": "#/$defs/file"}
        kind = {"type": "object", "minProperties": 1, "additionalProperties": one} if key == "files" else one
        properties[key] = kind | {name: properties[key][name] for name in ("description",) if name in properties[key]}
    if "path" in files:  # its facts stand among the settings of the source
        properties |= {**file, "path": {**file["path"], "description": properties["path"].get("description", "")}}
    return {"properties": properties, "required": takes["required"]}


def of_split(code: Code, name: str) -> Schema:
    """The keys of a split of one type: what all types have, and its own."""
    path = code.modules(SPLITS)[name]
    common, own = code.constants(SPLIT_SETTINGS), code.constants(path)
    defaults = {**common["COMMON"], **own["SETTINGS"]}
    kinds, words = {**common["KEYS"], **own.get("KEYS", {})}, {**code.words(SPLIT_SETTINGS), **code.words(path)}
    properties: Schema = {"type": {}}
    for key, default in defaults.items():
        if key == "type":
            continue
        properties[key] = {**kinds.get(key, {})}
        if default is not None:
            properties[key]["default"] = default
        if key in words:
            properties[key]["description"] = words[key]
    return {"properties": properties, "required": ["files"] if "files" in properties else []}


def parameters(code: Code, dotted: str) -> Schema | None:
    """The JSON Schema of the parameters of a model's class, by its dotted path; None if there is no such class."""
    module, _, name = dotted.rpartition(".")
    path = f"src/{module.replace('.', '/')}.py"
    takes = code.takes(path, name) if (code.root / path).is_file() else None
    if takes is None:
        return None
    properties = {key: value for key, value in takes["properties"].items() if key != "seed"}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def fill_defaults(config: dict[str, Any], schema: Schema) -> None:
    """Writes the defaults of what only the workflow reads into the configuration; the library has those of the rest."""
    for part in DRIVEN:
        _fill(config.get(part), schema["properties"][part], schema["$defs"])


def _fill(value: Any, schema: Schema, definitions: Schema) -> None:
    schema = {**definitions.get(schema.get("$ref", "").rpartition("/")[2], {}), **schema}
    if not isinstance(value, dict):
        return
    for key, entry in schema.get("properties", {}).items():
        if "default" in entry and key not in value:
            value[key] = entry["default"]
        _fill(value.get(key), entry, definitions)
    if isinstance(inner := schema.get("additionalProperties"), Mapping):
        for key in value.keys() - schema.get("properties", {}).keys():
            _fill(value[key], dict(inner), definitions)


def keys(schema: Schema, definitions: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all keys that a schema knows; ``*`` stands for a name that the user chooses."""
    schema = {**definitions.get(schema.get("$ref", "").rpartition("/")[2], {}), **schema}
    for key, entry in schema.get("properties", {}).items():
        yield (*path, key)
        yield from keys(entry, definitions, (*path, key))
    for branch in schema.get("allOf", []):
        yield from keys(branch.get("then", {}), definitions, path)
    for form in schema.get("anyOf", []):
        if "properties" in form:
            yield from keys(form, definitions, (*path[:-1], "*"))
    if isinstance(inner := schema.get("additionalProperties"), Mapping):
        yield from keys(dict(inner), definitions, (*path, "*"))
