# train.h5ad (and pairs) -> model/ ; model/ + query.h5ad -> prediction.h5ad. No rule here can reach truth.h5ad.
# A model computes on as many threads as it declares, also with fewer --cores: sums in another order give other bits.


rule train:
    input:
        unpack(JOBS.train_inputs),
    output:
        model=directory(
            "results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/model"
        ),
        cost="results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/train_cost.json",
    log:
        "results/logs/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/train.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/train.tsv"
    conda:
        JOBS.environment
    threads: JOBS.threads
    resources:
        **JOBS.resources("train"),
    params:
        code=JOBS.model_code("train"),
        settings=JOBS.settings,
        threads=JOBS.thread_variables,
        tracking=JOBS.tracking,
        resume="results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/resume",
    shell:
        "{params.threads} python -I $TRUESHIFT/workflow/run.py train --train {input.train:q} --pairs {input.pairs:q}"
        " --settings {params.settings:q} --seed {wildcards.seed} --labels {wildcards} --tracking {params.tracking:q}"
        " --resume {params.resume:q} --gpus {resources.gpu} --out {output.model:q} --cost {output.cost:q} > {log:q} 2>&1"


rule predict:
    input:
        model="results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/model",
        query="results/{dataset}/{split}/{fold}/query.h5ad",
    output:
        prediction="results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/prediction.h5ad",
        cost="results/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/predict_cost.json",
    log:
        "results/logs/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/predict.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/{fold}/{model}/{variant}/seed{seed}/predict.tsv"
    wildcard_constraints:
        variant=r"(?!external/)[A-Za-z0-9._-]+",
    conda:
        JOBS.environment
    threads: JOBS.threads
    resources:
        **JOBS.resources("predict"),
    params:
        code=JOBS.model_code("predict"),
        settings=JOBS.settings,
        threads=JOBS.thread_variables,
    shell:
        "{params.threads} python -I $TRUESHIFT/workflow/run.py predict --model {input.model:q} --query {input.query:q}"
        " --settings {params.settings:q} --seed {wildcards.seed} --gpus {resources.gpu}"
        " --out {output.prediction:q} --cost {output.cost:q} > {log:q} 2>&1"
