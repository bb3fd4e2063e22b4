# normalized -> per fold: split -> genes -> train, query, truth, leaks -> pairs


rule split:
    input:
        data="results/{dataset}/normalized.h5ad",
        files=PLAN.split_files,
    output:
        "results/{dataset}/{split}/{fold}/split.csv",
    log:
        "results/logs/{dataset}/{split}/{fold}/split.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/{fold}/split.tsv"
    conda:
        "../envs/data.yaml"
    resources:
        **PLAN.resources("split"),
    params:
        code=PLAN.split_code("workflow/scripts/split.py"),
        settings=PLAN.stage("split"),
    shell:
        "python -I $TRUESHIFT/workflow/run.py split --data {input.data:q} --settings {params.settings:q}"
        " --fold {wildcards.fold} --out {output:q} > {log:q} 2>&1"


rule select_genes:
    input:
        data="results/{dataset}/normalized.h5ad",
        split="results/{dataset}/{split}/{fold}/split.csv",
    output:
        "results/{dataset}/{split}/{fold}/genes.csv",
    log:
        "results/logs/{dataset}/{split}/{fold}/select_genes.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/{fold}/select_genes.tsv"
    conda:
        "../envs/data.yaml"
    resources:
        **PLAN.resources("select_genes"),
    params:
        code=PLAN.code("workflow/scripts/select_genes.py"),
        settings=PLAN.stage("genes"),
    shell:
        "python -I $TRUESHIFT/workflow/run.py select_genes --data {input.data:q} --split {input.split:q}"
        " --settings {params.settings:q} --out {output:q} > {log:q} 2>&1"


rule partition:
    input:
        data="results/{dataset}/normalized.h5ad",
        split="results/{dataset}/{split}/{fold}/split.csv",
        genes="results/{dataset}/{split}/{fold}/genes.csv",
    output:
        train="results/{dataset}/{split}/{fold}/train.h5ad",
        query="results/{dataset}/{split}/{fold}/query.h5ad",
        truth="results/{dataset}/{split}/{fold}/truth.h5ad",
        leaks="results/{dataset}/{split}/{fold}/leaks.csv",
    log:
        "results/logs/{dataset}/{split}/{fold}/partition.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/{fold}/partition.tsv"
    conda:
        "../envs/data.yaml"
    resources:
        **PLAN.resources("partition"),
    params:
        code=PLAN.split_code("workflow/scripts/partition.py"),
        settings=PLAN.stage("partition"),
    shell:
        "python -I $TRUESHIFT/workflow/run.py partition --data {input.data:q} --split {input.split:q}"
        " --genes {input.genes:q} --settings {params.settings:q} --train {output.train:q} --query {output.query:q}"
        " --truth {output.truth:q} --leaks {output.leaks:q} > {log:q} 2>&1"


rule pair:
    input:
        "results/{dataset}/{split}/{fold}/train.h5ad",
    output:
        "results/{dataset}/{split}/{fold}/pairs_S{size}.npz",
    log:
        "results/logs/{dataset}/{split}/{fold}/pair_S{size}.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/{fold}/pair_S{size}.tsv"
    conda:
        "../envs/data.yaml"
    resources:
        **PLAN.resources("pair"),
    params:
        code=PLAN.code("workflow/scripts/pair.py"),
    shell:
        "python -I $TRUESHIFT/workflow/run.py pair --train {input:q} --set-size {wildcards.size} --seed 0"
        " --out {output:q} > {log:q} 2>&1"
