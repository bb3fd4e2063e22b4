"""Resolves ``envs/requirements/*.in`` into full locks: one conda env file each, and ``.txt`` files for the driver.

Run ``make lock`` after changing a requirement, or ``python envs/lock.py NAME`` for one lock alone. A lock lists every
package, transitive ones too, as ``name==version``; it holds no address, so it serves any index or mirror, and no CUDA
package: torch pins its own for the build it finds.
"""

import re
import subprocess
import sys
from pathlib import Path

from fallback.venv_conda import uv, uv_environment

HERE = Path(__file__).parent
PYTHON = "3.11"
DRIVER = ("driver", "slurm")
BROUGHT_BY_TORCH = re.compile(r"(nvidia-|cuda-|triton==)")


def resolve(requirements: Path, *options: str) -> list[str]:
    """The lines of a lock for one requirements file; torch's local build tag is dropped, any build satisfies it."""
    command = [uv(), "pip", "compile", "--no-header", "--no-annotate", "--python-version", PYTHON, *options]
    command.append(str(requirements))
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=uv_environment()).stdout
    return [re.sub(r"\+cpu$", "", line) for line in output.splitlines() if not BROUGHT_BY_TORCH.match(line)]


def main(chosen: list[str]) -> None:
    """Writes the locks ``chosen``, or every one."""
    known = {file.stem: file for file in sorted(HERE.glob("requirements/*.in"))}
    for name in chosen or known:
        if name not in known:
            sys.exit(f"error: no envs/requirements/{name}.in (there are: {', '.join(known)})")
        requirements = known[name]
        if name in DRIVER:  # installed by pip on whatever Python ≥ 3.11 the user has
            HERE.joinpath(f"{name}.txt").write_text("\n".join(resolve(requirements, "--universal")) + "\n")
            continue
        pins = "".join(f"      - {line}\n" for line in resolve(requirements))
        head = f"name: {name}\nchannels:\n  - conda-forge\n  - nodefaults\ndependencies:\n  - python={PYTHON}\n"
        HERE.joinpath(f"{name}.yaml").write_text(f"{head}  - pip\n  - pip:\n{pins}")
        print(f"envs/{name}.yaml: {pins.count(chr(10))} packages")


if __name__ == "__main__":
    main(sys.argv[1:])
