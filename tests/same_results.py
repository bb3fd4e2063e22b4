"""Compares two folders of results: every prediction and every score must be there in both, equal to the byte.

    git worktree add ../before REVISION       # then, in each checkout:
    snakemake --cores 2 && for name in mini lincs; do snakemake --cores 2 --configfile tests/$name.yaml; done
    python tests/same_results.py ../before/results results

For changes that must not change a number. Prints what differs, and exits with 1 if anything does.
"""

import sys
from pathlib import Path

FILES = ("prediction.h5ad", "scores.parquet")


def contents(folder: Path) -> dict[str, bytes]:
    """The files compared, by their path below ``folder``."""
    return {str(path.relative_to(folder)): path.read_bytes() for name in FILES for path in folder.rglob(name)}


def main() -> None:
    """Compares and says what was found."""
    before, after = (contents(Path(folder)) for folder in sys.argv[1:3])
    one_sided = sorted(before.keys() ^ after.keys())
    differing = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    for name in one_sided:
        print(f"only {'before' if name in before else 'after'}: {name}")
    for name in differing:
        print(f"differs: {name}")
    print(
        f"{len(before.keys() & after.keys()) - len(differing)} equal, {len(differing)} differ, {len(one_sided)} alone"
    )
    sys.exit(bool(one_sided or differing or not before))


if __name__ == "__main__":
    main()
