# Pictures: frames in, ink out. Nothing is computed that is not in the figure's own parquet.


rule figure:
    """One figure of a paper, with the numbers that it plots."""
    input:
        unpack(figure_inputs),
        code=library("figure"),
        style=str(PACKAGE / "paper.mplstyle"),
        colours=str(WORKFLOW.parent / "config" / "plotting.yaml"),
    output:
        pdf=report("<results>/figures/{paper}/{figure}.pdf", category="{paper}", caption="../report/figure.rst"),
        png="<results>/figures/{paper}/{figure}.png",
        frame="<results>/figures/{paper}/{figure}.parquet",
    log:
        "<logs>/figure/{paper}/{figure}.log",
    benchmark:
        "<benchmarks>/figure/{paper}/{figure}.tsv"
    wildcard_constraints:
        paper=choice(PLAN.papers),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=20,
        gpu=0,
    params:
        spec=lambda w: PLAN.papers[w.paper]["figures"][w.figure],
    script:
        "../scripts/figure.py"


rule page:
    """One page on one of the user's analyses: data and predictions, scores beside their floors, parameters."""
    input:
        code=library("page"),
        style=str(PACKAGE / "paper.mplstyle"),
        colours=str(WORKFLOW.parent / "config" / "plotting.yaml"),
        snapshots=lambda w: snapshots_of(analysis(w).dataset, 1),
        predicted=lambda w: seeds_of(analysis(w), "predicted.parquet")[:1],
        metrics="<results>/analyses/{analysis}/metrics.parquet",
        parameters="<results>/analyses/{analysis}/parameters.parquet",
        verdict="<results>/analyses/{analysis}/verdict.json",
        field=lambda w: fields_of(analysis(w)),
    output:
        pdf="<results>/analyses/{analysis}/page.pdf",
        png="<results>/analyses/{analysis}/page.png",
        frame="<results>/analyses/{analysis}/page.parquet",
        text="<results>/analyses/{analysis}/page.md",
    log:
        "<logs>/page/{analysis}.log",
    benchmark:
        "<benchmarks>/page/{analysis}.tsv"
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=20,
        gpu=0,
    params:
        fit=lambda w: asdict(analysis(w)),
    script:
        "../scripts/page.py"
