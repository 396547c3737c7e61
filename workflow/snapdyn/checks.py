"""What is wrong with a configuration: schema and cross references, every fault at once, before any job runs.

Imports neither torch nor pandas: the graph is built with it.
"""

import difflib
import importlib.util
from functools import cache
from pathlib import Path

import yaml

from snapdyn import compared, methods

SCHEMA = Path(__file__).parents[1] / "schemas" / "config.schema.yaml"
# What can be known of systems and drift libraries without importing torch; a test holds it to the registries.
SYSTEM_PARAMETERS = {
    "lorenz": ("sigma", "rho", "beta"),
    "ornstein-uhlenbeck": ("dim", "rate", "coupling", "rotation"),
    "hopf": ("growth", "saturation", "turn"),
    "double-well": ("slope", "barrier", "stiffness"),
    "gene-network": ("activation",),
    "van-der-pol": ("mu",),
    "nine-clusters": ("spacing", "length", "width", "nodes", "shape_seed"),
}
AXES = {"lorenz": 3, "hopf": 2, "double-well": 2, "gene-network": 7, "van-der-pol": 2, "nine-clusters": 2}
EXACT_SAMPLERS = ("ornstein-uhlenbeck", "hopf", "double-well", "nine-clusters")
# library -> the keys it takes
LIBRARIES = {"polynomial": ("degree",), "affine": (), "custom": ("terms", "known")} | dict.fromkeys(
    SYSTEM_PARAMETERS, ("parameters",)
)
TIMED_KINDS = ("flow", "synthetic", "points", "counts")
RESOURCE_KINDS = ("points", "counts")


@cache
def schema():
    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


def check(config, *, overlay=None, declared=None):
    """Every fault of ``config`` as a sentence, schema and cross references together.

    Args:
        config: the merged configuration.
        overlay: what the user's own files and ``--config`` gave, or None where there are none.
        declared: names of the declared resources; None skips that check.
    """
    from jsonschema import Draft202012Validator

    found = []
    if overlay and "run" not in overlay:
        found.append(
            "run: a configuration of your own must name its run, for example `run: mine`, so that its results do not "
            "land among those of the full run"
        )
    if overlay and config.get("run") in ("full", "demo") and overlay.get("analyses"):
        found.append(
            f"run: {config['run']!r} is the project's own run; give yours another name, for example `run: mine`"
        )
    errors = Draft202012Validator(schema()).iter_errors(config)
    for error in sorted(errors, key=lambda e: [str(part) for part in e.absolute_path]):
        found += _sentences(error)
    if not found or isinstance(config.get("datasets"), dict):
        found += _cross_faults(config, declared)
    return list(dict.fromkeys(found))


