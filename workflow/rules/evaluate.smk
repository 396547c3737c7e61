# Fits against the truth, predictions against held-out cells, and baselines beside both.


rule score_recovery:
    """Errors, z-scores and tests of a recovery experiment, against the truth."""
    input:
        code=library("score_recovery"),
        parameters=recovered("parameters"),
        histories=recovered("history"),
    output:
        metrics="<results>/fits/{paper}/{experiment}/metrics.parquet",
        parameters="<results>/fits/{paper}/{experiment}/parameters.parquet",
    log:
        "<logs>/score_recovery/{paper}/{experiment}.log",
    benchmark:
        "<benchmarks>/score_recovery/{paper}/{experiment}.tsv"
    wildcard_constraints:
        experiment=choice({fit.experiment for fit in PLAN.of(kind="recovery")}),
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=10,
        gpu=0,
    params:
        fits=lambda w: [asdict(fit) for fit in PLAN.of(paper=w.paper, experiment=w.experiment)],
        sizes={name: PLAN.datasets[name]["n"] for name in PLAN.datasets_of("system")},
    script:
        "../scripts/score_recovery.py"


use rule score_recovery as score_study with:
    input:
        code=library("score_recovery"),
        parameters=studied("parameters"),
        tests=studied("tests"),
    log:
        "<logs>/score_study/{paper}/{experiment}.log",
    benchmark:
        "<benchmarks>/score_study/{paper}/{experiment}.tsv"
    wildcard_constraints:
        experiment=choice({fit.experiment for fit in PLAN.of(kind=tuple(configuration.STUDIES))}),


rule score_baselines:
    """What no movement, optimal transport, an affine map and resampling score on the same held-out cells."""
    input:
        code=library("score_baselines"),
        snapshots="<results>/data/{dataset}/seed-{seed}/snapshots.parquet",
    output:
        "<results>/baselines/{dataset}/seed-{seed}/metrics.parquet",
    log:
        "<logs>/score_baselines/{dataset}/seed-{seed}.log",
    benchmark:
        "<benchmarks>/score_baselines/{dataset}/seed-{seed}.tsv"
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=120,
        gpu=0,
    params:
        seed=lambda w: int(w.seed),
    script:
        "../scripts/score_baselines.py"


rule score_flow:
    """What the true energy and no movement score on the courses of one seed, and their floors."""
    input:
        code=library("score_flow"),
        courses="<results>/data/{dataset}/seed-{seed}/courses.parquet",
    output:
        "<results>/baselines/{dataset}/seed-{seed}/floors.parquet",
    log:
        "<logs>/score_flow/{dataset}/seed-{seed}.log",
    benchmark:
        "<benchmarks>/score_flow/{dataset}/seed-{seed}.tsv"
    wildcard_constraints:
        dataset=choice(PLAN.datasets_of("flow")),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=120,
        gpu=0,
    params:
        diffusivity=lambda w: w.dataset in diffusivity_alone(),
        seed=lambda w: int(w.seed),
    script:
        "../scripts/score_flow.py"


rule score_starts:
    """What every start of a training scores on one split, to tell the spread over starts from that over splits."""
    input:
        code=library("score_starts", "models"),
        method=lambda w: method_code(w.method),
        models="<results>/fits/{paper}/{experiment}/{dataset}/{method}/models.pt",
        snapshots="<results>/data/{dataset}/seed-{seed}/snapshots.parquet",
    output:
        "<results>/fits/{paper}/{experiment}/{dataset}/{method}/seed-{seed}/starts.parquet",
    log:
        "<logs>/score_starts/{paper}/{experiment}/{dataset}/{method}/seed-{seed}.log",
    benchmark:
        "<benchmarks>/score_starts/{paper}/{experiment}/{dataset}/{method}/seed-{seed}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=120,
        gpu=0,
    params:
        fit=lambda w: asdict(fit_of(w)),
        seed=lambda w: int(w.seed),
    script:
        "../scripts/score_starts.py"


