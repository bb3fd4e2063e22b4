"""What is checked before anything runs: the configuration against its definition.

What is wrong is said in words: the file and its line, the key, what is wrong with it, and the nearest name or the
remedy.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jsonschema
from snakemake.exceptions import WorkflowError

from code_hash import READERS, SPLITS, Code
from origins import Key, Origins
from plan import RESERVED, did_you_mean
from schema import Schema, config_schema, fill_defaults, keys, parameters

TOP = "top level"
CHOOSERS = ("format", "type")  # the keys that say which others there are
KINDS = {
    "array": "a list",
    "object": "a mapping",
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}
MODELS = "src/trueshift/models"


def check_config(config: dict[str, Any], code: Code, origins: Origins) -> None:
    """Raises a WorkflowError that lists every fault of the merged configuration; fills in its defaults."""
    faults = Faults(config, code, origins)
    faults.of(config, faults.schema)
    # What comes next relies on the shape of the parts that it reads.
    shapeless = {*faults.parts}
    for check, parts in ((_datasets, {"datasets"}), (_models, {"models"}), (_names, set(config))):
        if shapeless.isdisjoint({*parts, TOP}):
            check(faults)
    if faults.lines:
        lines = "\n".join(f"  {line}" for line in sorted(set(faults.lines)))
        raise WorkflowError(f"the configuration has faults:\n{lines}")
    fill_defaults(config, faults.schema)


class Faults:
    """The faults found so far, a line each."""

    def __init__(self, config: Mapping[str, Any], code: Code, origins: Origins) -> None:
        self.config, self.code, self.origins = config, code, origins
        self.schema = config_schema(code)
        self.lines: list[str] = []
        self.parts: set[Key] = set()  # the first keys of what is at fault

    def add(self, path: Sequence[Key], words: str) -> None:
        """Notes what is wrong with a key."""
        self.parts.add(path[0] if path else TOP)
        self.lines.append(f"{self.origins(path)}: {'.'.join(map(str, path)) or TOP}: {words}")

    def of(self, value: Any, schema: Schema, path: Sequence[Key] = ()) -> None:
        """Notes what is wrong with the value of a key, by its schema."""
        validator = jsonschema.Draft202012Validator({**schema, "$defs": self.schema["$defs"]})
        for error in validator.iter_errors(value):
            self._in_words(error, path)

    def unknown(self, path: Sequence[Key], known: Collection[str], what: str, has: str = "known") -> None:
        """Notes a key that there is not, with the nearest one, or the section that it belongs to."""
        self.parts.add(path[0] if path[1:] else TOP)
        key, section = str(path[-1]), [part for part in path[:-1] if isinstance(part, str)]
        hint = self._merged(path) or did_you_mean(key, known, 0.8) or self._elsewhere(key, section)
        self.lines.append(
            f"{self.origins(path)}: {'.'.join(section) or TOP}: {what} '{key}'"
            f"{hint or did_you_mean(key, known)} ({has}: {', '.join(known) or 'none'})"
        )

    def _elsewhere(self, key: str, section: Sequence[str]) -> str:
        """In which other section there is a key of this name."""
        if len(section) == 2 and section[0] == "models":
            takes = parameters(self.code, self.config["models"][section[1]].get("class", ""))
            if takes and key in takes["properties"]:
                return "; it is a parameter: write it under params:"
        places = {".".join(place) for place in keys(self.schema, self.schema["$defs"]) if place[-1] == key}
        places = {place for place in places if place.split(".")[-2:-1] != section[-1:]} if len(section) < 4 else set()
        return f"; is it in the wrong section? There is {' and '.join(sorted(places))}" if 0 < len(places) <= 3 else ""

    def _merged(self, path: Sequence[Key]) -> str:
        """What to say of an unknown key that an earlier file has than the rest of its entry."""
        entry = path[:2]
        if len(path) < 3 or entry[0] not in ("datasets", "models", "predictions"):
            return ""
        here, last = self.origins(path).rpartition(":")[0], self.origins(entry)
        if not here or here == last.rpartition(":")[0]:
            return ""
        return f"; {last} changes {'.'.join(map(str, entry))}, and mappings are merged: give yours a name of its own"

    def _in_words(self, error: jsonschema.ValidationError, above: Sequence[Key]) -> None:
        path, of_key = (*above, *error.absolute_path), "propertyNames" in error.absolute_schema_path
        if error.validator == "additionalProperties" and isinstance(error.schema.get("properties"), Mapping):
            known = list(error.schema["properties"])
            chooser = next((name for name in CHOOSERS if known[:1] == [name]), None)
            what = f"{chooser} {error.instance[chooser]} has no key" if chooser else "unknown key"
            for key in sorted(set(map(str, error.instance)) - set(known)):
                self.unknown((*path, key), known, what, "it has" if chooser else "known")
        elif error.validator == "anyOf" and error.context:
            best = jsonschema.exceptions.best_match([error])
            if best is error:
                self.add(path, error.message)
            else:
                self._in_words(best, above)
        elif error.validator == "pattern" and error.schema.get("pattern", "").startswith("^[A-Za-z0-9"):
            words = f"'{error.instance}' becomes part of a path; use only A-Z a-z 0-9 . _ - and no leading dot"
            self.add((*path, error.instance) if of_key else path, words)
        elif error.validator == "enum" and of_key:
            self.unknown((*path, error.instance), list(error.validator_value), "unknown key")
        elif error.validator == "enum":
            known = [str(value) for value in error.validator_value]
            hint = did_you_mean(str(error.instance), known)
            self.add(path, f"unknown value '{error.instance}'{hint} (known: {', '.join(known)})")
        elif error.validator == "type":
            self.add(path, _wrong_type(error.instance, error.validator_value))
        else:
            self.add(path, error.message)


def _wrong_type(value: Any, wanted: str | list[str]) -> str:
    kinds = [wanted] if isinstance(wanted, str) else wanted
    words = {
        "array": "a list",
        "object": "a mapping",
        "null": "null",
        "integer": "a whole number",
        "boolean": "true or false",
    }
    text = f"{value!r} is not {' or '.join(words.get(kind, f'a {kind}') for kind in kinds)}"
    if isinstance(value, str) and {"number", "integer"} & set(kinds):
        try:
            number = float(value)
        except ValueError:
            return text
        return f"{text}: it is text in YAML; write {number!r}" + (", with the dot" if "e" in value.lower() else "")
    return text


def _datasets(faults: Faults) -> None:
    """What readers and types of splits say of the datasets."""
    config, code = faults.config, faults.code
    readers, types = code.modules(READERS), code.modules(SPLITS)
    for name, entry in config["datasets"].items():
        place = ("datasets", name)
        if name in RESERVED:
            faults.add(place, f"results/{name} is a folder of all datasets; choose another name")
        if "columns" not in entry and "COLUMNS" not in code.constants(readers[entry["source"]["format"]]):
            faults.add(place, "'columns' is a required property")
        for split, definition in entry["splits"].items():
            here = (*place, "splits", split)
            has = code.constants(types[definition["type"]])["SETTINGS"]
            if "k" not in has and not definition.get("folds"):
                faults.add(here, f"type {definition['type']} needs folds: names, and what each holds out")
            if "k" in definition and "folds" in definition:
                other = faults.origins((*here, "folds"))
                faults.add((*here, "k"), f"both k and folds ({other}) are given; give one")


def _models(faults: Faults) -> None:
    """What the classes of models say of their parameters, and which environments there are."""
    config, code = faults.config, faults.code
    environments = [file.stem for file in sorted((code.root / "envs").glob("*.yaml"))]
    for name, entry in config["models"].items():
        place = ("models", name)
        if entry["env"] not in environments:
            faults.unknown((*place, "env", entry["env"]), environments, "unknown environment", "envs/ has")
        schema = parameters(code, entry["class"])
        if schema is None:
            faults.unknown((*place, "class", entry["class"]), _classes(code), "unknown class", "there are")
            continue
        faults.of(entry.get("params", {}), schema, (*place, "params"))
        for variant, changes in entry.get("variants", {}).items():
            own = {key: value for key, value in changes.items() if key != "base"}
            faults.of(own, schema, (*place, "variants", variant))
        _bases(entry.get("variants", {}), place, faults)


def _classes(code: Code) -> list[str]:
    dotted = MODELS.removeprefix("src/").replace("/", ".")
    return [
        f"{dotted}.{module}.{name}"
        for module, file in code.modules(MODELS).items()
        for name in code.classes(file)
        if name[0].isupper()
    ]


def _bases(variants: Mapping[str, Any], place: tuple[Key, ...], faults: Faults) -> None:
    for variant in variants:
        line = [variant]
        while (base := variants[line[-1]].get("base")) is not None:
            here = (*place, "variants", line[-1], "base")
            if base not in variants:
                faults.unknown((*here, base), list(variants), "unknown variant", "the model has")
                break
            if base in line:
                faults.add(here, f"the variants {', '.join(line)} are based on one another in a circle")
                break
            line.append(base)


def _names(faults: Faults) -> None:
    """Whether what ``run`` chooses by name is defined."""
    config, run = faults.config, faults.config["run"]
    for part in ("datasets", "predictions"):
        for i, name in enumerate(run.get(part, [])):
            if name not in config[part]:
                faults.unknown(("run", part, i, name), list(config[part]), f"unknown {part[:-1]}", f"{part} has")
    for i, item in enumerate(run["models"]):
        model, _, variant = item.partition("/")
        if model not in config["models"]:
            faults.unknown(("run", "models", i, model), list(config["models"]), "unknown model", "models has")
        elif variant not in (known := ["default", *config["models"][model].get("variants", {})]) and variant:
            faults.unknown(("run", "models", i, variant), known, "unknown variant", f"{model} has")
    chosen = [config["datasets"][name]["splits"] for name in run["datasets"] if name in config["datasets"]]
    splits = list(dict.fromkeys(split for entry in chosen for split in entry))
    for i, name in enumerate(run["splits"]):
        if run["splits"] != ["all"] and name not in splits:
            faults.unknown(("run", "splits", i, name), splits, "unknown split", "the chosen datasets have")
