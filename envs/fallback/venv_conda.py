"""The few conda calls that Snakemake makes, answered with uv and venvs, for machines without conda.

An env file is honoured whole or refused: it may ask for ``python=X.Y``, ``pip`` and one ``pip:`` list of exact pins.
A build happens in a sibling folder and is renamed when complete; builders of the same prefix wait for one another.
"""

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

VERSION = "24.7.1"  # the oldest conda that Snakemake accepts as current
PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?==[A-Za-z0-9.!+_-]+")


class RefusedError(Exception):
    """The env file asks for something a venv cannot hold."""


def parse(file: Path) -> tuple[str, list[str]]:
    """The Python version and the pins of an env file; raises :class:`RefusedError` for anything else in it."""
    content = yaml.safe_load(file.read_text())
    unknown = sorted(set(content) - {"name", "channels", "dependencies"})
    if unknown:
        raise RefusedError(f"{file}: key {unknown[0]} is not understood without conda")
    python, pins = None, []
    for item in content.get("dependencies") or []:
        if isinstance(item, dict) and set(item) == {"pip"}:
            pins += item["pip"]
        elif isinstance(item, str) and (
            match := re.fullmatch(r"python\s*={1,2}\s*(\d+\.\d+(?:\.\d+)?)(?:\.\*)?", item)
        ):
            python = match[1]
        elif item != "pip":
            raise RefusedError(
                f"{file}: {item} is a conda package; install conda, or find it on PyPI and pin it under pip:"
            )
    if python is None:
        raise RefusedError(f"{file}: no python=X.Y among the dependencies")
    for pin in pins:
        if not PIN.fullmatch(pin):
            raise RefusedError(f"{file}: {pin} is not an exact pin (name==version)")
    return python, pins


def uv() -> str:
    """The uv of the driver's environment, else the one on PATH."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        raise RefusedError("uv is not installed in the driver's environment; run make install")
    return found


def uv_environment() -> dict[str, str]:
    """The environment for uv, which does not read pip's own settings: they are passed on."""
    environment = dict(os.environ)
    passed = (
        ("find-links", "UV_FIND_LINKS", ","),
        ("index-url", "UV_DEFAULT_INDEX", " "),
        ("cert", "SSL_CERT_FILE", " "),
    )
    for setting, variable, separator in passed:
        value = os.environ.get("PIP_" + setting.upper().replace("-", "_"))
        if value is None:
            command = [sys.executable, "-m", "pip", "config", "get", f"global.{setting}"]
            value = subprocess.run(command, capture_output=True, text=True).stdout
        if value.strip():
            environment.setdefault(variable, separator.join(value.replace("'", "").split()))
    return environment


def create(file: Path, prefix: Path) -> None:
    """Builds the environment at ``prefix``, atomically; an environment that stands there already is left alone."""
    python, pins = parse(file)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with prefix.with_name(prefix.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (prefix / "conda-meta").is_dir():
            return
        partial = prefix.with_name(prefix.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)  # a build that was killed
        tool = uv()
        # children hold the lock too: they outlive a builder that is killed, and would write into the next one's folder
        options: dict[str, Any] = {"check": True, "env": uv_environment(), "pass_fds": [lock.fileno()]}
        subprocess.run([tool, "venv", "-q", "--relocatable", "--python", python, partial], **options)
        requirements = partial / "requirements.txt"
        requirements.write_text("\n".join(pins) + "\n")
        install = [tool, "pip", "install", "-q", "--compile-bytecode", "--python", partial / "bin/python"]
        subprocess.run([*install, "-r", requirements], **options)
        (partial / "conda-meta").mkdir()  # how Snakemake and people tell an environment from a folder
        partial.rename(prefix)


def main(arguments: list[str]) -> None:
    """Answers one call; an unknown one is refused."""
    if arguments in (["--version"], ["-V"]):
        print(f"conda {VERSION}")
    elif arguments[:1] == ["info"]:
        root = str(Path(__file__).resolve().parent)
        print(json.dumps({"conda_prefix": root, "root_prefix": root, "platform": "linux-64", "conda_version": VERSION}))
    elif arguments == ["config", "--get", "channel_priority", "--json"]:
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    elif arguments[:1] == ["clean"]:
        pass
    elif arguments[:2] == ["env", "create"]:
        parser = argparse.ArgumentParser(prog="conda env create")
        parser.add_argument("--quiet", action="store_true")
        parser.add_argument("--no-default-packages", action="store_true")
        parser.add_argument("--file", type=Path, required=True)
        parser.add_argument("--prefix", type=Path, required=True)
        options = parser.parse_args(arguments[2:])
        create(options.file, options.prefix.absolute())
    else:
        raise RefusedError(f"conda {' '.join(arguments)}: not understood without conda")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RefusedError as refused:
        sys.exit(f"conda (venv fallback): {refused}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"conda (venv fallback): {' '.join(map(str, error.cmd))} failed with status {error.returncode}")
