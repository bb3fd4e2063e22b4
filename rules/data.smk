# dataset entry -> imported -> qc -> normalized


rule import_data:
    input:
        JOBS.source_files,
        fetched=JOBS.fetched,
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
        **JOBS.resources("import_data"),
    params:
        code=JOBS.import_code("workflow/scripts/import_data.py"),
        settings=JOBS.stage("import"),
        data_folder=config["data_folder"],
    shell:
        "python -I $TRUESHIFT/workflow/run.py import_data --name {wildcards.dataset} --settings {params.settings:q}"
        " --data-folder {params.data_folder:q} --out {output.data:q} --features {output.features:q} > {log:q} 2>&1"


# imported.h5ad and qc.h5ad are removed after use, so what they are made from is asked here, where qc.json stays
rule qc:
    input:
        data="results/{dataset}/imported.h5ad",
        sources=JOBS.source_files,
        fetched=JOBS.fetched,
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
        **JOBS.resources("qc"),
    params:
        code=JOBS.import_code(
            "workflow/scripts/import_data.py", "workflow/scripts/qc.py"
        ),
        imported=JOBS.stage("import"),
        settings=JOBS.stage("qc"),
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
        **JOBS.resources("normalize"),
    params:
        code=JOBS.code("workflow/scripts/normalize.py"),
        settings=JOBS.stage("normalize"),
    shell:
        "python -I $TRUESHIFT/workflow/run.py normalize --data {input:q} --settings {params.settings:q}"
        " --out {output:q} > {log:q} 2>&1"
