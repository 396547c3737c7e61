"""The report of a run: all of it is on the page, nothing in it can break out, and what is missing is said."""

import json
import math
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import report_helpers as made
from PIL import Image
from report_helpers import HOSTILE, PAPER, ROOT, Page

from snapdyn import artifacts, methods, report, report_content, report_files, report_math, report_run, report_tables
from snapdyn import config as configuration
from snapdyn.report_scorecard import slug


@pytest.fixture
def results(tmp_path):
    return made.paper_run(tmp_path)


@pytest.fixture
def page(results):
    return Page(made.page_of(results))


@pytest.fixture
def own(tmp_path):
    return made.own_run(tmp_path)


def test_every_claim_is_a_row_with_its_numbers_and_its_reason(page):
    for row in made.claims().itertuples():
        words = page.text(slug("claim", row.claim))
        assert row.verdict in words and row.note in words and row.floor_kind in words, row.claim
    assert "25.2 ± 2 %" in page.text(slug("claim", "fig2-sigma")) and "0 % to 5 %" in page.text(
        slug("claim", "fig2-sigma")
    )
    assert "2 seeds" in page.text(slug("claim", "met"))
    shown = [tag for tag in page.all("tr") if "data-verdict" in tag]
    assert len(shown) == len(made.claims())
    assert {tag["data-verdict"] for tag in page.all("button") if "data-verdict" in tag} == set(made.claims()["verdict"])


def test_the_scorecard_stands_first_and_counts_its_verdicts(page):
    assert page.ids().index("scorecard") < page.ids().index(slug("paper", PAPER))
    (tally,) = [tag["aria-label"] for tag in page.all("div") if tag.get("class") == "tally"]
    counts = made.claims()["verdict"].value_counts()
    assert {part.split(" ", 1)[1]: int(part.split()[0]) for part in tally.split(", ")} == counts.to_dict()


def test_captions_are_those_that_the_run_filled_in(page):
    words = page.text(slug("figure", PAPER, "lorenz"))
    assert "D = 12.5, 4,321 points." in words and HOSTILE in words and "arXiv:2502.17690v2, Fig. 2" in words
    assert not re.search(r"\{(n|seeds|diffusivity|starts)\}", words)


def test_a_figure_is_inside_with_a_description_and_leads_to_its_numbers_and_its_code(page, results):
    pictures = [tag for tag in page.all("img") if tag["src"].startswith("data:image/png;base64,")]
    assert len(pictures) == 1 and "cloud, error" in pictures[0]["alt"]
    assert (pictures[0]["width"], pictures[0]["height"]) == ("40", "30")
    targets = {
        (results / unquote(tag["href"])).resolve()
        for tag in page.all("a")
        if not tag["href"].startswith(("#", "data:"))
    }
    wanted = [results / "figures" / PAPER / f"lorenz.{ending}" for ending in ("parquet", "pdf", "png")]
    wanted += [ROOT / "workflow" / "rules" / "figures.smk", ROOT / "workflow" / "scripts" / "figure.py"]
    wanted += [ROOT / "workflow" / "snapdyn" / "figures.py", ROOT / "workflow" / "rules" / "evaluate.smk"]
    wanted += [results / "fits" / PAPER / "lorenz" / "metrics.parquet", results / "scorecard.parquet"]
    assert {path.resolve() for path in wanted} <= targets
    assert "def lorenz(files):" in page.text(slug("experiment", PAPER, "lorenz"))


@pytest.mark.parametrize("overlay", [made.OVERLAY, made.MINE], ids=["paper", "own"])
def test_every_link_leads_somewhere(tmp_path, overlay):
    results = made.own_run(tmp_path) if "analyses" in overlay else made.paper_run(tmp_path)
    page = Page(made.page_of(results, overlay))
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for tag in page.all("a"):
        kind, _, rest = tag["href"].partition(":")
        if tag["href"].startswith("#"):
            assert unquote(tag["href"][1:]) in ids, tag
        elif kind == "data":
            assert rest.startswith("application/vnd.apache.parquet;base64,") and tag["download"].endswith(".parquet")
        else:
            assert (results / unquote(tag["href"])).is_file(), tag
    for attributes in (attributes for _, attributes in page.tags):
        for name in ("aria-labelledby", "for"):
            assert name not in attributes or attributes[name] in ids


