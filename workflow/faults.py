"""The faults of a configuration, in words: file and line, key, what is wrong, and the nearest name or the remedy."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jsonschema
from jsonschema.validators import extend

from code_hash import Code
from origins import Key, Origins
from plan import did_you_mean
from schema import Schema, config_schema, keys, parameters

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


def is_whole(checker: Any, value: Any) -> bool:
    """Whether a value is an integer; JSON Schema takes 2.0 for one, which names no fold, seed or file."""
    return isinstance(value, int) and not isinstance(value, bool)


CHECKER = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", is_whole)
Validator = extend(jsonschema.Draft202012Validator, type_checker=CHECKER)


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
        validator = Validator({**schema, "$defs": self.schema["$defs"]})
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
        if section[:1] == ["models"] and key == "seed":
            return "; seeds are chosen by run.seeds"
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
            self._any_of(error, path, above)
        elif error.validator == "enum" and of_key:
            self.unknown((*path, error.instance), list(error.validator_value), "unknown key")
        elif error.validator == "enum":
            known = [str(value) for value in error.validator_value]
            hint = did_you_mean(error.instance, known) if isinstance(error.instance, str) else ""
            self.add(path, f"unknown value {_written(error.instance)}{hint} (known: {', '.join(known)})")
        elif error.validator == "type" and of_key:
            self.add((*path, error.instance), f"the name {_written(error.instance)} is no text in YAML: quote it")
        elif error.validator == "type":
            wanted = error.validator_value
            kinds = [KINDS[kind] for kind in ([wanted] if isinstance(wanted, str) else wanted)]
            self.add(path, _wrong_type(error.instance, kinds))
        else:
            words = error.schema.get("wrong") or error.message
            value = "" if isinstance(error.instance, Mapping | list) else f"{_written(error.instance)}: "
            self.add((*path, error.instance) if of_key else path, value + words)

    def _any_of(self, error: jsonschema.ValidationError, path: Sequence[Key], above: Sequence[Key]) -> None:
        """What is wrong with the form that a value has, of those that it may have; if it has none, which there are."""
        near = [one for one in error.context or [] if one.validator not in ("type", "const", "enum") or one.path]
        if near:
            self._in_words(jsonschema.exceptions.best_match(near), above)
        else:
            kinds = [word for form in error.validator_value for word in self._forms(form)]
            self.add(path, _wrong_type(error.instance, list(dict.fromkeys(kinds))))

    def _forms(self, form: Schema) -> list[str]:
        """What a form accepts, in words."""
        form = {**self.schema["$defs"].get(form.get("$ref", "").rpartition("/")[2], {}), **form}
        if "const" in form or "enum" in form:
            return [_written(value) for value in form.get("enum", [form.get("const")])]
        if "anyOf" in form:
            return [word for option in form["anyOf"] for word in self._forms(option)]
        kinds = form.get("type", [])
        return [KINDS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)]


def _wrong_type(value: Any, kinds: Sequence[str]) -> str:
    """That a value is none of the kinds; for a number that YAML reads as text, how it is written."""
    text = f"{_written(value)} is not {' or '.join(kinds)}"
    if isinstance(value, float) and value.is_integer() and KINDS["integer"] in kinds:
        return f"{text}; write {int(value)}"
    if not isinstance(value, str):
        return text
    try:
        number = float(value)
    except ValueError:
        return text
    if KINDS["number"] in kinds:
        return f"{text}: it is text in YAML; write {_number(number)}"
    return (
        f"{text}: it is text in YAML; write {int(number)}"
        if number.is_integer() and KINDS["integer"] in kinds
        else text
    )


def _number(value: float) -> str:
    """A number as YAML reads it: with a dot before the exponent, which Python leaves out."""
    mantissa, exponent, power = repr(value).partition("e")
    return mantissa + (".0" if exponent and "." not in mantissa else "") + exponent + power


def _written(value: Any) -> str:
    """A value as a user wrote it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true (also yes, on)", False: "false (also no, off)"}[value]
    return f"'{value}'"
