# From systems, resources and the user's own files to snapshots.


# Compute nodes of a cluster often have no network.
localrules:
    fetch_resource,


rule simulate:
    """One cloud of unordered states of a known system."""
    input:
        code=library("simulate"),
    output:
        "<results>/data/{dataset}/seed-{seed}/snapshots.parquet",
    log:
        "<logs>/simulate/{dataset}/seed-{seed}.log",
    benchmark:
        "<benchmarks>/simulate/{dataset}/seed-{seed}.tsv"
    wildcard_constraints:
        dataset=choice(PLAN.datasets_of("system")),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=60,
        gpu=0,
    params:
        spec=lambda w: PLAN.datasets[w.dataset],
        seed=lambda w: int(w.seed),
    script:
        "../scripts/simulate.py"


rule simulate_flow:
    """Several snapshots of populations that flow in known energies, all potentials of one seed together."""
    input:
        code=library("simulate_flow"),
    output:
        "<results>/data/{dataset}/seed-{seed}/courses.parquet",
    log:
        "<logs>/simulate_flow/{dataset}/seed-{seed}.log",
    benchmark:
        "<benchmarks>/simulate_flow/{dataset}/seed-{seed}.tsv"
    wildcard_constraints:
        dataset=choice(PLAN.datasets_of("flow")),
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=60,
        gpu=0,
    params:
        spec=lambda w: PLAN.datasets[w.dataset],
        seed=lambda w: int(w.seed),
    script:
        "../scripts/simulate_flow.py"


rule synthesise:
    """A synthetic count course with a known law, embedded like real cells, and its true drift."""
    input:
        code=library("synthesise"),
    output:
        snapshots="<results>/data/{dataset}/seed-{seed}/snapshots.parquet",
        truth="<results>/data/{dataset}/seed-{seed}/truth.parquet",
        forecast="<results>/data/{dataset}/seed-{seed}/true-forecast.parquet",
    log:
        "<logs>/synthesise/{dataset}/seed-{seed}.log",
    benchmark:
        "<benchmarks>/synthesise/{dataset}/seed-{seed}.tsv"
    wildcard_constraints:
        dataset=choice(PLAN.datasets_of("synthetic")),
    conda:
        "../../envs/cells.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=60,
        gpu=0,
    params:
        spec=lambda w: PLAN.datasets[w.dataset],
        seed=lambda w: int(w.seed),
    script:
        "../scripts/synthesise.py"


rule fetch_resource:
    """Find a resource locally or fetch it, and check its checksum."""
    input:
        code=library("fetch_resource"),
    output:
        "<results>/resources/{resource}.json",
    log:
        "<logs>/fetch_resource/{resource}.log",
    benchmark:
        "<benchmarks>/fetch_resource/{resource}.tsv"
    conda:
        "../../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=60,
        gpu=0,
    params:
        declaration=lambda w: declaration_of(w.resource),
        folders=[str(folder) for folder in declarations.folders(PLAN.config["resources_dir"])],
    script:
        "../scripts/fetch_resource.py"


rule import_resource:
    """Snapshots of a resource: embedded points as they are, raw counts through filters and PCA."""
    input:
        code=library("import_resource"),
        resource=lambda w: f"{RESULTS}/resources/{PLAN.datasets[w.dataset]['resource']}.json",
    output:
        "<results>/data/{dataset}/seed-{seed}/snapshots.parquet",
    log:
        "<logs>/import_resource/{dataset}/seed-{seed}.log",
    benchmark:
        "<benchmarks>/import_resource/{dataset}/seed-{seed}.tsv"
    wildcard_constraints:
        dataset=choice(PLAN.datasets_of("points") + PLAN.datasets_of("counts")),
    conda:
        "../../envs/cells.yaml"
    threads: 1
    resources:
        mem_mb=growing(6000),
        runtime=60,
        gpu=0,
    params:
        spec=lambda w: PLAN.datasets[w.dataset],
        declaration=lambda w: declaration_of(PLAN.datasets[w.dataset]["resource"]),
        seed=lambda w: int(w.seed),
    script:
        "../scripts/import_resource.py"


rule import_own:
    """Snapshots of the user's own table or AnnData file."""
    input:
        code=library("import_own"),
        file=lambda w: PLAN.datasets[w.dataset]["path"],
    output:
        "<results>/data/{dataset}/seed-{seed}/snapshots.parquet",
    log:
        "<logs>/import_own/{dataset}/seed-{seed}.log",
    benchmark:
        "<benchmarks>/import_own/{dataset}/seed-{seed}.tsv"
    wildcard_constraints:
        dataset=choice(PLAN.datasets_of("table") + PLAN.datasets_of("h5ad")),
    conda:
        "../../envs/cells.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=120,
        gpu=0,
    params:
        spec=lambda w: PLAN.datasets[w.dataset],
        seed=lambda w: int(w.seed),
    script:
        "../scripts/import_own.py"
