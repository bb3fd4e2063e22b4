"""One suite for all models of config/models.yaml; ``pytest tests/conformance --env torch`` takes those of one env.

It runs inside that environment, so it needs nothing but pytest, NumPy, SciPy, pandas, anndata, PyYAML and the model's
own packages. A model is trained as its variant ``tiny``, else ``small``, else as it stands.
"""

from pathlib import Path

import pytest
import yaml

REGISTRY = Path(__file__).parents[2] / "config" / "models.yaml"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--env", default="baselines", help="the environment whose models are tested, as in models.yaml")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    env = metafunc.config.getoption("--env", default="baselines")
    models = yaml.safe_load(REGISTRY.read_text())["models"]
    chosen = {name: entry for name, entry in models.items() if entry["env"] == env}
    if not chosen:
        raise pytest.UsageError(f"no model of {REGISTRY.name} has env {env}")
    if "entry" in metafunc.fixturenames:
        metafunc.parametrize("entry", chosen.values(), ids=chosen.keys(), scope="session", indirect=True)


@pytest.fixture(scope="session")
def entry(request: pytest.FixtureRequest) -> dict:
    """One model of the registry, with the settings that are tested as ``settings``."""
    entry = request.param
    variants = entry.get("variants", {})
    params = {**entry.get("params", {}), **variants.get("tiny", variants.get("small", {}))}
    if "features" in entry.get("needs", []):
        params.setdefault("features", "programs")
    return {"needs": [], "deterministic": False, **entry, "settings": {"class": entry["class"], "params": params}}
