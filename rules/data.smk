# dataset entry -> imported -> qc -> normalized


rule import_data:
    input:
        PLAN.source_files,
        fetched=PLAN.fetched,
    output:
        data=temp("results/{dataset}/imported.h5ad"),
        features="results/{dataset}/features.csv",
    log:
        "results/logs/{dataset}/import_data.log",
    benchmark:
        "results/benchmarks/{dataset}/import_data.tsv"
    conda:
        "../envs/data.yaml"
    resources:
        **PLAN.resources("import_data"),
    params:
        code=PLAN.import_code("workflow/scripts/import_data.py"),
        settings=PLAN.stage("import"),
        data_folder=config["data_folder"],
    shell:
        "python -I $TRUESHIFT/workflow/run.py import_data --name {wildcards.dataset} --settings {params.settings:q}"
        " --data-folder {params.data_folder:q} --out {output.data:q} --features {output.features:q} > {log:q} 2>&1"


# imported.h5ad and qc.h5ad are removed after use, so what they are made from is asked here, where qc.json stays
rule qc:
    input:
        data="results/{dataset}/imported.h5ad",
        sources=PLAN.source_files,
        fetched=PLAN.fetched,
    output:
        data=temp("results/{dataset}/qc.h5ad"),
        report="results/{dataset}/qc.json",
        figure="results/figures/qc/{dataset}.png",
    log:
        "results/logs/{dataset}/qc.log",
    benchmark:
        "results/benchmarks/{dataset}/qc.tsv"
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
        "python -I $TRUESHIFT/workflow/run.py qc --data {input.data:q} --settings {params.settings:q}"
        " --out {output.data:q} --report {output.report:q} --figure {output.figure:q} > {log:q} 2>&1"


rule normalize:
    input:
        "results/{dataset}/qc.h5ad",
    output:
        "results/{dataset}/normalized.h5ad",
    log:
        "results/logs/{dataset}/normalize.log",
    benchmark:
        "results/benchmarks/{dataset}/normalize.tsv"
    conda:
        "../envs/data.yaml"
    resources:
        **PLAN.resources("normalize"),
    params:
        code=PLAN.code("workflow/scripts/normalize.py"),
        settings=PLAN.stage("normalize"),
    shell:
        "python -I $TRUESHIFT/workflow/run.py normalize --data {input:q} --settings {params.settings:q}"
        " --out {output:q} > {log:q} 2>&1"
