# scores.parquet, ceiling.parquet, costs -> tables/*.csv -> figures/*.png


rule topk_r2:
    input:
        scores=PLAN.all_scores(),
        ceilings=PLAN.all_of_folds("ceiling.parquet"),
    output:
        tidy="results/tables/topk_r2.csv",
        wide="results/tables/topk_r2_wide.csv",
        undefined="results/tables/undefined.csv",
    log:
        "results/logs/topk_r2.log",
    conda:
        "../envs/evaluation.yaml"
    params:
        code=PLAN.code("workflow/scripts/topk_r2.py"),
    shell:
        "python -P workflow/scripts/topk_r2.py --scores {input.scores:q} --ceilings {input.ceilings:q}"
        " --out {output.tidy:q} --wide {output.wide:q} --undefined {output.undefined:q} > {log:q} 2>&1"


rule conditions:
    input:
        PLAN.all_of_folds("truth_stats.parquet"),
    output:
        "results/tables/conditions.csv",
    log:
        "results/logs/conditions.log",
    conda:
        "../envs/evaluation.yaml"
    params:
        code=PLAN.code("workflow/scripts/conditions.py"),
    shell:
        "python -P workflow/scripts/conditions.py --truth-stats {input:q} --out {output:q} > {log:q} 2>&1"


rule exclusions:
    output:
        "results/tables/exclusions.csv",
    log:
        "results/logs/exclusions.log",
    conda:
        "../envs/evaluation.yaml"
    params:
        code=PLAN.code("workflow/scripts/exclusions.py"),
        rows=PLAN.exclusion_rows(),
    shell:
        "python -P workflow/scripts/exclusions.py --rows {params.rows:q} --out {output:q} > {log:q} 2>&1"


rule cost:
    input:
        PLAN.all_costs(),
    output:
        "results/tables/cost.csv",
    log:
        "results/logs/cost.log",
    conda:
        "../envs/evaluation.yaml"
    params:
        code=PLAN.code("workflow/scripts/cost.py"),
    shell:
        "python -P workflow/scripts/cost.py --costs {input:q} --out {output:q} > {log:q} 2>&1"


rule plot_topk_r2:
    input:
        "results/tables/topk_r2.csv",
    output:
        "results/figures/topk_r2.png",
    log:
        "results/logs/plot_topk_r2.log",
    conda:
        "../envs/evaluation.yaml"
    params:
        code=PLAN.code("workflow/scripts/plot_topk_r2.py"),
        baselines=PLAN.baselines,
    shell:
        "python -P workflow/scripts/plot_topk_r2.py --table {input:q} --baselines {params.baselines:q}"
        " --out {output:q} > {log:q} 2>&1"


rule plot_conditions:
    input:
        PLAN.all_scores(),
    output:
        "results/figures/conditions.png",
    log:
        "results/logs/plot_conditions.log",
    conda:
        "../envs/evaluation.yaml"
    params:
        code=PLAN.code("workflow/scripts/plot_conditions.py"),
        baselines=PLAN.baselines,
    shell:
        "python -P workflow/scripts/plot_conditions.py --scores {input:q} --baselines {params.baselines:q}"
        " --out {output:q} > {log:q} 2>&1"


rule plot_cost:
    input:
        cost="results/tables/cost.csv",
        table="results/tables/topk_r2.csv",
    output:
        "results/figures/cost.png",
    log:
        "results/logs/plot_cost.log",
    conda:
        "../envs/evaluation.yaml"
    params:
        code=PLAN.code("workflow/scripts/plot_cost.py"),
        baselines=PLAN.baselines,
    shell:
        "python -P workflow/scripts/plot_cost.py --cost {input.cost:q} --table {input.table:q}"
        " --baselines {params.baselines:q} --out {output:q} > {log:q} 2>&1"
