"""Scores what others predicted: an h5ad of predicted cells or profiles against one split of a dataset.

    python workflow/score_others.py mine.h5ad --dataset simulated --split new_context

makes the truth side and the floors if they are not there (means: nothing is trained), reads the file, refuses it by
name if genes, conditions or scale are not those asked, and fills results/runs/mine/tables and figures. The run is
named after the file, or by --name; a name that holds the scores of another file is refused. What was run is left in
results/runs/mine/score_others.yaml: its entries may be copied into a configuration that has more models.
"""

import argparse
import os
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"


def main() -> None:
    """Writes the configuration and becomes Snakemake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="h5ad; obs says context, perturbation and dose of each row")
    parser.add_argument("--dataset", required=True, help="its name in the configuration")
    parser.add_argument("--split", required=True, help="one of the dataset's splits")
    parser.add_argument("--name", help="the name in the tables and of the run; the file's where not given")
    parser.add_argument("--column", action="append", default=[], help="context=cell_type: a column named otherwise")
    parser.add_argument("--control", action="append", default=[], help="a label of control rows, if not 'control'")
    parser.add_argument("--genes", help="the var column with gene names; its index where not given")
    parser.add_argument("--models", nargs="*", default=[], help="models beside it, such as additive scgen/small")
    parser.add_argument("--configfile", type=Path, nargs="*", default=[], help="where the dataset is, if it is yours")
    parser.add_argument("--cores", default=str(os.cpu_count()))
    args, more = parser.parse_known_args()

    if not args.file.is_file():
        sys.exit(f"error: {args.file}: no such file")
    name = args.name or args.file.stem
    if not re.fullmatch(NAME, name):
        sys.exit(f"error: '{name}' becomes part of a path; give --name with A-Z a-z 0-9 . _ - and no leading dot")
    wrong = [text for text in args.column if "=" not in text]
    if wrong:
        sys.exit(f"error: --column {wrong[0]}: write it as context=cell_type")
    entry = {"path": str(args.file.resolve()), "dataset": args.dataset, "split": args.split}
    entry |= {"columns": dict(text.split("=", 1) for text in args.column)} if args.column else {}
    entry |= {"control": args.control} if args.control else {}
    entry |= {"genes": args.genes} if args.genes else {}
    written = claimed(name, entry)
    run = {"name": name, "datasets": [args.dataset], "splits": [args.split], "models": args.models or ["no_change"]}
    written.write_text(yaml.safe_dump({"run": run | {"predictions": [name]}, "predictions": {name: entry}}))
    files = [*(str(path.resolve()) for path in args.configfile), str(written)]
    os.chdir(ROOT)
    command = [sys.executable, "-m", "snakemake", "--cores", args.cores, *more, "--configfile", *files]
    os.execv(sys.executable, command)


def claimed(name: str, entry: dict[str, object]) -> Path:
    """The file that says what run ``name`` scores; ends with an error if the name holds something else."""
    folder = ROOT / "results/runs" / name
    written = folder / "score_others.yaml"
    if (folder / "tables").exists():
        found = yaml.safe_load(written.read_text())["predictions"][name] if written.exists() else {}
        if any(found.get(key) != entry[key] for key in ("path", "dataset", "split")):
            holds = "{path} on {dataset}/{split}".format(**found) if found else "a run of a configuration"
            sys.exit(f"error: results/runs/{name} holds {holds}; give --name to keep its tables, or remove that folder")
    folder.mkdir(parents=True, exist_ok=True)
    return written


if __name__ == "__main__":
    main()
