# tables/*.csv, scores.parquet -> figures/*.png ; on demand: scatter.png beside any prediction.h5ad


rule plot_topk_r2:
    input:
        PLAN.table("topk_r2.csv"),
    output:
        PLAN.figure("topk_r2.png"),
    log:
        PLAN.log("plot_topk_r2"),
    benchmark:
        PLAN.benchmark("plot_topk_r2")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("plot_topk_r2"),
    params:
        code=JOBS.code("workflow/scripts/plot_topk_r2.py"),
        baselines=PLAN.baselines,
    shell:
        "python -I $TRUESHIFT/workflow/run.py plot_topk_r2 --table {input:q} --baselines {params.baselines:q}"
        " --out {output:q} > {log:q} 2>&1"


rule plot_conditions:
    input:
        PLAN.all_scores(),
    output:
        PLAN.figure("conditions.png"),
    log:
        PLAN.log("plot_conditions"),
    benchmark:
        PLAN.benchmark("plot_conditions")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("plot_conditions"),
    params:
        code=JOBS.code("workflow/scripts/plot_conditions.py"),
        scores=JOBS.listed(PLAN.all_scores()),
        baselines=PLAN.baselines,
    shell:
        "python -I $TRUESHIFT/workflow/run.py plot_conditions --scores @{params.scores}"
        " --baselines {params.baselines:q} --out {output:q} > {log:q} 2>&1"


rule plot_cost:
    input:
        cost=PLAN.table("cost.csv"),
        table=PLAN.table("topk_r2.csv"),
    output:
        PLAN.figure("cost.png"),
    log:
        PLAN.log("plot_cost"),
    benchmark:
        PLAN.benchmark("plot_cost")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("plot_cost"),
    params:
        code=JOBS.code("workflow/scripts/plot_cost.py"),
        baselines=PLAN.baselines,
    shell:
        "python -I $TRUESHIFT/workflow/run.py plot_cost --cost {input.cost:q} --table {input.table:q}"
        " --baselines {params.baselines:q} --out {output:q} > {log:q} 2>&1"


rule plot_leaderboard:
    input:
        PLAN.table("leaderboard.csv"),
    output:
        PLAN.figure("leaderboard.png"),
    log:
        PLAN.log("plot_leaderboard"),
    benchmark:
        PLAN.benchmark("plot_leaderboard")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("plot_leaderboard"),
    params:
        code=JOBS.code("workflow/scripts/plot_leaderboard.py"),
        baselines=PLAN.baselines,
    shell:
        "python -I $TRUESHIFT/workflow/run.py plot_leaderboard --table {input:q} --baselines {params.baselines:q}"
        " --out {output:q} > {log:q} 2>&1"


rule plot_agreement:
    input:
        PLAN.table("leaderboard.csv"),
    output:
        PLAN.figure("agreement.png"),
    log:
        PLAN.log("plot_agreement"),
    benchmark:
        PLAN.benchmark("plot_agreement")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("plot_agreement"),
    params:
        code=JOBS.code("workflow/scripts/plot_agreement.py"),
    shell:
        "python -I $TRUESHIFT/workflow/run.py plot_agreement --table {input:q} --out {output:q} > {log:q} 2>&1"


rule scatter:
    input:
        prediction="results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/prediction.h5ad",
        stats="results/{dataset}/{split}/{fold}/truth_stats.parquet",
    output:
        "results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/scatter.png",
    log:
        "results/logs/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/scatter.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/scatter.tsv"
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("scatter"),
    params:
        code=JOBS.code("workflow/scripts/scatter.py"),
    shell:
        "python -I $TRUESHIFT/workflow/run.py scatter --prediction {input.prediction:q} --truth-stats {input.stats:q}"
        " --out {output:q} > {log:q} 2>&1"