rule evaluate:
    """Held-out scores of one method beside its baselines, and the verdict against doing nothing."""
    input:
        code=library("evaluate", "models"),
        method=lambda w: method_code(w.method),
        snapshots=lambda w: snapshots_of(w.dataset, fit_of(w).seeds),
        models=lambda w: seeds_of(fit_of(w), "model.pt"),
        predicted=lambda w: seeds_of(fit_of(w), "predicted.parquet"),
        baselines=lambda w: baselines_of(fit_of(w)),
        truth=lambda w: truth_of(fit_of(w), "truth"),
        forecast=lambda w: truth_of(fit_of(w), "true-forecast"),
        inits=lambda w: seeds_of(fit_of(w), "starts.parquet") if fit_of(w).inits > 1 else [],
    output:
        metrics="<results>/fits/{paper}/{experiment}/{dataset}/{method}/metrics.parquet",
        verdict="<results>/fits/{paper}/{experiment}/{dataset}/{method}/verdict.json",
    log:
        "<logs>/evaluate/{paper}/{experiment}/{dataset}/{method}.log",
    benchmark:
        "<benchmarks>/evaluate/{paper}/{experiment}/{dataset}/{method}.tsv"
    wildcard_constraints:
        experiment=choice(experiments_of_kind("forecast", "interpolation")),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=120,
        gpu=0,
    params:
        fit=lambda w: asdict(fit_of(w)),
    script:
        "../scripts/evaluate.py"


rule evaluate_analysis:
    """The same for one of the user's analyses."""
    input:
        code=library("evaluate", "models"),
        method=lambda w: method_code(analysis(w).method, analysis(w).drift),
        snapshots=lambda w: snapshots_of(analysis(w).dataset, analysis(w).seeds),
        models=lambda w: seeds_of(analysis(w), "model.pt"),
        predicted=lambda w: seeds_of(analysis(w), "predicted.parquet"),
        baselines=lambda w: baselines_of(analysis(w)),
        truth=lambda w: truth_of(analysis(w), "truth"),
        forecast=lambda w: truth_of(analysis(w), "true-forecast"),
    output:
        metrics="<results>/analyses/{analysis}/metrics.parquet",
        verdict="<results>/analyses/{analysis}/verdict.json",
    log:
        "<logs>/evaluate_analysis/{analysis}.log",
    benchmark:
        "<benchmarks>/evaluate_analysis/{analysis}.tsv"
    wildcard_constraints:
        analysis=choice(analyses_of_kind("forecast", "interpolation", "stationary")),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=120,
        gpu=0,
    params:
        fit=lambda w: asdict(analysis(w)),
    script:
        "../scripts/evaluate.py"


rule evaluate_density:
    """A density on held-out points and against the exact law, and the verdict against one Gaussian."""
    input:
        code=library("evaluate_density", "models", "density_models"),
        method=lambda w: method_code(w.method),
        snapshots=lambda w: snapshots_of(w.dataset, fit_of(w).seeds),
        models=lambda w: seeds_of(fit_of(w), "model.pt"),
        predicted=lambda w: seeds_of(fit_of(w), "predicted.parquet"),
    output:
        metrics="<results>/fits/{paper}/{experiment}/{dataset}/{method}/metrics.parquet",
        verdict="<results>/fits/{paper}/{experiment}/{dataset}/{method}/verdict.json",
    log:
        "<logs>/evaluate_density/{paper}/{experiment}/{dataset}/{method}.log",
    benchmark:
        "<benchmarks>/evaluate_density/{paper}/{experiment}/{dataset}/{method}.tsv"
    wildcard_constraints:
        experiment=choice(experiments_of_kind("density")),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=120,
        gpu=0,
    params:
        fit=lambda w: asdict(fit_of(w)),
    script:
        "../scripts/evaluate_density.py"


use rule evaluate_density as evaluate_density_analysis with:
    input:
        code=library("evaluate_density", "models", "density_models"),
        method=lambda w: method_code(analysis(w).method, analysis(w).drift),
        snapshots=lambda w: snapshots_of(analysis(w).dataset, analysis(w).seeds),
        models=lambda w: seeds_of(analysis(w), "model.pt"),
        predicted=lambda w: seeds_of(analysis(w), "predicted.parquet"),
    output:
        metrics="<results>/analyses/{analysis}/metrics.parquet",
        verdict="<results>/analyses/{analysis}/verdict.json",
    log:
        "<logs>/evaluate_density_analysis/{analysis}.log",
    benchmark:
        "<benchmarks>/evaluate_density_analysis/{analysis}.tsv"
    wildcard_constraints:
        analysis=choice(analyses_of_kind("density")),
    params:
        fit=lambda w: asdict(analysis(w)),


