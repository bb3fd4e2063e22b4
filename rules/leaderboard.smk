# calibration.parquet, scores.parquet, ceiling.parquet -> calibration.csv, leaderboard.csv, verdicts.csv, vcc2025.csv


rule calibration:
    input:
        PLAN.all_of_splits("calibration.parquet"),
    output:
        PLAN.table("calibration.csv"),
    log:
        PLAN.log("calibration"),
    benchmark:
        PLAN.benchmark("calibration")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("calibration"),
    params:
        code=JOBS.code("workflow/scripts/calibration.py"),
        calibrations=JOBS.listed(PLAN.all_of_splits("calibration.parquet")),
    shell:
        "python -I $TRUESHIFT/workflow/run.py calibration --calibrations @{params.calibrations}"
        " --out {output:q} > {log:q} 2>&1"


rule leaderboard:
    input:
        scores=PLAN.all_scores(),
        ceilings=PLAN.all_of_folds("ceiling.parquet"),
        calibrations=PLAN.all_of_splits("calibration.parquet"),
    output:
        tidy=PLAN.table("leaderboard.csv"),
        wide=PLAN.table("leaderboard_wide.csv"),
        verdicts=PLAN.table("verdicts.csv"),
        vcc2025=PLAN.table("vcc2025.csv"),
    log:
        PLAN.log("leaderboard"),
    benchmark:
        PLAN.benchmark("leaderboard")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("leaderboard"),
    params:
        code=JOBS.code("workflow/scripts/leaderboard.py"),
        scores=JOBS.listed(PLAN.all_scores()),
        ceilings=JOBS.listed(PLAN.all_of_folds("ceiling.parquet")),
        calibrations=JOBS.listed(PLAN.all_of_splits("calibration.parquet")),
        baselines=PLAN.baselines,
    shell:
        "python -I $TRUESHIFT/workflow/run.py leaderboard --scores @{params.scores} --ceilings @{params.ceilings}"
        " --calibrations @{params.calibrations} --baselines {params.baselines:q} --out {output.tidy:q}"
        " --wide {output.wide:q} --verdicts {output.verdicts:q} --vcc2025 {output.vcc2025:q} > {log:q} 2>&1"
