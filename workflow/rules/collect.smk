# The tables of a whole run, and what the papers claim beside what we measured.


rule collect:
    """All metrics and all parameters of the run."""
    input:
        code=library("gather"),
        metrics=collected("metrics"),
        parameters=collected("parameters"),
    output:
        metrics="<results>/metrics.parquet",
        parameters="<results>/parameters.parquet",
    log:
        "<logs>/collect.log",
    benchmark:
        "<benchmarks>/collect.tsv"
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=10,
        gpu=0,
    script:
        "../scripts/gather.py"


rule scorecard:
    """Every published claim beside our number, its spread, its floor and a computed verdict."""
    input:
        code=library("scorecard"),
        metrics="<results>/metrics.parquet",
        parameters="<results>/parameters.parquet",
        published=[str(WORKFLOW.parent / "resources" / "published" / f"{paper}.yaml") for paper in PLAN.papers],
        verdicts=analysis_tables("verdict.json"),
    output:
        frame="<results>/scorecard.parquet",
        text="<results>/scorecard.md",
    log:
        "<logs>/scorecard.log",
    benchmark:
        "<benchmarks>/scorecard.tsv"
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=10,
        gpu=0,
    params:
        run=PLAN.run,
        skipped=PLAN.skipped_experiments(),
    script:
        "../scripts/scorecard.py"