rule gather_forecast:
    """Metrics and parameters of a forecast experiment in one table each."""
    input:
        code=library("gather"),
        metrics=recovered("metrics"),
        parameters=lambda w: [
            path
            for fit in PLAN.of(paper=w.paper, experiment=w.experiment)
            for path in seeds_of(fit, "parameters.parquet")
        ],
    output:
        metrics="<results>/fits/{paper}/{experiment}/metrics.parquet",
        parameters="<results>/fits/{paper}/{experiment}/parameters.parquet",
    log:
        "<logs>/gather_forecast/{paper}/{experiment}.log",
    benchmark:
        "<benchmarks>/gather_forecast/{paper}/{experiment}.tsv"
    wildcard_constraints:
        experiment=choice(experiments_of_kind("forecast", "interpolation")),
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=10,
        gpu=0,
    script:
        "../scripts/gather.py"


use rule gather_forecast as gather_density with:
    log:
        "<logs>/gather_density/{paper}/{experiment}.log",
    benchmark:
        "<benchmarks>/gather_density/{paper}/{experiment}.tsv"
    wildcard_constraints:
        experiment=choice(experiments_of_kind("density")),


rule evaluate_energies:
    """Learned energies of simulated flows against the true ones, beside what the truth and no movement score."""
    input:
        code=library("evaluate_energies", "models"),
        method=lambda w: method_code(w.method),
        courses=lambda w: courses_of(w.dataset, fit_of(w).seeds),
        models="<results>/fits/{paper}/{experiment}/{dataset}/{method}/models.pt",
        floors=lambda w: floors_of(fit_of(w)),
    output:
        metrics="<results>/fits/{paper}/{experiment}/{dataset}/{method}/metrics.parquet",
    log:
        "<logs>/evaluate_energies/{paper}/{experiment}/{dataset}/{method}.log",
    benchmark:
        "<benchmarks>/evaluate_energies/{paper}/{experiment}/{dataset}/{method}.tsv"
    wildcard_constraints:
        experiment=choice(experiments_of_kind("energy")),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=240,
        gpu=0,
    params:
        fit=lambda w: asdict(fit_of(w)),
    script:
        "../scripts/evaluate_energies.py"


use rule gather_forecast as gather_energies with:
    input:
        code=library("gather"),
        metrics=recovered("metrics"),
        parameters=recovered("parameters"),
    log:
        "<logs>/gather_energies/{paper}/{experiment}.log",
    benchmark:
        "<benchmarks>/gather_energies/{paper}/{experiment}.tsv"
    wildcard_constraints:
        experiment=choice(experiments_of_kind("energy")),


rule compare:
    """Scores of other experiments of a paper, set against one another."""
    input:
        code=library("compare"),
        metrics=compared_by,
    output:
        metrics="<results>/fits/{paper}/{experiment}/metrics.parquet",
    log:
        "<logs>/compare/{paper}/{experiment}.log",
    benchmark:
        "<benchmarks>/compare/{paper}/{experiment}.tsv"
    wildcard_constraints:
        experiment=choice({name for paper in PLAN.papers for name in PLAN.comparisons(paper)}),
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=10,
        gpu=0,
    params:
        about=lambda w: {"paper": w.paper, "experiment": w.experiment},
        pairs=lambda w: PLAN.comparisons(w.paper)[w.experiment],
        spec=lambda w: PLAN.papers[w.paper]["experiments"][w.experiment]["compare"],
    script:
        "../scripts/compare.py"


rule tabulate_energy:
    """The potential and the drift of a learned energy at the user's own cells, and the cells on their way."""
    input:
        code=library("tabulate_energy", "models", "energy_models"),
        method=lambda w: method_code(analysis(w).method),
        snapshots=lambda w: f"{RESULTS}/data/{analysis(w).dataset}/seed-{w.seed}/snapshots.parquet",
        model="<results>/analyses/{analysis}/seed-{seed}/model.pt",
    output:
        field="<results>/analyses/{analysis}/seed-{seed}/field.parquet",
        between="<results>/analyses/{analysis}/seed-{seed}/in-between.parquet",
    log:
        "<logs>/tabulate_energy/{analysis}/seed-{seed}.log",
    benchmark:
        "<benchmarks>/tabulate_energy/{analysis}/seed-{seed}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=60,
        gpu=0,
    params:
        seed=lambda w: int(w.seed),
    script:
        "../scripts/tabulate_energy.py"


rule gather_analysis:
    """Parameters of all seeds of an analysis in one table."""
    input:
        code=library("gather"),
        parameters=lambda w: seeds_of(analysis(w), "parameters.parquet"),
    output:
        parameters="<results>/analyses/{analysis}/parameters.parquet",
    log:
        "<logs>/gather_analysis/{analysis}.log",
    benchmark:
        "<benchmarks>/gather_analysis/{analysis}.tsv"
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=10,
        gpu=0,
    script:
        "../scripts/gather.py"
