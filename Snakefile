# Trueshift. Run from this folder: snakemake --cores 8 --resources gpu=8. From elsewhere: docs/elsewhere.md
include: "rules/common.smk"


# The first rule, so the default; default_target: would make it that of a workflow that imports this one, too.
rule all:
    input:
        PLAN.targets,


include: "rules/stages.smk"
