"""The configuration: closed, checked as a whole, completed, unfolded, and documented from its schema."""

import copy
import inspect
import re
from pathlib import Path

import pytest
import yaml

from snapdyn import checks, config, drifts, flows, methods, potentials, systems

ROOT = Path(__file__).parents[1]


def merged(*names):
    def merge(into, extra):
        for key, value in extra.items():
            if isinstance(value, dict) and isinstance(into.get(key), dict):
                merge(into[key], value)
            else:
                into[key] = copy.deepcopy(value)
        return into

    result = {}
    for name in names:
        merge(result, yaml.safe_load((ROOT / "config" / name).read_text()) if isinstance(name, str) else name)
    return result


@pytest.fixture
def published():
    return merged("default.yaml", *(f"papers/{path.name}" for path in sorted((ROOT / "config/papers").glob("*.yaml"))))


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("a,b,t\n1,2,0\n")
    return str(path)


def faults(base, **extra):
    return "\n".join(checks.check(merged(base, extra), overlay={"run": "mine"}))


def test_published_and_demo_are_valid(published):
    assert config.Plan(published).run == "full"
    demo = config.Plan(merged(published, "demo.yaml"))
    full = config.Plan(published)
    assert demo.run == "demo" and {f.experiment for f in demo.fits} < {f.experiment for f in full.fits}
    assert {f.kind for f in demo.fits} == {f.kind for f in full.fits}  # so every rule runs
    assert set(full.comparisons("jko")) == {"unpairing", "against-star", "agreement", "growth-ratio"}
    assert set(demo.comparisons("jko")) == {"unpairing", "against-star"}


def test_an_experiment_without_data_sets_is_left_out(published):
    left_out = {"papers": {"jko": {"experiments": {"agreement": {"datasets": []}, "eb-one-step": {"datasets": []}}}}}
    plan = config.Plan(merged(published, left_out))
    assert not plan.of(experiment="eb-one-step") and plan.of(experiment="eb-leave-two-out")
    assert "agreement" not in plan.comparisons("jko") and "unpairing" in plan.comparisons("jko")


def test_demo_changes_sizes_only():
    demo = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
    sizes = {"n", "dt", "burn", "train", "seeds", "cells_per_time", "n_genes"}
    effort = {"components", "steps", "flow_steps", "patterns", "width", "dt"}  # of the densities
    assert set(demo) == {"run", "resources", "datasets", "papers"}
    assert all(set(spec) <= sizes for spec in demo["datasets"].values())
    experiments = [spec for paper in demo["papers"].values() for spec in paper["experiments"].values()]
    assert all(set(spec) <= {"datasets", "sizes", "replicates", "seeds", "inits", "methods"} for spec in experiments)
    assert all(set(options) <= effort for spec in experiments for options in spec.get("methods", {}).values())


def test_all_faults_are_named_at_once_with_the_nearest_key(published, table):
    said = faults(
        published,
        sedes=3,
        device="cdua",
        datasets={"mine": {"kind": "table", "path": table, "colums": ["a"]}, "other": {"kind": "tabel", "path": table}},
        analyses={
            "a": {"dataset": "mime", "method": "moments"},
            "b": {"dataset": "mine", "method": "momnts"},
            "c": {"dataset": "mine", "method": "moments", "drift": {"library": "polynomal"}, "diffusivity": 1},
        },
    )
    for hint in ("'seeds'", "'cuda'", "'columns'", "'table'", "'mine'", "'moments'", "'polynomial'"):
        assert f"did you mean {hint}" in said, hint


@pytest.mark.parametrize("diffusivity", [0, -1.0, "none"])
def test_a_diffusivity_of_nothing_is_refused(published, table, diffusivity):
    said = faults(
        published,
        datasets={"mine": {"kind": "table", "path": table}},
        analyses={
            "a": {"dataset": "mine", "method": "moments", "drift": {"library": "affine"}, "diffusivity": diffusivity}
        },
    )
    assert f"got {diffusivity!r}" in said and "above 0" in said


def test_an_overlay_must_name_its_run(published):
    assert "must name its run" in checks.check(published, overlay={"seeds": 2})[0]
    assert not checks.check(published, overlay={"run": "mine"})


