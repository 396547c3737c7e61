# What all rules share: the checked configuration, rerun tracking, and where things are.
import os
import sys
from dataclasses import asdict
from pathlib import Path

from snakemake.exceptions import WorkflowError

WORKFLOW = Path(str(workflow.current_basedir)).parent
PACKAGE = WORKFLOW / "snapdyn"

# Jobs import the package from here, whatever environment they run in, and the user's modules from where the run is.
sys.path.insert(0, str(WORKFLOW))
sys.path.append(str(Path.cwd()))
importable = filter(None, [str(WORKFLOW), str(Path.cwd()), os.environ.get("PYTHONPATH")])
os.environ.update(
    PYTHONPATH=os.pathsep.join(importable),
    # Jobs watch this process and end with it, so that a killed run leaves nobody writing.
    SNAPDYN_PARENT=str(os.getpid()),
)
# One thread inside every library: results must not depend on how many there are.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"

from snapdyn import codebase, methods
from snapdyn import config as configuration
from snapdyn import resources as declarations

DECLARED = declarations.load(WORKFLOW.parent / "config" / "resources.yaml")


def absent_resources(names):
    """name -> why, of resources that no local folder holds."""
    folders = declarations.folders(config["resources_dir"])
    looked = ", ".join(map(str, folders))
    return {
        name: f"resource {name} is not in {looked} (resources: skip-missing)"
        for name in declarations.missing(names, DECLARED, folders)
    }


try:
    PLAN = configuration.Plan(
        config,
        overlay=workflow.config_settings.overwrite_config or None,
        declared=list(DECLARED),
        absent=absent_resources,
    )
except configuration.ConfigError as error:
    raise WorkflowError(str(error)) from None
RESULTS = f"results/{PLAN.run}"


def growing(mb):
    """Memory of a job, doubled at every further attempt: a cluster kills what needs more than it asked for."""
    return lambda wildcards, attempt: mb * 2 ** (attempt - 1)


def gpu_for(fits):
    """How many GPUs a job asks for: one if any of its methods can use it and the configuration does not say cpu."""
    return int(PLAN.config["device"] != "cpu" and any(methods.takes_device(fit.method) for fit in fits))


def library(script, *modules):
    """The package files behind a script and further modules: editing one reruns its users and nobody else."""
    files = codebase.modules_behind(WORKFLOW / "scripts" / f"{script}.py", PACKAGE)
    return sorted({str(path) for path in [*files, *codebase.modules_named(modules, PACKAGE)]})


def method_code(method, drift=None):
    """The files behind a method: its module in the package or the user's own, and the user's own drift library."""
    import importlib.util

    own = [name for name in (method, (drift or {}).get("library", "")) if methods.is_custom(name)]
    files = [importlib.util.find_spec(name.split(":")[0]).origin for name in own]
    if method in methods.METHODS:
        files += map(str, codebase.modules_named([methods.METHODS[method].module], PACKAGE))
    return files


def snapshots_of(dataset, seeds):
    """The snapshots of the first ``seeds`` seeds of a data set."""
    return [f"{RESULTS}/data/{dataset}/seed-{seed}/snapshots.parquet" for seed in range(seeds)]


def courses_of(dataset, seeds):
    """The courses of the first ``seeds`` seeds of a data set of simulated flows."""
    return [f"{RESULTS}/data/{dataset}/seed-{seed}/courses.parquet" for seed in range(seeds)]


def floors_of(fit):
    """What the truth, no movement and a second sample score on the courses of a fit."""
    return [f"{RESULTS}/baselines/{fit.dataset}/seed-{seed}/floors.parquet" for seed in range(fit.seeds)]


def folder_of(fit):
    """Where the results of a fit go."""
    if fit.paper == "analyses":
        return f"{RESULTS}/analyses/{fit.experiment}"
    return f"{RESULTS}/fits/{fit.paper}/{fit.experiment}/{fit.dataset}/{fit.method}"


def choice(names):
    """A wildcard constraint that admits these names only (and nothing if there are none)."""
    import re

    return "|".join(map(re.escape, names)) or "(?!)"


def figure_names(paper):
    """Figures of a paper whose experiments have anything to show in this run."""
    made = experiments_of(paper)
    return [name for name, figure in PLAN.papers[paper]["figures"].items() if figure["experiment"] in made]


