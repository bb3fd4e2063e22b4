# Trueshift. Run from this folder: snakemake --cores 8 --resources gpu=8
from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"
configfile: "config/datasets.yaml"
configfile: "config/models.yaml"


include: "rules/common.smk"
include: "rules/fetch.smk"
include: "rules/data.smk"
include: "rules/folds.smk"
include: "rules/models.smk"
include: "rules/evaluation.smk"
include: "rules/tables.smk"
include: "rules/leaderboard.smk"
include: "rules/figures.smk"
include: "rules/legacy.smk"


rule all:
    default_target: True
    input:
        PLAN.table("topk_r2.csv"),
        PLAN.table("leaderboard.csv"),
        PLAN.table("calibration.csv"),
        PLAN.table("conditions.csv"),
        PLAN.table("leaks.csv"),
        PLAN.table("features.csv"),
        PLAN.table("exclusions.csv"),
        PLAN.table("cost.csv"),
        PLAN.figure("topk_r2.png"),
        PLAN.figure("leaderboard.png"),
        PLAN.figure("agreement.png"),
        PLAN.figure("conditions.png"),
        PLAN.figure("cost.png"),
        PLAN.field_table(),