def test_a_method_that_does_not_fit_is_refused_with_one_that_does(published, table):
    said = faults(
        published,
        datasets={
            "still": {"kind": "table", "path": table},
            "timed": {"kind": "table", "path": table, "time_key": "t"},
        },
        analyses={
            "a": {"dataset": "still", "method": "affine-propagation", "drift": {"library": "affine"}, "diffusivity": 1},
            "b": {"dataset": "timed", "method": "kde-l1", "drift": {"library": "affine"}, "diffusivity": 1},
            "c": {"dataset": "still", "method": "moments"},
            "d": {"dataset": "still"},
        },
    )
    assert "affine-propagation needs timed data" in said and "'convolved-l1'" in said
    assert "kde-l1 needs stationary data" in said and "['moments', 'moments-sparse', 'affine-propagation']" in said
    assert "moments needs a drift library" in said
    assert "analyses.d: give either" in said


def test_unknown_options_of_a_method(published, table):
    said = faults(
        published,
        datasets={"still": {"kind": "table", "path": table}},
        analyses={"a": {"dataset": "still", "method": "moments", "options": {"degre": 3}}},
    )
    assert "unknown option of moments 'degre'; did you mean 'degree'" in said


def test_missing_file_says_where_it_looked(published):
    said = faults(published, datasets={"mine": {"kind": "h5ad", "path": "cells.h5ad"}})
    assert "no such file 'cells.h5ad'" in said and str(Path.cwd()) in said


def test_all_methods_become_analyses_of_their_own(published, table):
    plan = config.Plan(
        merged(
            published,
            {
                "run": "mine",
                "datasets": {"timed": {"kind": "table", "path": table, "time_key": "t"}},
                "analyses": {
                    "q": {"dataset": "timed", "methods": "all", "drift": {"library": "affine"}, "diffusivity": 1}
                },
            },
        ),
        overlay={"run": "mine"},
    )
    found = {fit.experiment: fit for fit in plan.of(paper="analyses")}
    drifts_of = {"q-moments", "q-moments-sparse", "q-affine-propagation"}
    assert {name for name, fit in found.items() if fit.kind == "forecast"} == drifts_of
    assert {name for name, fit in found.items() if fit.kind == "density"} >= {"q-kde", "q-gaussian-mixture"}
    assert found["q-affine-propagation"].drift is None and found["q-kde"].drift["library"] == "affine"


def test_comparisons_are_checked_with_the_rest(published):
    compare = {"metrics": ["l2_uvpp"], "courses": ["flowers"], "methods": {"ijkonet-v": "jkonet-star-w"}}
    new = {"kind": "comparison", "datasets": ["potentials-unpaired"], "methods": {"ijkonet-v": {}}, "compare": compare}
    papers = {"jko": {"experiments": {"new": new, "potentials-paired": {"compare": compare}}}}
    said = faults(published, papers=papers)
    assert "did you mean 'l2_uvp'?" in said and "did you mean 'jkonet-star-v'?" in said
    assert "experiments.potentials-paired.compare: only an experiment of kind comparison takes it, not energy" in said


def test_absent_resources_are_left_out_only_when_asked(published):
    def absent(names):
        return dict.fromkeys(names, "not here")

    required = config.Plan(published, absent=absent)
    skipping = config.Plan(merged(published, {"resources": "skip-missing"}), absent=absent)
    assert not required.skipped
    assert skipping.skipped_experiments() == {
        "bilevel-cells/embryoid-body": "not here",
        "cells-density/embryoid-body": "not here",
        "cells-drift/embryoid-body": "not here",
        "cells-drift/ipsc": "not here",
        "cells-inference/embryoid-body": "not here",
        "cells-one-step/hematopoiesis": "not here",
        "cells-one-step/ipsc": "not here",
        "eb-leave-two-out/embryoid-body-two-out": "not here",
        "eb-one-step/embryoid-body": "not here",
    }
    assert not skipping.of(dataset="ipsc") and required.of(dataset="ipsc")


def test_seeds_of_the_user_reach_analyses_and_data_sets(published, table):
    overlay = {
        "run": "mine",
        "seeds": 7,
        "datasets": {"mine": {"kind": "table", "path": table}},
        "analyses": {"a": {"dataset": "mine", "method": "my_module:Mine"}},
    }
    overlay["analyses"]["a"]["method"] = "json:JSONDecoder"  # any importable class; its contract is checked at the fit
    assert config.Plan(merged(published, overlay), overlay=overlay).one(paper="analyses").seeds == 7