def figures_of(paper):
    return [f"{RESULTS}/figures/{paper}/{name}.{ending}" for name in figure_names(paper) for ending in ("pdf", "png")]


def experiments_of(paper):
    """``experiment -> kind`` of what this run can do of a paper."""
    return {fit.experiment: fit.kind for fit in PLAN.of(paper=paper)} | dict.fromkeys(
        PLAN.comparisons(paper), "comparison"
    )


def experiments_of_kind(*kinds):
    """Names of the papers' experiments of these kinds."""
    return {fit.experiment for fit in PLAN.of(kind=kinds) if fit.paper != "analyses"}


def methods_of_papers(*, together):
    """Methods of the papers' experiments: those that train many courses at once, or the others."""
    return {fit.method for fit in PLAN.fits if fit.paper != "analyses" and methods.trains_many(fit.method) == together}


def diffusivity_alone():
    """Data sets of flows on which a diffusivity is learned beside a potential, without an interaction in the truth."""
    learning = {name for name, method in methods.METHODS.items() if "entropy" in method.fixed.get("terms", ())}
    asked = {fit.dataset for fit in PLAN.of(kind="energy") if fit.method in learning}
    return {name for name in asked if not PLAN.datasets[name]["interactions"]}


def analyses_of_kind(*kinds):
    """Names of the analyses of these kinds."""
    return [fit.experiment for fit in PLAN.of(kind=kinds, paper="analyses")]


def tables_of(paper):
    """Metrics and parameters of every experiment of a paper; a comparison has no parameters."""
    return [
        f"{RESULTS}/fits/{paper}/{name}/{table}.parquet"
        for name, kind in experiments_of(paper).items()
        for table in ("metrics", "parameters")[: 1 if kind == "comparison" else 2]
    ]


def analysis_names():
    return [fit.experiment for fit in PLAN.of(paper="analyses")]


def pages():
    return [f"{RESULTS}/analyses/{name}/page.{ending}" for name in analysis_names() for ending in ("pdf", "png")]


def analysis_tables(kind):
    return [f"{RESULTS}/analyses/{name}/{kind}" for name in analysis_names()]


def collected_tables():
    names = ("metrics.parquet", "parameters.parquet", "scorecard.parquet", "scorecard.md")
    return [f"{RESULTS}/{name}" for name in names]


def everything():
    """A configuration with analyses asks for those; any other for every paper."""
    if PLAN.config["analyses"]:
        return [*pages(), *collected_tables()]
    return [path for paper in PLAN.papers for path in [*figures_of(paper), *tables_of(paper)]] + collected_tables()


def declaration_of(resource):
    """The entry of config/resources.yaml, as plain values."""
    return {key: value for key, value in asdict(DECLARED[resource]).items() if key != "name"}


def analysis(wildcards):
    """The fit behind an analysis."""
    return PLAN.one(paper="analyses", experiment=wildcards.analysis)


def seeds_of(fit, name):
    """One file of every seed of a fit."""
    return [f"{folder_of(fit)}/seed-{seed}/{name}" for seed in range(fit.seeds)]


def recovered(name):
    """The files called ``name`` of every method of a recovery experiment."""
    return lambda w: [f"{folder_of(fit)}/{name}.parquet" for fit in PLAN.of(paper=w.paper, experiment=w.experiment)]


def studied(name):
    """The files called ``name`` of every data set of a study."""
    return lambda w: [
        f"{RESULTS}/fits/{w.paper}/{w.experiment}/{dataset}/study/{name}.parquet"
        for dataset in dict.fromkeys(fit.dataset for fit in PLAN.of(paper=w.paper, experiment=w.experiment))
    ]


def truth_of(fit, name):
    """What a synthetic course knows about itself; nothing for other data."""
    if PLAN.datasets[fit.dataset]["kind"] != "synthetic":
        return []
    return [f"{RESULTS}/data/{fit.dataset}/seed-{seed}/{name}.parquet" for seed in range(fit.seeds)]


def baselines_of(fit):
    """Baselines exist where there is a snapshot to predict.

    Where whole snapshots of given data are held out, every seed has the same rows, and one stands for all.
    """
    if fit.kind not in ("forecast", "interpolation"):
        return []
    same = fit.kind == "interpolation" and PLAN.datasets[fit.dataset]["kind"] != "synthetic"
    seeds = 1 if same else fit.seeds
    return [f"{RESULTS}/baselines/{fit.dataset}/seed-{seed}/metrics.parquet" for seed in range(seeds)]


