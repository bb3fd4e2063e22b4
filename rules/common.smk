# What the rules share: the plan, a conda or its stand-in, the shell's prefix, the bounds. Nothing is computed here.
import atexit
import gc
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "workflow"))
import disk  # noqa: E402
from checks import check_config, check_writable, runs  # noqa: E402
from code_hash import Code  # noqa: E402
from left_out import left_out  # noqa: E402
from named_runs import replaced  # noqa: E402
from origins import Origins  # noqa: E402
from plan import RESERVED, Plan, host_memory_mb, offer_conda, shell_prefix  # noqa: E402

gc.disable()  # while jobs are planned nothing becomes garbage, and looking for it takes an eighth of the time
CODE = Code(ROOT)
FILES = [*workflow.configfiles, *workflow.overwrite_configfiles]  # a later one wins
check_config(config, CODE, Origins(FILES, workflow.config_settings.config))
check_writable(Path("results"), workflow)
# Snakemake knows nodes where --jobs is given, as in profiles/slurm
PLAN = Plan(
    config,
    CODE,
    submits=bool(workflow.resource_settings.nodes),
    dry=workflow.output_settings.dryrun,
)
atexit.register(CODE.keep)
if runs(workflow) and (words := left_out(PLAN.exclusions)):
    print(words, file=sys.stderr)

offer_conda(ROOT)
shell.prefix(shell_prefix(ROOT))
# The everyday command names only gpu; without a bound, eight trainings at once could exhaust a small host.
if not workflow.remote_exec:
    workflow.global_resources.setdefault("mem_mb", host_memory_mb())


onstart:
    gc.enable()
    print(disk.words(PLAN), file=sys.stderr)
    if any(job.rule.name == "topk_r2" for job in workflow.dag.needrun_jobs()) and (
        lost := replaced(PLAN)
    ):
        print(lost, file=sys.stderr)


wildcard_constraints:
    dataset=rf"(?!(?:{'|'.join(RESERVED)})/)[A-Za-z0-9._-]+",
    split=r"[A-Za-z0-9._-]+",
    fold=r"[A-Za-z0-9._-]+",
    model=r"[A-Za-z0-9._-]+",
    variant=r"[A-Za-z0-9._-]+",
    seed=r"\d+",
    size=r"\d+",