def test_every_key_has_a_description_and_a_default_or_is_required():
    def walk(node, path):
        for key, part in node.get("properties", {}).items():
            part = config._definition(part)
            where = f"{path}.{key}"
            assert part.get("description") or path.endswith(".dataset"), where
            optional = key not in node.get("required", ()) and part.get("type") != "object"
            assert not optional or "default" in part or "anyOf" in part, where
            walk(part, where)

    schema = checks.schema()
    walk(schema, "config")
    for name, node in schema["$defs"].items():
        walk(node, f"$defs.{name}")


def test_the_configuration_page_is_the_schemas():
    assert (ROOT / "docs" / "configuration.md").read_text() == config.document(), "run `make docs`"


def test_names_known_without_torch_agree_with_the_registries():
    assert set(checks.LIBRARIES) == {"polynomial", "affine", "custom", *systems.SYSTEMS}
    for name, cls in systems.SYSTEMS.items():
        assert set(checks.SYSTEM_PARAMETERS[name]) == set(cls.__init__.__kwdefaults__ or {}) - {"diffusivity"}
        assert checks.AXES.get(name, 0) in (0, len(getattr(cls, "axes", ())))
    assert checks.schema()["$defs"]["system"]["properties"]["system"]["enum"] == list(systems.SYSTEMS)
    assert inspect.isfunction(drifts.build)
    for name, method in methods.METHODS.items():
        accepted = {p for cls in methods.resolve(name).__mro__ for p in inspect.signature(cls.__init__).parameters}
        assert set(method.options) | set(method.fixed) <= accepted, name


def test_all_methods_without_a_drift_are_densities(published, table):
    overlay = {"run": "mine", "datasets": {"still": {"kind": "table", "path": table}}}
    overlay["analyses"] = {"a": {"dataset": "still", "methods": "all"}}
    plan = config.Plan(merged(published, overlay), overlay=overlay)
    found = {fit.method for fit in plan.of(paper="analyses")}
    assert {"gaussian-mixture", "kde", "hopfield"} <= found
    assert all(methods.gives(name) == "density" for name in found)


DENSITY = {"kind": "density", "datasets": ["lorenz"], "methods": {"kde": {}}}


@pytest.mark.parametrize(
    ("experiment", "train", "said"),
    [
        (DENSITY, 0.8, ""),
        (DENSITY, 1, "experiments.new: data set lorenz holds out no points to score with; give it `train: 0.8`"),
        (DENSITY | {"kind": "recovery"}, 0.8, "new: kde gives a density: ask for it in an experiment of kind density"),
        (DENSITY | {"methods": {"moments": {}}}, 0.8, "experiments.new: moments gives no density"),
        (
            DENSITY | {"methods": {"kde": {"bandwith": 1}}},
            0.8,
            "kde has no option 'bandwith'; did you mean 'bandwidth'",
        ),
    ],
)
def test_densities_have_experiments_of_their_own(published, experiment, train, said):
    papers = {"fokker-planck-loss": {"experiments": {"new": experiment}}}
    found = faults(published, papers=papers, datasets={"lorenz": {"train": train}})
    assert said in found and bool(said) == bool(found)


@pytest.mark.parametrize(
    ("drift", "said"),
    [
        ({"library": "custom", "known": ["b", "-a"]}, ""),
        ({"library": "custom", "known": ["b"]}, "'known' has 1 expressions"),
        (
            {"library": "custom"},
            "the custom library needs terms, for example {a: ['-x', '0'], b: ['0', '-y']}, or a known",
        ),
    ],
)
def test_a_drift_may_be_known_as_a_whole(published, table, drift, said):
    dataset = {"kind": "table", "path": table, "columns": ["a", "b"]}
    analysis = {"dataset": "mine", "method": "kde", "drift": drift, "diffusivity": 1}
    found = faults(published, datasets={"mine": dataset}, analyses={"a": analysis})
    assert said in found and bool(said) == bool(found)
    found = faults(published, datasets={"mine": dataset}, analyses={"a": analysis | {"method": "moments"}})
    assert "moments looks for coefficients, but the custom library has no terms" in found