@pytest.mark.parametrize("overlay", [made.OVERLAY, made.MINE], ids=["paper", "own"])
def test_nothing_comes_from_elsewhere_and_nothing_breaks_out(tmp_path, overlay):
    results = made.own_run(tmp_path) if "analyses" in overlay else made.paper_run(tmp_path)
    text = made.page_of(results, overlay)
    page = Page(text)
    assert len(page.all("script")) == 1 and len(page.all("style")) == 1
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert "x" not in attributes or tag == "rect"
        for name in {"src", "href"} & set(attributes):
            link = attributes[name]
            assert not re.match(r"\s*(https?:|//|javascript:|file:|/)", link), (tag, link)
            assert name != "src" or link.startswith("data:")
    assert not re.search(r"url\(|@import", text.split("</style>")[0])
    policy = [tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy"]
    assert policy and "default-src 'none'" in policy[0]
    shown = page.text("main")
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>" in shown and "{{ 7 * 7 }}" in shown


def test_tables_show_means_beside_their_floors():
    metrics = made.metrics(
        "lorenz", [("moments", "relative_rms_error", [0.01, 0.03]), ("moments", "covered", [1, 0.5])]
    )
    known = [("moments", "sigma", [9.0, 11.0], 0.3, 10.0), ("moments", "rho", [28.0, 28.0], 0.4, -20.0)]
    (table,) = report_tables.headlines(metrics, made.parameters("lorenz", known))
    (method,) = table["rows"]
    assert table["columns"] == ["relative RMS error", "its floor", "truth in 95 % interval"]
    assert method["seeds"] == 2
    expected = math.sqrt((0.3**2 + 0.4**2) / 2) / math.sqrt((10**2 + 20**2) / 2)
    assert method["cells"] == ["2 ± 1.4 %", f"{100 * expected:.3g} %", "75 %"]


def test_a_study_has_a_floor_for_each_of_its_sizes():
    known = [(f"moments/n={n}", "sigma", [10.0], 30 / n, 10.0) for n in (100, 1000)]
    found = report_tables.predicted_errors(made.parameters("samples", known))
    assert found == {("lorenz", "n=100"): pytest.approx(0.03), ("lorenz", "n=1000"): pytest.approx(0.003)}
    scored = [(f"{name}/n={n}", "relative_rms_error", [0.1]) for n in (1000, 100) for name in ("kds", "moments")]
    (table,) = report_tables.headlines(made.metrics("samples", scored), made.parameters("samples", known))
    found = [(row["method"], row["cells"][1]) for row in table["rows"]]
    assert found == [
        ("kds/n=100", "3 %"),
        ("kds/n=1000", "0.3 %"),
        ("moments/n=100", "3 %"),
        ("moments/n=1000", "0.3 %"),
    ]


def test_attractors_have_the_truth_for_their_floor():
    scored = [("kds", "attractor_w1", [2.0]), ("kds", "attractor_w1_floor", [1.5]), ("moments", "attractor_w1", [1.6])]
    (table,) = report_tables.headlines(made.metrics("lorenz", scored), None)
    assert table["columns"] == ["W1 of attractors", "its floor"]
    assert [row["cells"] for row in table["rows"]] == [["2", "1.5"], ["1.6", ""]]


def test_baselines_stand_below_methods_and_floors_last():
    rows = [(name, "w1", [1.0]) for name in ("no-movement", "mine", "ot-nearest", "resampling")]
    (table,) = report_tables.headlines(made.metrics("cells", rows), None)
    assert [row["method"] for row in table["rows"]] == ["mine", "ot-nearest", "no-movement", "resampling"]


def test_metrics_of_single_parameters_are_left_to_the_table_of_parameters(page):
    metrics = made.metrics("lorenz", [("moments", "relative_error_sigma", [0.1]), ("moments", "covered", [1.0])])
    rows, count = report_tables.details(metrics, {"sigma"})
    assert count == 1 and rows[0][4] == "covered"
    assert "10 ± 0.14" in page.text(slug("experiment", PAPER, "lorenz"))


def test_places_on_the_axis_keep_their_order():
    row = {"published": 2.0, "published_spread": 0.5, "ours": 1.0, "ours_spread": np.nan, "floor": 0.5}
    found = report_tables.strip(row, (0.0, 4.0))
    assert found["floor"][0] < found["ours"][0] < found["published"][0] < found["band"][1] <= 100
    assert found["published"][1] < found["published"][0] < found["published"][2] and found["band"][0] == 0
    assert report_tables.strip(row | {"ours": np.nan}) is None
    lonely = row | {"published": np.nan, "floor": np.nan}
    assert report_tables.strip(lonely) is None and report_tables.strip(lonely, (0, 1)) is not None


@pytest.mark.parametrize(
    ("value", "text"), [(np.nan, "–"), (0.123456, "0.123"), (12345.6, "12,346"), (1.5e-7, "1.5e-07"), (0.0, "0")]
)
def test_numbers_are_for_people(value, text):
    assert report_tables.number(value) == text


def test_time_and_memory_add_up(results):
    witnesses = report_files.Witnesses(results)
    found = report_run.statistics(results, witnesses, report_files.Links(results, ROOT))
    rows = {row["rule"]: row for row in found["rows"]}
    assert [row["rule"] for row in found["rows"]][0] == "recover"
    assert (
        rows["recover"]["jobs"] == 2 and rows["recover"]["wall"] == 120 and rows["recover"]["longest"] == "1 min 40 s"
    )
    assert rows["figure"]["wall"] == 5.0 and rows["figure"]["cpu"] == "–"  # two jobs, without benchmarks
    assert found["cpu"] == report_tables.seconds(63.5)


def test_provenance_names_commits_hosts_devices_and_uncommitted_changes(page):
    words = page.text("provenance")
    assert made.COMMIT in words and "with uncommitted changes" in words and "node7" in words and HOSTILE in words
    assert "the configuration says cpu" in words and "numpy" in words and "2.0.0" in words
    assert "2026-01-02 03:04 UTC to 2026-01-02 05:00 UTC" in words


def test_uncommitted_changes_are_said_at_the_top_and_only_then(tmp_path):
    said = "Uncommitted changes"
    assert said in made.page_of(made.paper_run(tmp_path / "dirty"))
    assert said not in made.page_of(made.own_run(tmp_path / "clean"), made.MINE)


def test_what_is_missing_is_said_with_the_way_to_make_it(page):
    words = page.text(slug("experiment", PAPER, "bandwidth"))
    assert "Figure bandwidth: bandwidth.png is missing" in words and "Tables: not made yet" in words
    command = f'make run ARGS="results/made-up/figures/{PAPER}/bandwidth.png --configfile mine.yaml"'
    assert command in words
    listed = page.text("missing")
    assert f"figures/{PAPER}/coverage.png" in listed and f"figures/{PAPER}/lorenz.png" not in listed


def test_a_comparison_lacks_no_parameters(results):
    rows = [("ijkonet-v", "l2_uvp_ratio_median", [0.25, 0.75])]
    frame = made.metrics("against-star", rows, "potentials-unpaired").assign(paper="jko")
    artifacts.write(frame, results / "fits/jko/against-star/metrics.parquet", "metrics/1")
    page = Page(made.page_of(results))
    words, listed = page.text(slug("experiment", "jko", "against-star")), page.text("missing")
    assert "median ratio of L2-UVP" in words and "0.5" in words and "not made yet" not in words
    assert "fits/jko/unpairing/metrics.parquet" in listed and "against-star" not in listed


@pytest.mark.parametrize("suffix", [".parquet", ".json", ".tsv", ".png"])
def test_broken_files_are_said_and_hide_nothing_else(results, suffix):
    for path in results.rglob(f"*{suffix}"):
        path.write_bytes(b"no such thing")
    text = made.page_of(results)
    assert "Missing pieces" in text and "Time and memory" in text
    if suffix == ".parquet":
        assert "is not a readable parquet file" in text
    if suffix == ".json":
        assert "provenance files cannot be read" in text


@pytest.mark.parametrize("kept", ["scorecard.parquet", "fits", "figures", "benchmarks"])
def test_any_part_of_a_run_gives_a_page(results, kept):
    for path in results.iterdir():
        if path.name != kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = Page(made.page_of(results))
    assert "missing" in page.ids() and len(page.ids()) == len(set(page.ids()))


def test_an_experiment_without_its_resource_is_shown_as_left_out(results, monkeypatch, tmp_path):
    monkeypatch.setenv("SNAPDYN_RESOURCES", str(tmp_path))
    page = Page(made.page_of(results, made.OVERLAY | {"resources": "skip-missing", "resources_dir": str(tmp_path)}))
    words = page.text(slug("experiment", PAPER, "cells-inference"))
    assert "Left out of this run." in words and "resource embryoid-body-5pc is not in" in words
    assert f"figures/{PAPER}/cells-inference.png" not in page.text("missing")
    partly = page.text(slug("experiment", PAPER, "cells-drift"))
    assert "left out: resource" in partly and "not made yet" in partly


def test_what_was_made_is_shown_though_its_resource_has_gone(results, tmp_path, monkeypatch):
    monkeypatch.setenv("SNAPDYN_RESOURCES", str(tmp_path))
    made.figure(results / "figures" / PAPER / "cells-inference", "Real cells.", ["crossed-j-test"])
    (results / "fits" / PAPER / "cells-inference" / "embryoid-body").mkdir(parents=True)
    page = Page(made.page_of(results, made.OVERLAY | {"resources": "skip-missing", "resources_dir": str(tmp_path)}))
    assert "Real cells." in page.text(slug("figure", PAPER, "cells-inference"))
    assert "Left out" not in page.text(slug("experiment", PAPER, "cells-inference"))


def test_own_data_come_first_with_their_verdict(own):
    page = Page(made.page_of(own, made.MINE))
    assert page.ids().index("analyses") < page.ids().index("scorecard") and slug("paper", PAPER) not in page.ids()
    words = page.text(slug("analysis", "drift_of_points"))
    assert "Better than doing nothing: cannot tell" in words and "Words with" in words and "sigma" in words
    assert "[a link](javascript:alert(3))" in words and "a picture" in words
    assert "affine-propagation" in words and "0.2, 95 % interval -0.1 to 0.5" in page.text("analyses")
    assert "cuda" in page.text("provenance") and "Some GPU" in page.text("provenance")
    assert "claims were not part of this run" in page.text("scorecard")
    assert page.text(slug("claim", "absent"))


@pytest.mark.parametrize("name", ["verdict.json", "page.md", "page.png", "metrics.parquet"])
def test_a_half_done_analysis_is_shown(own, name):
    (own / "analyses" / "drift_of_points" / name).unlink()
    assert slug("analysis", "drift_of_points") in Page(made.page_of(own, made.MINE)).ids()


def test_the_same_run_gives_the_same_bytes(results, tmp_path):
    first = made.page_of(results)
    again = tmp_path / "again" / "results" / "made-up"
    for path in sorted(results.rglob("*"), reverse=True):  # made in another order, at another time
        if path.is_file() and path.name != "report.html":
            (again / path.relative_to(results)).parent.mkdir(parents=True, exist_ok=True)
            (again / path.relative_to(results)).write_bytes(path.read_bytes())
    assert re.sub(r'href="(?:\.\./)+[^"]*"', "", made.page_of(again)) == re.sub(r'href="(?:\.\./)+[^"]*"', "", first)


def test_no_results_are_one_clear_error(tmp_path):
    (tmp_path / "results" / "other" / "data").mkdir(parents=True)
    with pytest.raises(report_content.ReportError, match="no results of the run 'made-up'.*make run.*results of other"):
        report.make(report.plan_of(made.OVERLAY), tmp_path / "results" / "made-up")
    assert not (tmp_path / "results" / "made-up").exists()


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(json.dumps(made.OVERLAY))
    return tmp_path


def test_the_command_takes_the_arguments_of_the_run(in_folder, capsys):
    made.paper_run(in_folder)
    assert report.main(["--cores", "2", "all", "--configfile", "mine.yaml"]) == 0
    said = capsys.readouterr().out
    assert "results/made-up/report.html" in said and "pieces of the run are missing" in said
    text = (in_folder / "results" / "made-up" / "report.html").read_text()
    assert "make report ARGS=&#34;--configfile mine.yaml&#34;" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--configfile", "mine.yaml"], "no results of the run 'made-up'"),
        (["--configfile", "nobody.yaml"], "there is no configuration file nobody.yaml"),
        (["--configfile", "mine.yaml", "--config", "sedes=3"], "did you mean 'seeds'"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_message(in_folder, capsys, arguments, said):
    assert report.main(arguments) == 1
    found = capsys.readouterr()
    assert said in found.err and "Traceback" not in found.err and not found.out


def test_the_configuration_is_the_workflows_own():
    source = (ROOT / "workflow" / "Snakefile").read_text()
    named = re.findall(r'^configfile: f"\{workflow.current_basedir\}/\.\./(.+)"', source, re.MULTILINE)
    papers = sorted(path.name for path in (ROOT / "config" / "papers").glob("*.yaml"))
    assert sorted(named) == sorted(["config/default.yaml", *(f"config/papers/{name}" for name in papers)])
    overlay = {"run": "mine", "datasets": {"lorenz": {"n": 77}}}
    plan = report.plan_of(overlay)
    assert plan.datasets["lorenz"]["n"] == 77 and plan.datasets["lorenz"]["dt"] == 0.001 and plan.run == "mine"
    with pytest.raises(configuration.ConfigError, match="must name its run"):
        report.plan_of({"seeds": 3})


def test_pictures_keep_to_their_budget(tmp_path, rng):
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (200, 2000, 3), dtype=np.uint8)).save(path)
    whole, small = report_files.pictures(paths), report_files.pictures(paths, budget=1000)
    assert whole[paths[0]] == report_files.data_uri(paths[0].read_bytes(), ".png")
    assert len(small[paths[0]]) < len(whole[paths[0]]) / 4
    assert report_files.pictures([tmp_path / "none.png"]) == {}


