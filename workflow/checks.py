"""Checks the configuration against its schema and says what is wrong in words: where, what, and the nearest name."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from snakemake.exceptions import WorkflowError

FILES = {"datasets": "config/datasets.yaml", "models": "config/models.yaml"}


def check_config(config: Mapping[str, Any], schemas: Path) -> None:
    """Raises a WorkflowError that lists every fault of the merged configuration."""
    schema = yaml.safe_load((schemas / "config.schema.yaml").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    faults = [line for error in validator.iter_errors(dict(config)) for line in _in_words(error)]
    if faults:
        raise WorkflowError("the configuration has faults:\n" + "\n".join(f"  {line}" for line in sorted(set(faults))))


def _in_words(error: jsonschema.ValidationError) -> Iterable[str]:
    keys = [str(key) for key in error.absolute_path]
    place = f"{FILES.get(keys[0] if keys else '', 'config/config.yaml')}: {'.'.join(keys) or 'top level'}"
    if error.validator == "additionalProperties" and isinstance(error.schema.get("properties"), Mapping):
        known = list(error.schema["properties"])
        for key in set(error.instance) - set(known):
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            yield f"{place}: unknown key '{key}'{hint} (known: {', '.join(known)})"
    elif error.validator == "anyOf" and error.context:
        best = jsonschema.exceptions.best_match([error])
        yield from _in_words(best) if best is not error else [f"{place}: {error.message}"]
    elif error.validator == "pattern" and error.schema.get("pattern", "").startswith("^[A-Za-z0-9"):
        yield f"{place}: '{error.instance}' becomes part of a path; use only A-Z a-z 0-9 . _ - and no leading dot"
    elif error.validator == "enum":
        near = difflib.get_close_matches(str(error.instance), [str(v) for v in error.validator_value], 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        yield f"{place}: unknown value '{error.instance}'{hint} (known: {', '.join(map(str, error.validator_value))})"
    else:
        yield f"{place}: {error.message}"
