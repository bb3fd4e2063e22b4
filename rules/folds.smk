# normalized -> per fold: split -> genes -> train, query, truth, leaks -> pairs


rule split:
    input:
        data="results/{dataset}/normalized.h5ad",
        files=JOBS.split_files,
    output:
        "results/{dataset}/{split}/{fold}/split.csv",
    log:
        "results/logs/{dataset}/{split}/{fold}/split.log",
    benchmark:
        "results/benchmarks/{dataset}/{split}/{fold}/split.tsv"
    conda:
        "../envs/data.yaml"
    resources:
        **JOBS.resources("split"),
    params:
        code=JOBS.split_code("workflow/scripts/split.py"),
        settings=JOBS.stage("split"),
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
        **JOBS.resources("select_genes"),
    params:
        code=JOBS.code("workflow/scripts/select_genes.py"),
        settings=JOBS.stage("genes"),
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
        **JOBS.resources("partition"),
    params:
        code=JOBS.split_code("workflow/scripts/partition.py"),
        settings=JOBS.stage("partition"),
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
        **JOBS.resources("pair"),
    params:
        code=JOBS.code("workflow/scripts/pair.py"),
    shell:
        "python -I $TRUESHIFT/workflow/run.py pair --train {input:q} --set-size {wildcards.size} --seed 0"
        " --out {output:q} > {log:q} 2>&1"
