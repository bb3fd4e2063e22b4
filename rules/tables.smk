# scores.parquet, ceiling.parquet, leaks.csv, features.csv, benchmarks -> tables/*.csv


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
    benchmark:
        PLAN.benchmark("topk_r2")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("topk_r2"),
    params:
        code=JOBS.code("workflow/scripts/topk_r2.py"),
        scores=JOBS.listed(PLAN.all_scores()),
        ceilings=JOBS.listed(PLAN.all_of_folds("ceiling.parquet")),
    shell:
        "python -I $TRUESHIFT/workflow/run.py topk_r2 --scores @{params.scores} --ceilings @{params.ceilings}"
        " --out {output.tidy:q} --wide {output.wide:q} --undefined {output.undefined:q} > {log:q} 2>&1"


rule conditions:
    input:
        PLAN.all_of_folds("truth_stats.parquet"),
    output:
        PLAN.table("conditions.csv"),
    log:
        PLAN.log("conditions"),
    benchmark:
        PLAN.benchmark("conditions")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("conditions"),
    params:
        code=JOBS.code("workflow/scripts/conditions.py"),
        truth=JOBS.listed(PLAN.all_of_folds("truth_stats.parquet")),
    shell:
        "python -I $TRUESHIFT/workflow/run.py conditions --truth-stats @{params.truth} --out {output:q} > {log:q} 2>&1"


rule exclusions:
    output:
        PLAN.table("exclusions.csv"),
    log:
        PLAN.log("exclusions"),
    benchmark:
        PLAN.benchmark("exclusions")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("exclusions"),
    params:
        code=JOBS.code("workflow/scripts/exclusions.py"),
        rows=JOBS.exclusion_rows(),
    shell:
        "python -I $TRUESHIFT/workflow/run.py exclusions --rows {params.rows} --out {output:q} > {log:q} 2>&1"


rule cost:
    input:
        costs=PLAN.all_costs(),
        benchmarks=PLAN.all_benchmarks(),
        scoring=ancient(PLAN.score_benchmarks()),
    output:
        PLAN.table("cost.csv"),
    log:
        PLAN.log("cost"),
    benchmark:
        PLAN.benchmark("cost")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("cost"),
    params:
        code=JOBS.code("workflow/scripts/cost.py"),
        costs=JOBS.listed(PLAN.all_costs()),
        benchmarks=JOBS.listed([*PLAN.all_benchmarks(), *PLAN.score_benchmarks()]),
    shell:
        "python -I $TRUESHIFT/workflow/run.py cost --costs @{params.costs} --benchmarks @{params.benchmarks}"
        " --out {output:q} > {log:q} 2>&1"


rule leaks:
    input:
        PLAN.all_of_folds("leaks.csv"),
    output:
        PLAN.table("leaks.csv"),
    log:
        PLAN.log("leaks"),
    benchmark:
        PLAN.benchmark("leaks")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("leaks"),
    params:
        code=JOBS.code("workflow/scripts/leaks.py"),
        leaks=JOBS.listed(PLAN.all_of_folds("leaks.csv")),
    shell:
        "python -I $TRUESHIFT/workflow/run.py leaks --leaks @{params.leaks} --out {output:q} > {log:q} 2>&1"


rule features:
    input:
        PLAN.all_of_datasets("features.csv"),
    output:
        PLAN.table("features.csv"),
    log:
        PLAN.log("features"),
    benchmark:
        PLAN.benchmark("features")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("features"),
    params:
        code=JOBS.code("workflow/scripts/features.py"),
        features=JOBS.listed(PLAN.all_of_datasets("features.csv")),
    shell:
        "python -I $TRUESHIFT/workflow/run.py features --features @{params.features} --out {output:q} > {log:q} 2>&1"
