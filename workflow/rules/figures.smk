# Pictures: frames in, ink out. Nothing is computed that is not in the figure's own parquet.


def figure_inputs(w):
    """Metrics and parameters of the figure's experiment, and what only some figures need."""
    experiment = PLAN.papers[w.paper]["figures"][w.figure]["experiment"]
    fits = PLAN.of(paper=w.paper, experiment=experiment)
    base = f"{RESULTS}/fits/{w.paper}/{experiment}"
    first = fits[0]
    files = {"metrics": f"{base}/metrics.parquet", "parameters": f"{base}/parameters.parquet"}
    if first.kind in ("recovery", "bandwidth"):
        files["cloud"] = snapshots_of(first.dataset, 1)[0]
        if "kde-adam" in {fit.method for fit in fits}:
            files["history"] = f"{base}/{first.dataset}/kde-adam/history.parquet"
    return files


rule figure:
    """One figure of a paper, with the numbers that it plots."""
    input:
        unpack(figure_inputs),
        code=library("figure"),
        style=str(PACKAGE / "paper.mplstyle"),
        colours=str(WORKFLOW.parent / "config" / "plotting.yaml"),
    output:
        pdf=report(
            "<results>/figures/{paper}/{figure}.pdf", category="{paper}", caption="../report/figure.rst"
        ),
        png="<results>/figures/{paper}/{figure}.png",
        frame="<results>/figures/{paper}/{figure}.parquet",
    log:
        "<logs>/figure/{paper}/{figure}.log",
    wildcard_constraints:
        paper=choice(PLAN.papers),
    params:
        spec=lambda w: PLAN.papers[w.paper]["figures"][w.figure],
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
        gpu=0,
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
    output:
        pdf="<results>/analyses/{analysis}/page.pdf",
        png="<results>/analyses/{analysis}/page.png",
        frame="<results>/analyses/{analysis}/page.parquet",
        text="<results>/analyses/{analysis}/page.md",
    log:
        "<logs>/page/{analysis}.log",
    params:
        fit=lambda w: asdict(analysis(w)),
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
        gpu=0,
    script:
        "../scripts/page.py"
