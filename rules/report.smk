# scores.parquet, ceiling.parquet, calibration.parquet, leaks.csv, features.csv, costs -> tables/*.csv


rule topk_r2:
    input:
        scores=PLAN.all_scores(),
        ceilings=PLAN.all_of_folds("ceiling.parquet"),
    output:
        tidy=PLAN.table("topk_r2.csv"),
        wide=PLAN.table("topk_r2_wide.csv"),
        undefined=PLAN.table("undefined.csv"),
    log:
        PLAN.log("topk_r2"),
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
        PLAN.table("conditions.csv"),
    log:
        PLAN.log("conditions"),
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
        PLAN.table("exclusions.csv"),
    log:
        PLAN.log("exclusions"),
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
        PLAN.table("cost.csv"),
    log:
        PLAN.log("cost"),
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
        PLAN.table("calibration.csv"),
    log:
        PLAN.log("calibration"),
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
        tidy=PLAN.table("leaderboard.csv"),
        wide=PLAN.table("leaderboard_wide.csv"),
        verdicts=PLAN.table("verdicts.csv"),
        vcc2025=PLAN.table("vcc2025.csv"),
    log:
        PLAN.log("leaderboard"),
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
        PLAN.table("leaks.csv"),
    log:
        PLAN.log("leaks"),
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
        PLAN.table("features.csv"),
    log:
        PLAN.log("features"),
    conda:
        "../envs/evaluation.yaml"
    resources:
        **PLAN.resources("features"),
    params:
        code=PLAN.code("workflow/scripts/features.py"),
    shell:
        "python -P workflow/scripts/features.py --features {input:q} --out {output:q} > {log:q} 2>&1"
