"""The shape of the configuration, with the names that the code defines: formats, types of splits, metrics."""

from typing import Any

import yaml

from code_hash import READERS, SPLITS, Code

FILE = "config/schemas/config.schema.yaml"


def config_schema(code: Code) -> dict[str, Any]:
    """The schema; ``names of: formats`` (``types of splits``, ``metrics``) in it becomes an enumeration of those."""
    names = {
        "formats": list(code.modules(READERS)),
        "types of splits": list(code.modules(SPLITS)),
        "metrics": list(code.metrics()),
    }

    def filled(part: Any) -> Any:
        if isinstance(part, list):
            return [filled(entry) for entry in part]
        if not isinstance(part, dict):
            return part
        rest = {key: filled(value) for key, value in part.items() if key != "names of"}
        return {"enum": names[part["names of"]], **rest} if "names of" in part else rest

    text = (code.root / FILE).read_text()
    schema: dict[str, Any] = filled(yaml.load(text, yaml.CSafeLoader))  # safe_load in a tenth of the time
    return schema
