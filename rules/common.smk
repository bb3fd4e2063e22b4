# What the rules share: the settings, the plan, a conda or its stand-in, the bounds. Nothing is computed here.
import atexit
import copy
import gc


include: "root.smk"


import disk
from checks import (
    check_config,
    check_import,
    check_software,
    check_writable,
)
from code_hash import Code
from defaults import fill
from named_runs import replaced
from plan import (
    RESERVED,
    Plan,
    host_memory_mb,
    offer_conda,
    refuse_misread,
    tell_commands,
)

# A workflow that imports this one as a module gets rules and nothing else: no bound, no setting of its Python.
IMPORTED = not workflow.modifier.is_main_snakefile()
if not IMPORTED:
    gc.disable()  # while jobs are planned nothing becomes garbage, and looking for it takes an eighth of the time
refuse_misread(ROOT, Path.cwd())
check_import(ROOT, workflow)
CODE = Code(ROOT)
config = copy.deepcopy(config)  # that of a module may be its host's
# Where a module is given `config:`, Snakemake reads no file of the working folder for it.
FOLDERS = [ROOT / "config", Path("config")]
SETTINGS = fill(config, FOLDERS[:1] if workflow.modifier.skip_configfile else FOLDERS)
check_config(config, CODE)
check_software(workflow)
check_writable(Path("results"), workflow)
# Snakemake knows nodes where --jobs is given, as in profiles/slurm
PLAN = Plan(
    config,
    CODE,
    submits=bool(workflow.resource_settings.nodes),
    dry=workflow.output_settings.dryrun,
)
atexit.register(CODE.keep)
tell_commands(ROOT)
offer_conda(ROOT)
# The everyday command names only gpu; without a bound, eight trainings at once could exhaust a small host.
if not (IMPORTED or workflow.remote_exec):
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
