"""The configuration: closed, checked as a whole, completed, unfolded, and documented from its schema."""

import copy
import inspect
from pathlib import Path

import pytest
import yaml

from snapdyn import config, drifts, methods, systems

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
    return merged("default.yaml", "papers/fokker-planck-loss.yaml")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("a,b,t\n1,2,0\n")
    return str(path)


def faults(base, **extra):
    return "\n".join(config.check(merged(base, extra), overlay={"run": "mine"}))


def test_published_and_demo_are_valid(published):
    assert config.Plan(published).run == "full"
    demo = config.Plan(merged(published, "demo.yaml"))
    assert demo.run == "demo" and {f.experiment for f in demo.fits} == {
        f.experiment for f in config.Plan(published).fits
    }


def test_demo_changes_sizes_only():
    demo = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
    sizes = {"n", "seeds", "cells_per_time", "n_genes"}
    assert set(demo) == {"run", "resources", "datasets"}
    assert all(set(spec) <= sizes for spec in demo["datasets"].values())


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
    assert "must name its run" in config.check(published, overlay={"seeds": 2})[0]
    assert not config.check(published, overlay={"run": "mine"})


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
    assert "kde-l1 needs stationary data" in said and "['moments', 'affine-propagation']" in said
    assert "moments needs a drift library" in said
    assert "analyses.d: give either" in said


def test_unknown_options_of_a_method(published, table):
    said = faults(
        published,
        datasets={"still": {"kind": "table", "path": table}},
        analyses={"a": {"dataset": "still", "method": "moments", "options": {"degre": 3}}},
    )
    assert "no option 'degre'; did you mean 'degree'" in said


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
    assert set(found) == {"q-moments", "q-affine-propagation"}
    assert found["q-affine-propagation"].drift is None and found["q-moments"].kind == "forecast"


def test_absent_resources_are_left_out_only_when_asked(published):
    def absent(names):
        return dict.fromkeys(names, "not here")

    required = config.Plan(published, absent=absent)
    skipping = config.Plan(merged(published, {"resources": "skip-missing"}), absent=absent)
    assert not required.skipped
    assert skipping.skipped_experiments() == {
        "cells-drift/embryoid-body": "not here",
        "cells-drift/ipsc": "not here",
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

    schema = config.schema()
    walk(schema, "config")
    for name, node in schema["$defs"].items():
        walk(node, f"$defs.{name}")


def test_the_configuration_page_is_the_schemas():
    assert (ROOT / "docs" / "configuration.md").read_text() == config.document(), "run `make docs`"


def test_names_known_without_torch_agree_with_the_registries():
    assert set(config.LIBRARIES) == {"polynomial", "affine", "custom", *systems.SYSTEMS}
    assert config.schema()["$defs"]["system"]["properties"]["system"]["enum"] == list(systems.SYSTEMS)
    assert inspect.isfunction(drifts.build)
    for name, method in methods.METHODS.items():
        accepted = inspect.signature(methods.resolve(name).__init__).parameters
        assert set(method.options) | set(method.fixed) <= set(accepted), name
