# scores.parquet, ceiling.parquet, calibration.parquet, leaks.csv, features.csv, costs -> tables/*.csv


rule topk_r2:
    input:
        scores=PLAN.all_scores(),
        ceilings=PLAN.all_of_folds("ceiling.parquet"),
    output:
        tidy="results/tables/topk_r2.csv",
        wide="results/tables/topk_r2_wide.csv",
        undefined="results/tables/undefined.csv",
    log:
        "results/logs/topk_r2.log",
    conda:
        "../envs/evaluation.yaml"
    resources:
        **PLAN.resources("topk_r2"),
    params:
        code=PLAN.code("workflow/scripts/topk_r2.py"),
    shell:
        "python -P workflow/scripts/topk_r2.py --scores {input.scores:q} --ceilings {input.ceilings:q}"
        " --out {output.tidy:q} --wide {output.wide:q} --undefined {output.undefined:q} > {log:q} 2>&1"


rule conditions:
    input:
        PLAN.all_of_folds("truth_stats.parquet"),
    output:
        "results/tables/conditions.csv",
    log:
        "results/logs/conditions.log",
    conda:
        "../envs/evaluation.yaml"
    resources:
        **PLAN.resources("conditions"),
    params:
        code=PLAN.code("workflow/scripts/conditions.py"),
    shell:
        "python -P workflow/scripts/conditions.py --truth-stats {input:q} --out {output:q} > {log:q} 2>&1"


rule exclusions:
    output:
        "results/tables/exclusions.csv",
    log:
        "results/logs/exclusions.log",
    conda:
        "../envs/evaluation.yaml"
    resources:
        **PLAN.resources("exclusions"),
    params:
        code=PLAN.code("workflow/scripts/exclusions.py"),
        rows=PLAN.exclusion_rows(),
    shell:
        "python -P workflow/scripts/exclusions.py --rows {params.rows:q} --out {output:q} > {log:q} 2>&1"


rule cost:
    input:
        PLAN.all_costs(),
    output:
        "results/tables/cost.csv",
    log:
        "results/logs/cost.log",
    conda:
        "../envs/evaluation.yaml"
    resources:
        **PLAN.resources("cost"),
    params:
        code=PLAN.code("workflow/scripts/cost.py"),
    shell:
        "python -P workflow/scripts/cost.py --costs {input:q} --out {output:q} > {log:q} 2>&1"


rule calibration:
    input:
        PLAN.all_of_splits("calibration.parquet"),
    output:
        "results/tables/calibration.csv",
    log:
        "results/logs/calibration.log",
    conda:
        "../envs/evaluation.yaml"
    resources:
        **PLAN.resources("calibration"),
    params:
        code=PLAN.code("workflow/scripts/calibration.py"),
    shell:
        "python -P workflow/scripts/calibration.py --calibrations {input:q} --out {output:q} > {log:q} 2>&1"


rule leaderboard:
    input:
        scores=PLAN.all_scores(),
        ceilings=PLAN.all_of_folds("ceiling.parquet"),
        calibrations=PLAN.all_of_splits("calibration.parquet"),
    output:
        tidy="results/tables/leaderboard.csv",
        wide="results/tables/leaderboard_wide.csv",
        verdicts="results/tables/verdicts.csv",
        vcc2025="results/tables/vcc2025.csv",
    log:
        "results/logs/leaderboard.log",
    conda:
        "../envs/evaluation.yaml"
    resources:
        **PLAN.resources("leaderboard"),
    params:
        code=PLAN.code("workflow/scripts/leaderboard.py"),
        baselines=PLAN.baselines,
    shell:
        "python -P workflow/scripts/leaderboard.py --scores {input.scores:q} --ceilings {input.ceilings:q}"
        " --calibrations {input.calibrations:q} --baselines {params.baselines:q} --out {output.tidy:q}"
        " --wide {output.wide:q} --verdicts {output.verdicts:q} --vcc2025 {output.vcc2025:q} > {log:q} 2>&1"


rule leaks:
    input:
        PLAN.all_of_folds("leaks.csv"),
    output:
        "results/tables/leaks.csv",
    log:
        "results/logs/leaks.log",
    conda:
        "../envs/evaluation.yaml"
    resources:
        **PLAN.resources("leaks"),
    params:
        code=PLAN.code("workflow/scripts/leaks.py"),
    shell:
        "python -P workflow/scripts/leaks.py --leaks {input:q} --out {output:q} > {log:q} 2>&1"


rule features:
    input:
        PLAN.all_of_datasets("features.csv"),
    output:
        "results/tables/features.csv",
    log:
        "results/logs/features.log",
    conda:
        "../envs/evaluation.yaml"
    resources:
        **PLAN.resources("features"),
    params:
        code=PLAN.code("workflow/scripts/features.py"),
    shell:
        "python -P workflow/scripts/features.py --features {input:q} --out {output:q} > {log:q} 2>&1"
