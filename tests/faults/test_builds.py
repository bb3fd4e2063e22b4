"""A build of an environment that is killed leaves nothing half made, and the next one, at once, succeeds."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile

import pytest
from breaking import wait_for
from project import ROOT

TOOL = ROOT / "envs/fallback/venv_conda.py"
MODULES = 400


@pytest.fixture
def wheels(tmp_path):
    """A folder with a package that takes seconds to install: many modules, which the build compiles."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    content = "".join(f"def function{i}(value):\n    return value + {i}\n\n" for i in range(50)).encode()
    files = {f"many/module{i}.py": content for i in range(MODULES)}
    files["many/__init__.py"] = b""
    files["many-1.0.dist-info/METADATA"] = b"Metadata-Version: 2.1\nName: many\nVersion: 1.0\n"
    files["many-1.0.dist-info/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = "many-1.0.dist-info/RECORD"
    rows = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(data)}")
    files[record] = "\n".join([*rows, f"{record},,", ""]).encode()
    with zipfile.ZipFile(folder / "many-1.0-py3-none-any.whl", "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
    return folder


@pytest.mark.parametrize("moment", ["the venv", "the packages"])
def test_a_killed_build_leaves_nothing_half_made(wheels, tmp_path, moment):
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    file, prefix = tmp_path / "env.yaml", tmp_path / "prefix"
    file.write_text(json.dumps({"name": "x", "dependencies": [f"python={version}", "pip", {"pip": ["many==1.0"]}]}))
    partial = tmp_path / "prefix.partial"
    command = [ROOT / ".venv/bin/python", TOOL, "env", "create", "--file", file, "--prefix", prefix]
    local = {"UV_FIND_LINKS": str(wheels), "UV_NO_INDEX": "1", "UV_CACHE_DIR": str(tmp_path / "cache")}
    environment = {**os.environ, **local}
    builder = subprocess.Popen(command, env=environment)
    sign = "" if moment == "the venv" else "lib/python*/site-packages/many"
    wait_for(lambda: list(partial.glob(sign)) if sign else partial.exists(), moment)
    builder.send_signal(signal.SIGKILL)
    assert builder.wait() == -signal.SIGKILL
    assert not prefix.exists()
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert not partial.exists()
    count = "import many, pathlib; print(len(list(pathlib.Path(many.__file__).parent.glob('__pycache__/*.pyc'))))"
    shown = subprocess.run([prefix / "bin/python", "-c", count], capture_output=True, text=True, check=True)
    assert int(shown.stdout) == MODULES + 1, "modules and __init__"