def test_every_rule_script_and_function_of_a_figure_is_found():
    plan, links = report.plan_of({}), report_files.Links(ROOT / "results" / "full", ROOT)
    for spec in plan.papers[PAPER]["figures"].values():
        rule, function = links.rule(spec["rule"]), links.function(spec["function"])
        line = rule["path"].read_text().splitlines()[rule["line"] - 1]
        assert line.startswith(f"rule {spec['rule']}:") and links.script(spec["rule"])
        line = function["path"].read_text().splitlines()[function["line"] - 1]
        assert line.startswith(f"def {spec['function'].split('.')[1]}(")
    assert links.rule("score_study")["script"] == "score_recovery"


def test_a_method_leads_to_its_equations():
    package = ROOT / "workflow" / "snapdyn"
    for method in methods.METHODS.values():
        labels = report_files.equations_of(package / f"{method.module}.py")
        assert labels and set(labels) <= set(report_math.entries()), method
    assert "cross-fitted-moments" in report_files.equations_of(package / "moments.py")


def contrast(first, second):
    """Contrast of two colours, by the web content accessibility guidelines."""

    def luminance(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        return sum(
            w * (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4)
            for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
        )

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_on_its_ground(theme):
    blocks = re.findall(r":root \{(.*?)\}", (Path(report.TEMPLATES) / "report.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[0]))
    if theme == "dark":
        colours |= dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[1]))
    for ink in ("ink", "quiet", "accent", "good", "fine", "bad", "odd", "none"):
        for ground in ("paper", "soft"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    assert contrast(colours["ink"], colours["warn-ground"]) >= 4.5
