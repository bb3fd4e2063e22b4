# url: of a dataset's files -> the files, each where its entry says, and fetched.json. Nodes may have no network.


localrules:
    fetch,


rule fetch:
    output:
        "results/{dataset}/fetched.json",
    log:
        "results/logs/{dataset}/fetch.log",
    benchmark:
        "results/benchmarks/{dataset}/fetch.tsv"
    conda:
        "../envs/data.yaml"
    resources:
        **JOBS.resources("fetch"),
    params:
        code=JOBS.code("workflow/scripts/fetch.py"),
        files=JOBS.remote_files,
        data_folder=config["data_folder"],
    shell:
        "python -I $TRUESHIFT/workflow/run.py fetch --files {params.files:q} --data-folder {params.data_folder:q}"
        " --out {output:q} > {log:q} 2>&1"