def _sentences(error):
    where = ".".join(map(str, error.absolute_path))
    prefix = f"{where}: " if where else ""
    if error.validator == "additionalProperties" and isinstance(error.schema.get("properties"), dict):
        known = list(error.schema["properties"])
        for key in sorted(set(error.instance) - set(known)):
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys are {known}"
            yield f"{prefix}unknown key {key!r}; {hint}"
    elif error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        yield f"{prefix}missing {missing}"
    elif error.validator == "enum":
        near = difflib.get_close_matches(str(error.instance), list(map(str, error.validator_value)), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        yield f"{prefix}must be one of {error.validator_value}, got {error.instance!r}{hint}"
    else:
        meaning = error.schema.get("description", "") if isinstance(error.schema, dict) else ""
        said = f"got {error.instance!r}" if error.validator == "anyOf" else error.message
        expected = f" (expected: {meaning})" if meaning else ""
        yield f"{prefix}{said}{expected}{_number_as_text(error.instance)}"


def _number_as_text(value):
    """A hint for numbers that YAML does not read as such."""
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        return ""
    return "" if number is None else f"; YAML reads {value} as text, write {number:g} with a decimal point: {number!r}"


def _cross_faults(config, declared):
    """Faults that no schema can see: names that point nowhere, methods that do not fit their data."""
    datasets = {k: v for k, v in (config.get("datasets") or {}).items() if isinstance(v, dict)}
    for name, spec in datasets.items():
        own = spec.get("kind") in ("table", "h5ad") and isinstance(spec.get("path"), str)
        if own and not Path(spec["path"]).exists():
            yield f"datasets.{name}.path: no such file {spec['path']!r} (seen from {Path.cwd()})"
        if own and spec.get("hold_out") and spec.get("time_key") is None:
            yield f"datasets.{name}.hold_out: names times, but without a time_key these data have none"
        simulated = spec.get("kind") == "system" and spec.get("system") not in EXACT_SAMPLERS
        if simulated and (spec.get("dt") is None or spec.get("burn") is None):
            yield f"datasets.{name}: {spec.get('system')} has no exact sampler, so it needs dt and burn"
        if spec.get("kind") == "flow":
            yield from _flow_faults(f"datasets.{name}", spec)
        if spec.get("kind") == "system" and isinstance(spec.get("paths"), dict):
            yield from _path_faults(f"datasets.{name}", spec)
        if spec.get("kind") in RESOURCE_KINDS and declared is not None:
            yield from _unknown(f"datasets.{name}.resource", "resource", [spec.get("resource")], declared)
        if spec.get("kind") == "system" and spec.get("system") in SYSTEM_PARAMETERS:
            known = SYSTEM_PARAMETERS[spec["system"]]
            yield from _unknown(f"datasets.{name}.parameters", "parameter", spec.get("parameters") or {}, known)
    for where, dataset in _dataset_uses(config):
        yield from _unknown(where, "data set", [dataset], datasets)
    for name, spec in (config.get("analyses") or {}).items():
        if isinstance(spec, dict):
            yield from _analysis_faults(name, spec, datasets.get(spec.get("dataset")))
    for paper, spec in (config.get("papers") or {}).items():
        if isinstance(spec, dict):
            yield from _paper_faults(f"papers.{paper}", spec, datasets)


def _path_faults(where, spec):
    """What the schema cannot see of a data set of trajectories."""
    every, records = (spec["paths"].get(key) for key in ("every", "records"))
    numbers = [value for value in (every, records, spec.get("n"), spec.get("dt")) if isinstance(value, int | float)]
    if spec.get("dt") is None or spec.get("burn") is None:
        yield f"{where}: paths are simulated, so they need dt and burn"
    if spec.get("per_trajectory", 1) != 1 or spec.get("gap", 0) != 0:
        yield f"{where}: paths say how many records a trajectory has, so leave out per_trajectory and gap"
    if len(numbers) < 4 or min(numbers) <= 0:
        return
    if spec["n"] % records:
        yield f"{where}: n = {spec['n']} must be a multiple of paths.records = {records}"
    if abs(every / spec["dt"] - round(every / spec["dt"])) > 1e-6:
        yield f"{where}: paths.every = {every} must be a multiple of dt = {spec['dt']}"


def _flow_faults(where, spec):
    """What the schema cannot see of a data set of flows."""
    kinds, kernels = (spec.get(key) or [] for key in ("potentials", "interactions"))
    low, high = spec.get("start") or (0, 1)
    if len(kernels) not in (0, 1, len(kinds)):
        yield f"{where}.interactions: expected none, one, or one for each of {len(kinds)} potentials, got {kernels}"
    elif len(set(zip(kinds, kernels if len(kernels) > 1 else kinds, strict=True))) < len(kinds):
        yield f"{where}: the same potential and interaction stand there twice"
    if spec.get("growth") and (spec.get("paired") or kernels):
        other = "paired" if spec.get("paired") else "interactions"
        yield f"{where}.growth: only unpaired particles that do not interact can divide or die; leave out {other}"
    if not low < high:
        yield f"{where}.start: expected [low, high], got {[low, high]}"


def _unknown(where, what, names, known):
    """One sentence for each of ``names`` that is not among the ``known``, with the nearest one."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), list(known), 1)
            hint = f"; did you mean {near[0]!r}?" if near else f" (known: {list(known)})"
            yield f"{where}: unknown {what} {name!r}{hint}"


def _paper_faults(where, paper, datasets):
    experiments = paper.get("experiments") or {}
    for name, experiment in experiments.items():
        here, chosen = f"{where}.experiments.{name}", experiment.get("methods") or {}
        for method, options in chosen.items():
            yield from _method_faults(here, method, options)
        yield from _misfits(here, experiment, datasets)
        yield from _kind_faults(here, experiment, datasets)
        yield from _study_faults(here, experiment)
        if experiment.get("kind") == "comparison":
            yield from compared.faults(here, name, experiments, datasets)
        elif experiment.get("compare"):
            yield f"{here}.compare: only an experiment of kind comparison takes it, not {experiment.get('kind')}"
        if isinstance(experiment.get("drift"), dict):
            yield from _drift_faults(f"{here}.drift", experiment["drift"], None)
        yield from _unknown(f"{here}.attractor", "method", experiment.get("attractor") or (), chosen)
        special = experiment.get("options") or {}
        # any data set, not only the experiment's: an overlay may ask for fewer of them
        yield from _unknown(f"{here}.options", "data set", special, datasets)
        for dataset, by_method in special.items():
            yield from _unknown(f"{here}.options.{dataset}", "method", by_method, chosen)
            for method, options in by_method.items():
                if method in chosen:
                    yield from _method_faults(f"{here}.options.{dataset}", method, options)
    for name, figure in (paper.get("figures") or {}).items():
        yield from _unknown(f"{where}.figures.{name}.experiment", "experiment", [figure.get("experiment")], experiments)
        yield from _unknown(f"{where}.figures.{name}.beside", "experiment", figure.get("beside") or (), experiments)


def _study_faults(where, experiment):
    """A study that does not say what varies."""
    kind = experiment.get("kind")
    if kind == "coverage":
        for name in set(experiment.get("datasets") or ()) - set(experiment.get("replicates") or {}):
            yield f"{where}.replicates: say how to cut {name}, for example {name}: {{size: 5000, count: 100}}"
    elif kind in ("bandwidth", "samples", "misspecification"):
        key = "bandwidths" if kind == "bandwidth" else "sizes"
        if not experiment.get(key):
            yield f"{where}.{key}: an experiment of kind {kind} needs {key}"


def _misfits(where, experiment, datasets):
    """Built-in methods that cannot work on one of the experiment's data sets."""
    known = {name: datasets[name] for name in experiment.get("datasets") or () if name in datasets}
    for name, dataset in known.items():
        system = {"drift": {"library": dataset.get("system")}, "diffusivity": dataset.get("diffusivity", 1.0)}
        for method in sorted(set(experiment.get("methods") or {}) & set(methods.METHODS)):
            given = system if dataset.get("kind") == "system" else {}
            given |= {key: experiment[key] for key in ("drift", "diffusivity") if experiment.get(key)}
            special = (experiment.get("options") or {}).get(name, {}).get(method)
            options = (experiment["methods"][method] or {}) | (special or {})
            if fault := methods.misfit(method, facts_of(dataset), **given, options=options):
                yield f"{where}: on {name}, {fault}"


def _kind_faults(where, experiment, datasets):
    """Methods and data sets that a kind of experiment cannot score."""
    kind, chosen = experiment.get("kind"), experiment.get("methods") or {}
    if kind == "comparison":
        return  # of whatever other experiments could score
    for method in sorted(set(chosen) & set(methods.METHODS)):
        given = methods.gives(method)
        if (given == "density") != (kind == "density"):
            said = (
                "gives no density"
                if kind == "density"
                else "gives a density: ask for it in an experiment of kind density"
            )
            yield f"{where}: {method} {said}"
        elif kind == "energy" and given != "energy":
            yield f"{where}: {method} gives no energy; these do: {methods.giving('energy')}"
    if kind == "energy":
        yield from (f"{where}: {method} is from outside" for method in chosen if methods.is_custom(method))
    if experiment.get("inits", 1) > 1 and kind != "forecast":
        yield f"{where}.inits: only experiments of kind forecast are started several times, this one is of kind {kind}"
    for name in (name for name in experiment.get("datasets") or () if name in datasets):
        yield from _kind_of_data_faults(where, kind, name, datasets[name])


def _kind_of_data_faults(where, kind, name, dataset):
    """A data set that a kind of experiment cannot use: what it holds out decides what can be judged."""
    if dataset.get("kind") == "flow" and kind != "energy":
        yield f"{where}: data set {name} holds courses of flows, which are for experiments of kind energy"
    elif dataset.get("kind") != "flow" and kind == "energy":
        yield f"{where}: data set {name} has no known energy to compare with; take one of kind flow"
    elif kind == "density" and dataset.get("kind") == "system" and dataset.get("train", 1) == 1:
        yield f"{where}: data set {name} holds out no points to score with; give it `train: 0.8`, say"
    elif kind == "interpolation" and not dataset.get("hold_out"):
        yield f"{where}: data set {name} holds out no snapshots; give it `hold_out: [1]`, say"
    elif kind != "interpolation" and dataset.get("hold_out"):
        yield f"{where}: data set {name} holds out whole snapshots: ask for it in an experiment of kind interpolation"


def _dataset_uses(config):
    for name, spec in (config.get("analyses") or {}).items():
        if isinstance(spec, dict) and "dataset" in spec:
            yield f"analyses.{name}.dataset", spec["dataset"]
    for paper, spec in (config.get("papers") or {}).items():
        for name, experiment in (spec.get("experiments") or {}).items() if isinstance(spec, dict) else ():
            for dataset in experiment.get("datasets", ()):
                yield f"papers.{paper}.experiments.{name}.datasets", dataset


def _method_faults(where, name, options):
    if fault := methods.unknown(name):
        yield f"{where}: {fault}"
    elif methods.is_custom(name):
        yield from _import_faults(where, name)
    else:
        known = methods.METHODS[name].options
        for key in sorted(set(options or {}) - set(known)):
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {list(known)}"
            yield f"{where}: {name} has no option {key!r}; {hint}"


def _import_faults(where, name):
    try:
        there = importlib.util.find_spec(name.split(":")[0])
    except (ImportError, ValueError):
        there = None
    if there is None:
        yield f"{where}: cannot find the module of {name!r}; is its folder on PYTHONPATH?"


def _analysis_faults(name, spec, dataset):
    where = f"analyses.{name}"
    chosen = spec.get("method"), spec.get("methods")
    if (chosen[0] is None) == (chosen[1] is None):
        yield f"{where}: give either `method: <name>` or `methods: all` (or a list of names)"
        return
    drift, diffusivity = spec.get("drift"), spec.get("diffusivity")
    if dataset is None:
        return
    if dataset.get("kind") == "flow":
        yield f"{where}: data set {spec['dataset']} holds courses of flows, which are for experiments of kind energy"
        return
    if dataset.get("kind") == "system" and dataset.get("train", 1) == 1:
        yield f"{where}: data set {spec['dataset']} holds out no points to score with; give it `train: 0.8`, say"
    facts = facts_of(dataset)
    if isinstance(diffusivity, list):
        yield from _matrix_faults(f"{where}.diffusivity", diffusivity, dataset.get("columns"))
    if isinstance(drift, dict):
        yield from _drift_faults(f"{where}.drift", drift, dataset.get("columns"))
    known, options = {"drift": drift, "diffusivity": diffusivity}, spec.get("options") or {}
    names = methods.all_of(facts, **known) if chosen[1] == "all" else chosen[1] or [chosen[0]]
    for name in names:
        yield from _method_faults(where, name, None)
    if names and not any(methods.is_custom(name) for name in names):
        taken = dict.fromkeys(o for name in names if name in methods.METHODS for o in methods.METHODS[name].options)
        yield from _unknown(f"{where}.options", f"option of {', '.join(names)}", options, taken)
    if dataset.get("hold_out") and (wrong := [name for name in names if methods.gives(name) == "density"]):
        yield f"{where}: {', '.join(wrong)}: a density of the seen times says nothing about those that are held out"
    for name in names:
        fault = name in methods.METHODS and methods.misfit(name, facts, **known, options=options)
        if fault:
            fits = methods.fitting(facts, **known)
            instead = [other for other in fits if other != name and methods.gives(other) == methods.gives(name)]
            yield f"{where}: {fault}" + (f"; these would fit: {instead}" if instead else "")


def _matrix_faults(where, matrix, columns):
    """A diffusivity matrix that is none; whether it is positive definite shows in the fit."""
    dim = len(columns or matrix)
    if len(matrix) != dim or any(len(row) != dim for row in matrix):
        yield f"{where}: a matrix needs {dim} rows of {dim} numbers each, got {matrix}"
    elif any(matrix[i][j] != matrix[j][i] for i in range(dim) for j in range(i)):
        yield f"{where}: a matrix of diffusivities must be symmetric, got {matrix}"


def _drift_faults(where, drift, columns):
    library = str(drift.get("library", ""))
    if library not in LIBRARIES and ":" not in library:
        near = difflib.get_close_matches(library, LIBRARIES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        yield f"{where}.library: unknown drift library {library!r}{hint} (known: {list(LIBRARIES)}, or module:function)"
        return
    if ":" in library:
        yield from _import_faults(f"{where}.library", library)
        return
    takes = LIBRARIES[library]
    for key in sorted(set(drift) - {"library", "only", *takes}):
        yield f"{where}.{key}: the library {library!r} takes {list(takes) or 'no further keys'}, not {key!r}"
    if library == "custom" and not (drift.get("terms") or drift.get("known")):
        yield (
            f"{where}.terms: the custom library needs terms, for example {{a: ['-x', '0'], b: ['0', '-y']}}, or a "
            "known part, for example known: ['y', '-x'], or both"
        )
    if library == "custom" and columns:
        for name, texts in {**(drift.get("terms") or {}), "known": drift.get("known") or columns}.items():
            if len(texts) != len(columns):
                yield f"{where}: {name!r} has {len(texts)} expressions, expected one for each of the columns {columns}"
    if columns and AXES.get(library, len(columns)) != len(columns):
        yield f"{where}.library: {library!r} has {AXES[library]} axes, the data have {len(columns)}: {columns}"


def facts_of(dataset):
    """What a data set's config tells about its data."""
    kind = dataset.get("kind")
    timed = kind in TIMED_KINDS or (kind in ("table", "h5ad") and dataset.get("time_key") is not None)
    columns = dataset.get("columns")
    dim = len(columns) if columns else dataset.get("n_pcs")
    if kind == "flow":
        dim = dataset.get("dim", 2)
    if kind == "system":
        dim = AXES.get(dataset.get("system")) or (dataset.get("parameters") or {}).get("dim")
    return methods.Facts(timed=timed, dim=dim, paths=bool(dataset.get("paths")))
