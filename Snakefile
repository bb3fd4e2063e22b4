# Trueshift. Run from this folder: snakemake --cores 8 --resources gpu=8
from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"
configfile: "config/datasets.yaml"
configfile: "config/models.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"
include: "rules/figures.smk"
include: "rules/legacy.smk"


rule all:
    default_target: True
    input:
        "results/tables/topk_r2.csv",
        "results/tables/leaderboard.csv",
        "results/tables/calibration.csv",
        "results/tables/conditions.csv",
        "results/tables/leaks.csv",
        "results/tables/features.csv",
        "results/tables/exclusions.csv",
        "results/tables/cost.csv",
        "results/figures/topk_r2.png",
        "results/figures/leaderboard.png",
        "results/figures/agreement.png",
        "results/figures/conditions.png",
        "results/figures/cost.png",
        PLAN.field_table(),