def fields_of(fit):
    """What a learned energy is at the data, of every seed; nothing for other methods."""
    return seeds_of(fit, "field.parquet") if methods.gives(fit.method) == "energy" else []


def fit_of(w):
    """The fit of an experiment whose seeds are jobs of their own."""
    return PLAN.one(paper=w.paper, experiment=w.experiment, dataset=w.dataset, method=w.method)


def compared_by(w):
    """Metrics of the experiments that a comparison is about."""
    sides = [side["experiment"] for pair in PLAN.comparisons(w.paper)[w.experiment] for side in pair.values()]
    return [f"{RESULTS}/fits/{w.paper}/{name}/metrics.parquet" for name in dict.fromkeys(sides)]


def figure_inputs(w):
    """Metrics and parameters of the figure's experiment, and what only some figures need."""
    figure = PLAN.papers[w.paper]["figures"][w.figure]
    experiment, needs = figure["experiment"], figure["needs"]
    fits = PLAN.of(paper=w.paper, experiment=experiment)
    base = f"{RESULTS}/fits/{w.paper}/{experiment}"
    files = {"metrics": f"{base}/metrics.parquet"}
    if "published" in needs:
        files["published"] = str(WORKFLOW.parent / "resources" / "published" / f"{w.paper}.yaml")
    if not fits:
        return files  # of a comparison, which has no parameters
    first = fits[0]
    files["parameters"] = f"{base}/parameters.parquet"
    if first.kind == "density":
        files["models"] = [seeds_of(fit, "model.pt")[0] for fit in fits]
        files["histories"] = [seeds_of(fit, "history.parquet")[0] for fit in fits]
        files["method"] = sorted({path for fit in fits for path in method_code(fit.method)})
    if first.kind in ("energy", "forecast", "interpolation"):
        made = experiments_of(w.paper)
        beside = [name for name in figure["beside"] if name in made]
        files["beside"] = [f"{RESULTS}/fits/{w.paper}/{name}/metrics.parquet" for name in beside]
        files |= learned_inputs(fits, needs)
        if "data" in needs:
            shown = [fit for name in (experiment, *beside) for fit in PLAN.of(paper=w.paper, experiment=name)]
            name, found = ("courses", courses_of) if first.kind == "energy" else ("clouds", snapshots_of)
            files[name] = [found(dataset, 1)[0] for dataset in dict.fromkeys(fit.dataset for fit in shown)]
    else:
        files["cloud"] = snapshots_of(first.dataset, 1)[0]
        if first.kind in ("recovery", "density"):
            files["clouds"] = [snapshots_of(dataset, 1)[0] for dataset in dict.fromkeys(fit.dataset for fit in fits)]
        if "kde-adam" in {fit.method for fit in fits}:
            files["history"] = f"{base}/{first.dataset}/kde-adam/history.parquet"
    return files


def learned_inputs(fits, needs):
    """Models, predictions and histories of an experiment on snapshots or courses, as far as they are needed."""
    files = {}
    if "models" in needs:
        name = "models.pt" if fits[0].kind == "energy" else "seed-0/model.pt"
        files["models"] = [f"{folder_of(fit)}/{name}" for fit in fits]
        files["method"] = sorted({path for fit in fits for path in method_code(fit.method)})
    if "predictions" in needs:
        files["predictions"] = [seeds_of(fit, "predicted.parquet")[0] for fit in fits]
    if "histories" in needs:
        files["histories"] = [f"{folder_of(fit)}/history.parquet" for fit in fits]
    return files


def collected(kind):
    """Every table of a kind that this run makes: of its analyses, or else of all papers."""
    if PLAN.config["analyses"]:
        return analysis_tables(f"{kind}.parquet")
    return [path for paper in PLAN.papers for path in tables_of(paper) if path.endswith(f"{kind}.parquet")]


wildcard_constraints:
    seed=r"\d+",
    paper=r"[^/]+",
    experiment=r"[^/]+",
    dataset=r"[^/]+",
    method=r"[^/]+",
    analysis=r"[^/]+",
    figure=r"[^/]+",