def test_options_are_closed_for_several_methods_too(published, table):
    base = {"datasets": {"timed": {"kind": "table", "path": table, "time_key": "t"}}}
    drift = {"drift": {"library": "affine"}, "diffusivity": 1}
    several = {"dataset": "timed", "methods": "all", **drift}
    assert "did you mean 'restarts'" in faults(published, **base, analyses={"a": several | {"options": {"restart": 4}}})
    assert not faults(published, **base, analyses={"a": several | {"options": {"restarts": 4, "degree": 3}}})


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"experiments": {"lorenz": {"attractor": ["mommments"]}}}, "'moments'"),
        ({"experiments": {"lorenz": {"options": {"lorenzo": {}}}}}, "'lorenz'"),
        ({"experiments": {"lorenz": {"options": {"lorenz": {"kde-adamm": {}}}}}}, "'kde-adam'"),
        ({"experiments": {"lorenz": {"options": {"lorenz": {"kde-adam": {"bandwith": 1}}}}}}, "'bandwidth'"),
        ({"figures": {"lorenz": {"experiment": "lorentz"}}}, "'lorenz'"),
        ({"figures": {"lorenz": {"beside": ["lorentz"]}}}, "'lorenz'"),
    ],
)
def test_what_a_paper_names_must_exist(published, change, hint):
    assert f"did you mean {hint}" in faults(published, papers={"fokker-planck-loss": change})


def test_unknown_resources_and_system_parameters(published):
    extra = {"datasets": {"embryoid-body": {"resource": "embryoid"}, "lorenz": {"parameters": {"rhoo": 28}}}}
    said = "\n".join(checks.check(merged(published, extra), declared=["embryoid-body-5pc", "ipsc-cardiomyocyte"]))
    assert "did you mean 'embryoid-body-5pc'" in said and "did you mean 'rho'" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": 1010}, "n = 1010 must be a multiple of paths.records = 100"),
        ({"dt": 0.003}, "paths.every = 0.01 must be a multiple of dt = 0.003"),
        ({"dt": None}, "paths are simulated, so they need dt and burn"),
        ({"gap": 1.0}, "leave out per_trajectory and gap"),
        ({"paths": {"every": 0.01}}, "paths: missing ['records']"),
        ({"paths": {"every": 0.01, "record": 100}}, "did you mean 'records'"),
        ({}, ""),
    ],
)
def test_paths_must_add_up(published, change, said):
    spec = {"kind": "system", "system": "hopf", "diffusivity": 0.5, "n": 1000, "dt": 0.001, "burn": 5}
    found = faults(published, datasets={"circle": spec | {"paths": {"every": 0.01, "records": 100}} | change})
    assert said in found and bool(said) == bool(found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"potentials": ["flower", "relu"]}, "must be one of ['styblinski-tang'"),
        ({"potentials": ["flower", "relu"]}, "did you mean 'flowers'?"),
        ({"interactions": ["relu", "relu", "flat"]}, "expected none, one, or one for each of 2 potentials"),
        ({"potentials": ["flat", "flat"]}, "the same potential and interaction stand there twice"),
        ({"potentials": ["flat", "flat"], "interactions": ["relu", "relu"]}, "stand there twice"),
        ({"potentials": ["flat", "flat"], "interactions": ["relu", "sphere"]}, ""),
        ({"interactions": ["sphere"], "diffusivity": 0.1, "paired": True, "scheme": "implicit"}, ""),
        ({"start": [4, -4]}, "start: expected [low, high], got [4, -4]"),
        ({"dim": 1}, "datasets.flow.dim: 1 is less than the minimum of 2"),
        ({"scheme": "implicits"}, "did you mean 'implicit'"),
        ({"tua": 0.1}, "did you mean 'tau'"),
        ({}, ""),
    ],
)
def test_flows_are_checked(published, change, said):
    flow = {"kind": "flow", "potentials": ["flowers", "relu"]}
    found = faults(published, datasets={"flow": flow | change})
    assert said in found and bool(said) == bool(found)


