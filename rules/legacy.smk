# The field's forms: scores.parquet -> topk_r2_results.csv, two_orders.png ; on demand: prediction.npz beside any prediction.h5ad


rule topk_r2_results:
    input:
        PLAN.all_scores(),
    output:
        table=PLAN.table("topk_r2_results.csv"),
        honest=PLAN.table("topk_r2_honest.csv"),
    log:
        PLAN.log("topk_r2_results"),
    benchmark:
        PLAN.benchmark("topk_r2_results")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("topk_r2_results"),
    params:
        code=JOBS.code("workflow/scripts/topk_r2_results.py"),
        scores=JOBS.listed(PLAN.all_scores()),
    shell:
        "python -I $TRUESHIFT/workflow/run.py topk_r2_results --scores @{params.scores} --out {output.table:q}"
        " --honest {output.honest:q} > {log:q} 2>&1"


rule plot_two_orders:
    input:
        results=PLAN.table("topk_r2_results.csv"),
        table=PLAN.table("topk_r2.csv"),
    output:
        PLAN.figure("two_orders.png"),
    log:
        PLAN.log("plot_two_orders"),
    benchmark:
        PLAN.benchmark("plot_two_orders")
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("plot_two_orders"),
    params:
        code=JOBS.code("workflow/scripts/plot_two_orders.py"),
        baselines=PLAN.baselines,
    shell:
        "python -I $TRUESHIFT/workflow/run.py plot_two_orders --results {input.results:q} --table {input.table:q}"
        " --baselines {params.baselines:q} --out {output:q} > {log:q} 2>&1"


rule export:
    input:
        prediction="results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/prediction.h5ad",
        truth="results/{dataset}/{split}/{fold}/truth.h5ad",
    output:
        "results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/prediction.npz",
    log:
        "results/logs/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/export.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/export.tsv"
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("export"),
    params:
        code=JOBS.code("workflow/scripts/export.py"),
    shell:
        "python -I $TRUESHIFT/workflow/run.py export --prediction {input.prediction:q} --truth {input.truth:q}"
        " --out {output:q} > {log:q} 2>&1"
