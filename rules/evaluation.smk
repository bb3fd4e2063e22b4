# truth.h5ad -> truth_stats, halves, duplicates -> ceiling (once per fold) ; prediction.h5ad, ours or adopted -> scores -> calibration


rule reference:
    input:
        truth="results/{dataset}/{split}/{fold}/truth.h5ad",
        train="results/{dataset}/{split}/{fold}/train.h5ad",
    output:
        stats="results/{dataset}/{split}/{fold}/truth_stats.parquet",
        halves="results/{dataset}/{split}/{fold}/halves.npz",
        duplicates="results/{dataset}/{split}/{fold}/duplicates.npz",
    log:
        "results/logs/{dataset}/{split}/{fold}/reference.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/{fold}/reference.tsv"
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("reference"),
    params:
        code=JOBS.code("workflow/scripts/reference.py"),
        settings=JOBS.halving,
    shell:
        "python -I $TRUESHIFT/workflow/run.py reference --truth {input.truth:q} --train {input.train:q}"
        " --settings {params.settings:q} --out {output.stats:q} --halves {output.halves:q}"
        " --duplicates {output.duplicates:q} > {log:q} 2>&1"


rule ceiling:
    input:
        stats="results/{dataset}/{split}/{fold}/truth_stats.parquet",
        halves="results/{dataset}/{split}/{fold}/halves.npz",
        duplicates="results/{dataset}/{split}/{fold}/duplicates.npz",
    output:
        "results/{dataset}/{split}/{fold}/ceiling.parquet",
    log:
        "results/logs/{dataset}/{split}/{fold}/ceiling.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/{fold}/ceiling.tsv"
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("ceiling"),
    params:
        code=JOBS.code("workflow/scripts/ceiling.py"),
        settings=JOBS.evaluation,
    shell:
        "python -I $TRUESHIFT/workflow/run.py ceiling --truth-stats {input.stats:q} --halves {input.halves:q}"
        " --duplicates {input.duplicates:q} --settings {params.settings:q} --out {output:q} > {log:q} 2>&1"


rule adopt:
    input:
        file=JOBS.adopted_file,
        query="results/{dataset}/{split}/{fold}/query.h5ad",
    output:
        "results/{dataset}/{split}/{fold}/{model}/external/seed0/prediction.h5ad",
    log:
        "results/logs/{dataset}/{split}/{fold}/{model}/external/seed0/adopt.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/{fold}/{model}/external/seed0/adopt.tsv"
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("adopt"),
    params:
        code=JOBS.code("workflow/scripts/adopt.py"),
        settings=JOBS.adoption,
    shell:
        "python -I $TRUESHIFT/workflow/run.py adopt --file {input.file:q} --query {input.query:q}"
        " --settings {params.settings:q} --fold {wildcards.fold} --out {output:q} > {log:q} 2>&1"


rule score:
    input:
        prediction="results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/prediction.h5ad",
        truth="results/{dataset}/{split}/{fold}/truth.h5ad",
        stats="results/{dataset}/{split}/{fold}/truth_stats.parquet",
        halves="results/{dataset}/{split}/{fold}/halves.npz",
    output:
        "results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/scores.parquet",
    log:
        "results/logs/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/score.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/score.tsv"
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("score"),
    params:
        code=JOBS.code("workflow/scripts/score.py"),
        settings=JOBS.evaluation,
    shell:
        "python -I $TRUESHIFT/workflow/run.py score --prediction {input.prediction:q} --truth {input.truth:q}"
        " --truth-stats {input.stats:q} --halves {input.halves:q} --settings {params.settings:q}"
        " --labels {wildcards} --out {output:q} > {log:q} 2>&1"


rule calibrate:
    input:
        floors=JOBS.floor_scores,
        ceilings=JOBS.ceilings,
    output:
        "results/{dataset}/{split}/calibration.parquet",
    log:
        "results/logs/{dataset}/{split}/calibrate.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/calibrate.tsv"
    conda:
        "../envs/evaluation.yaml"
    resources:
        **JOBS.resources("calibrate"),
    params:
        code=JOBS.code("workflow/scripts/calibrate.py"),
        settings=JOBS.halving,
    shell:
        "python -I $TRUESHIFT/workflow/run.py calibrate --floors {input.floors:q} --ceilings {input.ceilings:q}"
        " --settings {params.settings:q} --out {output:q} > {log:q} 2>&1"