COURSE = {"kind": "synthetic", "hold_out": [1]}
LEFT_OUT = {"kind": "interpolation", "datasets": ["held"], "methods": {"ijkonet-v": {}}}
HILLS = {"kind": "flow", "potentials": ["flat"]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (LEFT_OUT, ""),
        (LEFT_OUT | {"methods": {"affine-propagation": {}}}, ""),
        (LEFT_OUT | {"datasets": ["synthetic-course"]}, "synthetic-course holds out no snapshots; give it `hold_out"),
        (
            LEFT_OUT | {"kind": "forecast"},
            "held holds out whole snapshots: ask for it in an experiment of kind interpol",
        ),
        (LEFT_OUT | {"methods": {"kde": {}}}, "kde gives a density: ask for it in an experiment of kind density"),
        (LEFT_OUT | {"inits": 5}, "inits: only experiments of kind forecast are started several times"),
        (LEFT_OUT | {"kind": "forecast", "datasets": ["synthetic-course"], "inits": 5}, ""),
        (LEFT_OUT | {"kind": "energy", "datasets": ["hills"]}, ""),
        (LEFT_OUT | {"kind": "energy"}, "held has no known energy to compare with; take one of kind flow"),
        (
            {"kind": "energy", "datasets": ["hills"], "methods": {"affine-propagation": {}}},
            "affine-propagation gives no energy; these do: ['ijkonet'",
        ),
        (LEFT_OUT | {"methods": {"ijkonet-v": {"innner": 3}}}, "no option 'innner'; did you mean 'inner'"),
    ],
)
def test_what_is_held_out_decides_what_is_asked(published, change, said):
    papers = {"fokker-planck-loss": {"experiments": {"new": change}}}
    found = faults(published, datasets={"held": COURSE, "hills": HILLS}, papers=papers)
    assert said in found and bool(said) == bool(found)


def test_only_the_first_of_many_starts_counts_as_the_methods_own(published):
    asked = LEFT_OUT | {"kind": "forecast", "datasets": ["synthetic-course"], "inits": 5}
    asked["methods"] = {"ijkonet-v": {}, "affine-propagation": {}}
    plan = config.Plan(merged(published, {"papers": {"fokker-planck-loss": {"experiments": {"new": asked}}}}))
    assert {fit.method: fit.inits for fit in plan.of(experiment="new")} == {"ijkonet-v": 5, "affine-propagation": 1}


def test_an_analysis_of_held_out_times_is_an_interpolation(published, table):
    own = {"run": "mine", "datasets": {"t": {"kind": "table", "path": table, "time_key": "t", "hold_out": [1]}}}
    own["analyses"] = {"a": {"dataset": "t", "method": "ijkonet-v"}}
    plan = config.Plan(merged(published, own), overlay=own)
    assert plan.one(paper="analyses").kind == "interpolation"
    own["analyses"] = {"a": {"dataset": "t", "method": "kde"}}
    assert "a density of the seen times says nothing" in faults(published, **own)
    own["datasets"]["t"].pop("time_key")
    assert "datasets.t.hold_out: names times, but without a time_key" in faults(published, **own)


def test_flows_are_for_experiments_of_their_own_kind(published):
    data = {"flow": {"kind": "flow", "potentials": ["flowers"]}}
    asked = {"kind": "forecast", "datasets": ["flow"], "methods": {"affine-propagation": {}}}
    said = faults(published, datasets=data, papers={"fokker-planck-loss": {"experiments": {"mine": asked}}})
    assert "experiments.mine: data set flow holds courses of flows, which are for experiments of kind energy" in said
    said = faults(published, run="mine", datasets=data, analyses={"a": {"dataset": "flow", "methods": "all"}})
    assert said.startswith("analyses.a: data set flow holds courses of flows")


def test_the_schema_knows_every_potential_and_scheme():
    known = checks.schema()["$defs"]
    assert known["potential"]["enum"] == list(potentials.POTENTIALS)
    assert known["flow"]["properties"]["scheme"]["enum"] == list(flows.SCHEMES)
    facts = checks.facts_of({"kind": "flow", "potentials": ["flat"]})
    assert (facts.timed, facts.dim) == (True, 2)


def test_an_analysis_needs_held_out_points(published):
    ring = {"kind": "system", "system": "hopf", "diffusivity": 0.5, "n": 1000}
    asked = {"dataset": "circle", "method": "moments", "drift": {"library": "hopf"}, "diffusivity": 0.5}
    found = faults(published, run="mine", datasets={"circle": ring}, analyses={"a": asked})
    assert "analyses.a: data set circle holds out no points to score with; give it `train: 0.8`" in found
    assert not faults(published, run="mine", datasets={"circle": ring | {"train": 0.8}}, analyses={"a": asked})


