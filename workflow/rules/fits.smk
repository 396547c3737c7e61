# Methods on snapshots: parameters, models, predictions.


rule recover:
    """One method on every simulated cloud of a data set: the parameters that it finds."""
    input:
        code=library("recover"),
        method=lambda w: method_code(w.method),
        snapshots=lambda w: snapshots_of(w.dataset, PLAN.one(**w).seeds),
    output:
        parameters="<results>/fits/{paper}/{experiment}/{dataset}/{method}/parameters.parquet",
        history="<results>/fits/{paper}/{experiment}/{dataset}/{method}/history.parquet",
    log:
        "<logs>/recover/{paper}/{experiment}/{dataset}/{method}.log",
    benchmark:
        "<benchmarks>/recover/{paper}/{experiment}/{dataset}/{method}.tsv"
    wildcard_constraints:
        experiment=choice({fit.experiment for fit in PLAN.of(kind="recovery")}),
    conda:
        "../../envs/torch.yaml"
    threads: 2
    resources:
        mem_mb=growing(4000),
        runtime=120,
        gpu=lambda w: gpu_for(PLAN.of(**w)),
    params:
        fit=lambda w: asdict(PLAN.one(**w)),
        precision=PLAN.config["precision"],
    script:
        "../scripts/recover.py"


rule study:
    """One question put to many versions of every cloud: kernel widths, sizes, replicates, missing terms."""
    input:
        code=library("study"),
        method=lambda w: sorted({path for fit in PLAN.of(**w) for path in method_code(fit.method)}),
        snapshots=lambda w: snapshots_of(w.dataset, PLAN.of(**w)[0].seeds),
    output:
        parameters="<results>/fits/{paper}/{experiment}/{dataset}/study/parameters.parquet",
        tests="<results>/fits/{paper}/{experiment}/{dataset}/study/tests.parquet",
    log:
        "<logs>/study/{paper}/{experiment}/{dataset}.log",
    benchmark:
        "<benchmarks>/study/{paper}/{experiment}/{dataset}.tsv"
    wildcard_constraints:
        experiment=choice({fit.experiment for fit in PLAN.of(kind=tuple(configuration.STUDIES))}),
    conda:
        "../../envs/torch.yaml"
    threads: 2
    resources:
        mem_mb=growing(4000),
        runtime=120,
        gpu=lambda w: gpu_for(PLAN.of(**w)),
    params:
        fits=lambda w: [asdict(fit) for fit in PLAN.of(**w)],
        spec=lambda w: PLAN.study(**w),
    script:
        "../scripts/study.py"


rule fit:
    """One method on one split: the model, and its predictions for the held-out cells or its own draws."""
    input:
        code=library("fit", "models"),
        method=lambda w: method_code(w.method),
        snapshots="<results>/data/{dataset}/seed-{seed}/snapshots.parquet",
    output:
        model="<results>/fits/{paper}/{experiment}/{dataset}/{method}/seed-{seed}/model.pt",
        parameters="<results>/fits/{paper}/{experiment}/{dataset}/{method}/seed-{seed}/parameters.parquet",
        history="<results>/fits/{paper}/{experiment}/{dataset}/{method}/seed-{seed}/history.parquet",
        predicted="<results>/fits/{paper}/{experiment}/{dataset}/{method}/seed-{seed}/predicted.parquet",
    log:
        "<logs>/fit/{paper}/{experiment}/{dataset}/{method}/seed-{seed}.log",
    benchmark:
        "<benchmarks>/fit/{paper}/{experiment}/{dataset}/{method}/seed-{seed}.tsv"
    wildcard_constraints:
        experiment=choice(experiments_of_kind("forecast", "interpolation", "density")),
        method=choice(methods_of_papers(together=False)),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=240,
        gpu=lambda w: gpu_for(PLAN.of(paper=w.paper, experiment=w.experiment, method=w.method)),
    params:
        fit=lambda w: asdict(PLAN.one(paper=w.paper, experiment=w.experiment, dataset=w.dataset, method=w.method)),
        precision=PLAN.config["precision"],
        seed=lambda w: int(w.seed),
    script:
        "../scripts/fit.py"


