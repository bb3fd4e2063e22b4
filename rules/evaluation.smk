# truth.h5ad -> truth_stats.parquet, ceiling.parquet (once per fold) ; prediction.h5ad -> scores.parquet


rule reference:
    input:
        "results/{dataset}/{split}/{fold}/truth.h5ad",
    output:
        stats="results/{dataset}/{split}/{fold}/truth_stats.parquet",
        ceiling="results/{dataset}/{split}/{fold}/ceiling.parquet",
    log:
        "results/logs/{dataset}/{split}/{fold}/reference.log",
    conda:
        "../envs/evaluation.yaml"
    params:
        code=PLAN.code("workflow/scripts/reference.py"),
        settings=PLAN.evaluation,
    shell:
        "python -P workflow/scripts/reference.py --truth {input:q} --settings {params.settings:q}"
        " --out {output.stats:q} --ceiling {output.ceiling:q} > {log:q} 2>&1"


rule score:
    input:
        prediction="results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/prediction.h5ad",
        query="results/{dataset}/{split}/{fold}/query.h5ad",
        stats="results/{dataset}/{split}/{fold}/truth_stats.parquet",
    output:
        "results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/scores.parquet",
    log:
        "results/logs/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/score.log",
    conda:
        "../envs/evaluation.yaml"
    params:
        code=PLAN.code("workflow/scripts/score.py"),
        settings=PLAN.evaluation,
        labels=PLAN.chain_labels,
    shell:
        "python -P workflow/scripts/score.py --prediction {input.prediction:q} --query {input.query:q}"
        " --truth-stats {input.stats:q} --settings {params.settings:q} --labels {params.labels:q}"
        " --out {output:q} > {log:q} 2>&1"