def test_a_method_that_does_not_fit_the_data_of_a_paper_is_refused(published):
    change = {"experiments": {"lorenz": {"methods": {"sindy": {}, "affine-propagation": {}}}}}
    said = faults(published, papers={"fokker-planck-loss": change})
    assert "experiments.lorenz: on lorenz, sindy needs trajectories" in said
    assert "on lorenz, affine-propagation needs timed data" in said
    paths = {"lorenz": {"paths": {"every": 0.01, "records": 100}}}
    change = {"experiments": {"lorenz": {"methods": {"sindy": {}}, "datasets": ["lorenz"]}}}
    assert not faults(published, papers={"fokker-planck-loss": change}, datasets=paths)


@pytest.mark.parametrize(
    ("drift", "said"),
    [
        ({"library": "affine", "known": ["a", "b"]}, "'affine' takes no further keys, not 'known'"),
        ({"library": "polynomial", "terms": {"a": ["a", "b"]}}, "takes ['degree'], not 'terms'"),
        ({"library": "custom", "terms": {"a": ["a"]}}, "'a' has 1 expressions"),
        ({"library": "lorenz"}, "'lorenz' has 3 axes, the data have 2"),
    ],
)
def test_drift_libraries_are_checked_before_any_job(published, table, drift, said):
    dataset = {"kind": "table", "path": table, "columns": ["a", "b"]}
    analysis = {"dataset": "mine", "method": "moments", "drift": drift, "diffusivity": 1}
    assert said in faults(published, datasets={"mine": dataset}, analyses={"a": analysis})


def test_analyses_that_would_share_a_name_are_refused(published, table):
    dataset = {"kind": "table", "path": table, "time_key": "t"}
    overlay = {
        "run": "mine",
        "datasets": {"d": dataset},
        "analyses": {
            "x": {"dataset": "d", "methods": ["affine-propagation"]},
            "x-affine-propagation": {"dataset": "d", "method": "affine-propagation"},
        },
    }
    with pytest.raises(config.ConfigError, match="would be called"):
        config.Plan(merged(published, overlay), overlay=overlay)


def test_numbers_that_yaml_reads_as_text(published, table):
    analysis = {"dataset": "mine", "method": "moments", "drift": {"library": "affine"}, "diffusivity": "1e-3"}
    said = faults(published, datasets={"mine": {"kind": "table", "path": table}}, analyses={"a": analysis})
    assert "YAML reads 1e-3 as text" in said and "0.001" in said


def test_a_data_set_that_is_no_mapping_gets_one_sentence(published):
    assert len(checks.check(merged(published, {"datasets": {"p": "ok.csv"}}))) == 1


def test_the_projects_own_runs_are_not_for_analyses(published, table):
    overlay = {"run": "full", "analyses": {"a": {"dataset": "lorenz", "method": "moments"}}}
    assert "the project's own run" in "\n".join(checks.check(merged(published, overlay), overlay=overlay))


def test_the_readmes_table_of_methods_is_the_registrys():
    rows = re.findall(r"^\| (.*?) \| (`.*?`.*?) \|", (ROOT / "README.md").read_text(), re.M)
    said = {
        name: need for need, names in rows for name in re.findall(r"`([a-z0-9-]+)`", names) if name in methods.METHODS
    }
    assert set(said) == set(methods.METHODS)
    assert "several times" in said["affine-propagation"] and "at rest" in said["convolved-l1"]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [([[1, 0.5], [0.2, 1]], "must be symmetric"), ([[1, 0], [0, 1, 0]], "needs 2 rows of 2 numbers"),
     ([[1, 0.5], [0.5, 1]], None)],
)  # fmt: skip
def test_a_diffusivity_matrix_is_square_and_symmetric(published, table, matrix, message):
    analysis = {"dataset": "mine", "method": "moments", "drift": {"library": "affine"}, "diffusivity": matrix}
    own = {"run": "mine", "datasets": {"mine": {"kind": "table", "path": table}}, "analyses": {"a": analysis}}
    found = [fault for fault in checks.check(merged(published, own), overlay=own) if "diffusivity" in fault]
    assert (message is None and not found) or message in found[0]
