# dataset entry -> imported -> qc -> normalized -> per fold: split -> genes -> train, query, truth, leaks -> pairs


rule import_data:
    input:
        PLAN.source_files,
    output:
        data=temp("results/{dataset}/imported.h5ad"),
        features="results/{dataset}/features.csv",
    log:
        "results/logs/{dataset}/import_data.log",
    conda:
        "../envs/data.yaml"
    resources:
        **PLAN.resources("import_data"),
    params:
        code=PLAN.import_code("workflow/scripts/import_data.py"),
        settings=PLAN.stage("import"),
        data_folder=config["data_folder"],
    shell:
        "python -P workflow/scripts/import_data.py --name {wildcards.dataset} --settings {params.settings:q}"
        " --data-folder {params.data_folder:q} --out {output.data:q} --features {output.features:q} > {log:q} 2>&1"


# imported.h5ad and qc.h5ad are removed after use, so what they are made from is asked here, where qc.json stays
rule qc:
    input:
        data="results/{dataset}/imported.h5ad",
        sources=PLAN.source_files,
    output:
        data=temp("results/{dataset}/qc.h5ad"),
        report="results/{dataset}/qc.json",
        figure="results/figures/qc/{dataset}.png",
    log:
        "results/logs/{dataset}/qc.log",
    conda:
        "../envs/data.yaml"
    resources:
        **PLAN.resources("qc"),
    params:
        code=PLAN.import_code(
            "workflow/scripts/import_data.py", "workflow/scripts/qc.py"
        ),
        imported=PLAN.stage("import"),
        settings=PLAN.stage("qc"),
    shell:
        "python -P workflow/scripts/qc.py --data {input.data:q} --settings {params.settings:q} --out {output.data:q}"
        " --report {output.report:q} --figure {output.figure:q} > {log:q} 2>&1"


rule normalize:
    input:
        "results/{dataset}/qc.h5ad",
    output:
        "results/{dataset}/normalized.h5ad",
    log:
        "results/logs/{dataset}/normalize.log",
    conda:
        "../envs/data.yaml"
    resources:
        **PLAN.resources("normalize"),
    params:
        code=PLAN.code("workflow/scripts/normalize.py"),
        settings=PLAN.stage("normalize"),
    shell:
        "python -P workflow/scripts/normalize.py --data {input:q} --settings {params.settings:q}"
        " --out {output:q} > {log:q} 2>&1"


rule split:
    input:
        data="results/{dataset}/normalized.h5ad",
        files=PLAN.split_files,
    output:
        "results/{dataset}/{split}/{fold}/split.csv",
    log:
        "results/logs/{dataset}/{split}/{fold}/split.log",
    conda:
        "../envs/data.yaml"
    resources:
        **PLAN.resources("split"),
    params:
        code=PLAN.split_code("workflow/scripts/split.py"),
        settings=PLAN.stage("split"),
    shell:
        "python -P workflow/scripts/split.py --data {input.data:q} --settings {params.settings:q}"
        " --fold {wildcards.fold} --out {output:q} > {log:q} 2>&1"


rule select_genes:
    input:
        data="results/{dataset}/normalized.h5ad",
        split="results/{dataset}/{split}/{fold}/split.csv",
    output:
        "results/{dataset}/{split}/{fold}/genes.csv",
    log:
        "results/logs/{dataset}/{split}/{fold}/select_genes.log",
    conda:
        "../envs/data.yaml"
    resources:
        **PLAN.resources("select_genes"),
    params:
        code=PLAN.code("workflow/scripts/select_genes.py"),
        settings=PLAN.stage("genes"),
    shell:
        "python -P workflow/scripts/select_genes.py --data {input.data:q} --split {input.split:q}"
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
    conda:
        "../envs/data.yaml"
    resources:
        **PLAN.resources("partition"),
    params:
        code=PLAN.split_code("workflow/scripts/partition.py"),
        settings=PLAN.stage("partition"),
    shell:
        "python -P workflow/scripts/partition.py --data {input.data:q} --split {input.split:q} --genes {input.genes:q}"
        " --settings {params.settings:q} --train {output.train:q} --query {output.query:q} --truth {output.truth:q}"
        " --leaks {output.leaks:q} > {log:q} 2>&1"


rule pair:
    input:
        "results/{dataset}/{split}/{fold}/train.h5ad",
    output:
        "results/{dataset}/{split}/{fold}/pairs_S{size}.npz",
    log:
        "results/logs/{dataset}/{split}/{fold}/pair_S{size}.log",
    conda:
        "../envs/data.yaml"
    resources:
        **PLAN.resources("pair"),
    params:
        code=PLAN.code("workflow/scripts/pair.py"),
    shell:
        "python -P workflow/scripts/pair.py --train {input:q} --set-size {wildcards.size} --seed 0"
        " --out {output:q} > {log:q} 2>&1"