rule fit_together:
    """One method on all splits of a data set at once: one training for every split and every start."""
    input:
        code=library("fit_together", "models"),
        method=lambda w: method_code(w.method),
        snapshots=lambda w: snapshots_of(w.dataset, fit_of(w).seeds),
    output:
        models="<results>/fits/{paper}/{experiment}/{dataset}/{method}/models.pt",
        history="<results>/fits/{paper}/{experiment}/{dataset}/{method}/history.parquet",
    log:
        "<logs>/fit_together/{paper}/{experiment}/{dataset}/{method}.log",
    benchmark:
        "<benchmarks>/fit_together/{paper}/{experiment}/{dataset}/{method}.tsv"
    wildcard_constraints:
        experiment=choice(experiments_of_kind("forecast", "interpolation")),
        method=choice(methods_of_papers(together=True)),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(6000),
        runtime=480,
        gpu=lambda w: gpu_for([fit_of(w)]),
    params:
        fit=lambda w: asdict(fit_of(w)),
    script:
        "../scripts/fit_together.py"


rule predict:
    """One split's model of such a training, and its predictions for the held-out cells."""
    input:
        code=library("predict", "models"),
        method=lambda w: method_code(w.method),
        models="<results>/fits/{paper}/{experiment}/{dataset}/{method}/models.pt",
        snapshots="<results>/data/{dataset}/seed-{seed}/snapshots.parquet",
    output:
        model="<results>/fits/{paper}/{experiment}/{dataset}/{method}/seed-{seed}/model.pt",
        parameters="<results>/fits/{paper}/{experiment}/{dataset}/{method}/seed-{seed}/parameters.parquet",
        predicted="<results>/fits/{paper}/{experiment}/{dataset}/{method}/seed-{seed}/predicted.parquet",
    log:
        "<logs>/predict/{paper}/{experiment}/{dataset}/{method}/seed-{seed}.log",
    benchmark:
        "<benchmarks>/predict/{paper}/{experiment}/{dataset}/{method}/seed-{seed}.tsv"
    wildcard_constraints:
        experiment=choice(experiments_of_kind("forecast", "interpolation")),
        method=choice(methods_of_papers(together=True)),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=60,
        gpu=0,
    params:
        fit=lambda w: asdict(fit_of(w)),
        seed=lambda w: int(w.seed),
    script:
        "../scripts/predict.py"


rule fit_energies:
    """One method on all courses of all seeds of simulated flows: one training."""
    input:
        code=library("fit_energies", "models"),
        method=lambda w: method_code(w.method),
        courses=lambda w: courses_of(w.dataset, fit_of(w).seeds),
    output:
        models="<results>/fits/{paper}/{experiment}/{dataset}/{method}/models.pt",
        parameters="<results>/fits/{paper}/{experiment}/{dataset}/{method}/parameters.parquet",
        history="<results>/fits/{paper}/{experiment}/{dataset}/{method}/history.parquet",
    log:
        "<logs>/fit_energies/{paper}/{experiment}/{dataset}/{method}.log",
    benchmark:
        "<benchmarks>/fit_energies/{paper}/{experiment}/{dataset}/{method}.tsv"
    wildcard_constraints:
        experiment=choice(experiments_of_kind("energy")),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(6000),
        runtime=720,
        gpu=lambda w: gpu_for([fit_of(w)]),
    params:
        fit=lambda w: asdict(fit_of(w)),
    script:
        "../scripts/fit_energies.py"


rule fit_analysis:
    """A method on one split of the user's data."""
    input:
        code=library("fit", "models"),
        method=lambda w: method_code(analysis(w).method, analysis(w).drift),
        snapshots=lambda w: f"{RESULTS}/data/{analysis(w).dataset}/seed-{w.seed}/snapshots.parquet",
    output:
        model="<results>/analyses/{analysis}/seed-{seed}/model.pt",
        parameters="<results>/analyses/{analysis}/seed-{seed}/parameters.parquet",
        history="<results>/analyses/{analysis}/seed-{seed}/history.parquet",
        predicted="<results>/analyses/{analysis}/seed-{seed}/predicted.parquet",
    log:
        "<logs>/fit_analysis/{analysis}/seed-{seed}.log",
    benchmark:
        "<benchmarks>/fit_analysis/{analysis}/seed-{seed}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=240,
        gpu=lambda w: gpu_for([analysis(w)]),
    params:
        fit=lambda w: asdict(analysis(w)),
        precision=PLAN.config["precision"],
        seed=lambda w: int(w.seed),
    script:
        "../scripts/fit.py"
