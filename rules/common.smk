# What the rules share: the settings, the plan, what jobs are told, conda, the bounds. Nothing is computed here.
import atexit
import copy
import gc


include: "root.smk"


import disk
import host
from checks import check_config
from code_hash import Code
from defaults import fill
from jobs import Jobs
from left_out import left_out
from named_runs import replaced
from origins import Origins
from plan import RESERVED, Plan

# A workflow that imports this one as a module gets rules and nothing else: no bound, no setting of its Python.
IMPORTED = not workflow.modifier.is_main_snakefile()
if not IMPORTED:
    gc.disable()  # while jobs are planned nothing becomes garbage, and looking for it takes an eighth of the time
host.refuse_misread(ROOT, Path.cwd())
host.check_import(ROOT, workflow)
CODE = Code(ROOT)
GIVEN, config = config, copy.deepcopy(config)  # that of a module may be its host's
# Where a module is given `config:`, Snakemake reads no file of the working folder for it.
FOLDERS = [ROOT / "config", Path("config")]
SETTINGS = fill(config, FOLDERS[:1] if workflow.modifier.skip_configfile else FOLDERS)
ORIGINS = (
    Origins(SETTINGS, GIVEN, "config of the module")
    if IMPORTED
    else Origins(
        [*SETTINGS, *workflow.overwrite_configfiles], workflow.config_settings.config
    )
)
check_config(config, CODE, ORIGINS)
host.check_software(workflow)
host.check_writable(Path("results"), workflow)
# Snakemake knows nodes where --jobs is given, as in profiles/slurm
PLAN = Plan(config, CODE)
JOBS = Jobs(
    PLAN,
    submits=bool(workflow.resource_settings.nodes),
    dry=workflow.output_settings.dryrun,
)
atexit.register(CODE.keep)
host.tell_commands(ROOT)
if host.plans(workflow) and (words := left_out(PLAN.exclusions)):
    print(words, file=sys.stderr)
host.offer_conda(ROOT)
# The everyday command names only gpu; without a bound, eight trainings at once could exhaust a small host.
if not (IMPORTED or workflow.remote_exec):
    workflow.global_resources.setdefault("mem_mb", host.memory_mb())


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
