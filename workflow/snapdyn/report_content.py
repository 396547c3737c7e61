"""What a report says: everything that the folder of a run holds, and what is missing from it, as plain values.

Nothing is computed that the run did not write, but means over seeds. A file that is absent or broken becomes a
sentence on the page.
"""

import json
import re
from pathlib import Path

import yaml

from snapdyn import artifacts, methods, report_files, report_math, report_run, report_scorecard, report_tables
from snapdyn.report_scorecard import slug
from snapdyn.report_tables import number

ANSWERS = {"yes": "▲", "no": "✗", "cannot tell": "?"}


class ReportError(ValueError):
    """There is nothing to report on; the message says what was looked for and what to do."""


class Content:
    """The contents of one report.

    Args:
        plan: the checked configuration, :class:`snapdyn.config.Plan`.
        results: the folder of the run.
        root: the checkout that holds the workflow.
        arguments: what Snakemake was given, to say how to make what is missing.
    Raises:
        ReportError: if the run has no results at all.
    """

    def __init__(self, plan, results, root, arguments=""):
        self.plan, self.results, self.root, self.arguments = plan, Path(results), Path(root), arguments
        if not any(self.results.rglob("*.p*")) and not any(self.results.rglob("*.tsv")):
            others = sorted(path.parent.name for path in self.results.parent.glob("*/data") if path.is_dir())
            hint = f" There are results of {', '.join(others)}: give that run's --configfile." if others else ""
            raise ReportError(
                f"no results of the run {plan.run!r} in {self.results}; expected its tables and figures. "
                f"Start it with: {self.command()}.{hint}"
            )
        self.links = report_files.Links(self.results, self.root)
        self.witnesses = report_files.Witnesses(self.results)
        self.missing = []
        self.labels = {}  # equation -> where it is used
        wanted = [self.results / "figures" / paper / f"{name}.png" for paper, name, _ in self._planned_figures()]
        wanted += [self.results / "analyses" / fit.experiment / "page.png" for fit in plan.of(paper="analyses")]
        self._pictures = report_files.pictures(wanted)

    def command(self, target=""):
        """What to type to make ``target``."""
        said = " ".join(filter(None, [target, self.arguments]))
        return f'make run ARGS="{said}"' if said else "make run"

    def build(self):
        """All of it, for the template."""
        claims = self.scorecard()
        papers = self.papers(claims)
        found = {
            "run": self.plan.run,
            "claims": claims,
            "analyses": [self.analysis(fit) for fit in self.plan.of(paper="analyses")],
            "papers": papers,
            "equations": self.equations(),
            "glossary": report_math.glossary(),
            "statistics": report_run.statistics(self.results, self.witnesses, self.links),
            "provenance": report_run.provenance(self.witnesses),
            "configuration": yaml.safe_dump(self.plan.config, sort_keys=True, allow_unicode=True, width=100),
            "tables": self._tables("metrics.parquet", "parameters.parquet", "scorecard.parquet", "scorecard.md"),
            "skipped": sorted({name for paper in papers for e in paper["experiments"] for name in e["skipped"]}),
            "command": self.command(),
        }
        anchors = {item["anchor"] for paper in papers for item in paper["experiments"]}
        rows = [[item["name"], item["file"], item["fault"]] for item in self.missing]
        return found | {"missing": self.missing, "missing_rows": rows, "anchors": anchors}

    def scorecard(self):
        """Claims with their verdicts, as :func:`snapdyn.report_scorecard.claims`; or why there are none."""
        frame, fault = self._read(self.results / "scorecard.parquet", "scorecard/1")
        if fault:
            self._miss("scorecard", fault, "scorecard.parquet")
            return report_scorecard.NOTHING | {"fault": fault}
        return report_scorecard.claims(frame, report_scorecard.published(self.root / "resources" / "published"))

    # Papers and their experiments

    def _planned_figures(self):
        """Figures of the papers, unless the configuration asks for analyses and nothing of a paper was made."""
        for paper, spec in self._papers().items():
            for name, figure in spec["figures"].items():
                yield paper, name, figure

    def _papers(self):
        made = (self.results / "figures").is_dir() or (self.results / "fits").is_dir()
        return self.plan.papers if made or not self.plan.config["analyses"] else {}

    def papers(self, claims):
        return [
            {
                "name": paper,
                "title": spec.get("title", paper),
                "anchor": slug("paper", paper),
                "experiments": [self.experiment(paper, name, claims) for name in spec["experiments"]],
            }
            for paper, spec in self._papers().items()
        ]

    def experiment(self, paper, name, claims):
        spec = self.plan.papers[paper]["experiments"][name]
        folder = f"fits/{paper}/{name}"
        # what a run left out is not what is absent today: its resources may have come or gone since
        skipped = {
            dataset: self.plan.skipped[dataset]
            for dataset in spec["datasets"]
            if dataset in self.plan.skipped and not (self.results / folder / dataset).is_dir()
        }
        wholly = len(skipped) == len(spec["datasets"])
        figures = (
            []
            if wholly
            else [
                self.figure(paper, figure, entry)
                for _, figure, entry in self._planned_figures()
                if _ == paper and entry["experiment"] == name
            ]
        )
        mine = [row for row in claims["rows"] if (row["paper"], row["experiment"]) == (paper, name)]
        reasons = sorted({row["reason"] for row in mine if row["verdict"] == "not run"})
        return {
            "name": name,
            "anchor": slug("experiment", paper, name),
            "kind": spec["kind"],
            "datasets": [self._dataset(dataset) for dataset in spec["datasets"]],
            "methods": [self._method(method, options) for method, options in spec["methods"].items()],
            "skipped": skipped,
            "wholly_skipped": wholly,
            "reasons": reasons if wholly or not (self.results / folder).is_dir() else [],
            "claims": [
                {"anchor": row["id"], "claim": row["claim"], "verdict": row["verdict"], "sign": row["sign"]}
                for row in mine
            ],
            "figures": figures,
            "tables": None if wholly else self._tables_of(folder, name, fits=spec["kind"] != "comparison"),
            "rules": self._rules_of(folder),
            "command": self.command(f"results/{self.plan.run}/{folder}/metrics.parquet"),
        }

    def _tables_of(self, folder, name, *, fits=True):
        """Tables of an experiment or an analysis, and the files that they come from; only fits have parameters."""
        metrics, fault = self._read(self.results / folder / "metrics.parquet", "metrics/1")
        if fault:
            self._miss(name, fault, f"{folder}/metrics.parquet")
        parameters, other = None, None
        if fits:
            parameters, other = self._read(self.results / folder / "parameters.parquet", "parameters/1")
        if other and not fault:
            self._miss(name, other, f"{folder}/parameters.parquet")
        names = set() if parameters is None else set(parameters["name"])
        rows, count = ([], 0) if metrics is None else report_tables.details(metrics, names)
        values, n_values = report_tables.estimates(parameters) if names else ([], 0)
        return {
            "fault": fault or other,
            "files": self._tables(f"{folder}/metrics.parquet", f"{folder}/parameters.parquet"),
            "headlines": [] if metrics is None else report_tables.headlines(metrics, parameters),
            "details": rows,
            "n_details": count,
            "estimates": values,
            "n_estimates": n_values,
        }

    def figure(self, paper, name, spec):
        """One figure with its caption, equations, and the way to its numbers and its code."""
        base = self.results / "figures" / paper / name
        png, frame_path = base.with_name(f"{name}.png"), base.with_name(f"{name}.parquet")
        frame, meta, fault = self._read(frame_path, "figure/1", with_meta=True)
        picture = self._pictures.get(png)
        if fault is None and picture is None:
            fault = f"{png.name} is missing"
        if fault:
            self._miss(name, fault, f"figures/{paper}/{name}.png")
        labels = (meta or {}).get("equations", spec["equations"])
        for label in labels:
            self.labels.setdefault(label, []).append((name, slug("figure", paper, name)))
        return {
            "name": name,
            "anchor": slug("figure", paper, name),
            "source": spec["source"],
            "caption": (meta or {}).get("caption", ""),
            "picture": picture,
            "size": _png_size(png),
            "alt": _panels(name, frame),
            "fault": fault,
            "equations": self._formulas(labels),
            "rule": self.links.rule(spec["rule"]),
            "script": self.links.script(spec["rule"]),
            "function": self.links.function(spec["function"]),
            "files": [
                link
                for link in (
                    self.links.to(frame_path, embed=True),
                    self.links.to(base.with_name(f"{name}.pdf")),
                    self.links.to(png),
                )
                if link
            ],
            "command": self.command(f"results/{self.plan.run}/figures/{paper}/{name}.png"),
        }

    def _formulas(self, labels):
        known = report_math.entries()
        return [
            {"label": label, "anchor": f"eq-{label}", "formulas": known[label]["formulas"]}
            for label in labels
            if label in known
        ]

    def _dataset(self, name):
        spec = self.plan.datasets[name]
        plain = {
            k: v for k, v in spec.items() if k not in ("kind",) and not isinstance(v, dict | list) and v is not None
        }
        return {"name": name, "kind": spec["kind"], "about": [(k, str(v)) for k, v in plain.items()]}

    def _method(self, name, options=None):
        known = methods.METHODS.get(name)
        said = ", ".join(f"{k} {v}" for k, v in (options or {}).items())
        return {
            "name": name,
            "does": known.does if known else "a class of your own",
            "options": said,
            "module": self.links.module(known.module) if known else None,
        }

    def _rules_of(self, *folders):
        """The rules that wrote what lies in a folder of the run."""
        names = sorted({facts.get("rule") or "" for facts in self.witnesses.under(*folders)})
        return [
            rule | {"script_link": self.links.script(rule["script"])}
            for name in names
            if (rule := self.links.rule(name))
        ]

    # The user's own data

    def analysis(self, fit):
        name, folder = fit.experiment, self.results / "analyses" / fit.experiment
        verdict, fault = None, None
        try:
            verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
            verdict |= {"sign": ANSWERS.get(verdict["verdict"], "·"), "gauge": _gauge(verdict)}
            verdict |= {k: number(verdict[k]) for k in ("gain", "low", "high", "null_score", "model_score", "margin")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            fault = "not made yet" if isinstance(error, FileNotFoundError) else f"verdict.json cannot be read ({error})"
            self._miss(name, fault, f"analyses/{name}/verdict.json")
        picture, page = self._pictures.get(folder / "page.png"), ""
        if (folder / "page.md").is_file():
            text = re.sub(r"\A# .*\n", "", (folder / "page.md").read_text(encoding="utf-8", errors="replace"))
            page = report_math.html(report_math.without_images(text), prefix="", shift=2)
        elif fault is None:
            self._miss(name, "its page is not made yet", f"analyses/{name}/page.md")
        metrics, broken = self._read(folder / "metrics.parquet", "metrics/1")
        if broken and fault is None:
            self._miss(name, broken, f"analyses/{name}/metrics.parquet")
        known = methods.METHODS.get(fit.method)
        labels = []
        if known and (module := self.root / "workflow" / "snapdyn" / f"{known.module}.py").is_file():
            labels = report_files.equations_of(module)
        for label in labels:
            self.labels.setdefault(label, []).append((name, slug("analysis", name)))
        models = [
            self.links.to(path, text=f"{path.parent.name}/{path.name}")
            for path in sorted(folder.glob("seed-*/model.pt"))
        ]
        return {
            "name": name,
            "anchor": slug("analysis", name),
            "dataset": self._dataset(fit.dataset),
            "method": self._method(fit.method, fit.options),
            "seeds": fit.seeds,
            "verdict": verdict,
            "fault": fault,
            "page": page,
            "headlines": [] if metrics is None else report_tables.headlines(metrics, None),
            "picture": picture,
            "size": _png_size(folder / "page.png"),
            "equations": self._formulas(labels),
            "files": self._tables(
                *(f"analyses/{name}/{file}" for file in ("metrics.parquet", "parameters.parquet", "page.parquet")),
            )
            + [link for link in (self.links.to(folder / "page.pdf"), *models) if link],
            "rules": self._rules_of(f"analyses/{name}"),
            "command": self.command(f"results/{self.plan.run}/analyses/{name}/page.png"),
        }

    # The run itself

    def equations(self):
        """All labelled equations, grouped as in NOTATION.md, with the figures of this run that use them."""
        groups = {}
        for label, entry in report_math.entries().items():
            used = list(dict.fromkeys(self.labels.get(label, [])))
            groups.setdefault(entry["group"], []).append(
                {"label": label, "anchor": f"eq-{label}", "html": entry["html"], "used": used}
            )
        return groups

    # Helpers

    def _read(self, path, kind, *, with_meta=False):
        try:
            frame, meta = artifacts.read(path, kind)
            return (frame, meta, None) if with_meta else (frame, None)
        except artifacts.ContractError as error:
            fault = str(error).replace(f"{path}: ", "").replace(str(path), path.name)
            fault = "not made yet" if not path.exists() else fault
            return (None, None, fault) if with_meta else (None, fault)

    def _tables(self, *paths):
        return [link for path in paths if (link := self.links.to(self.results / path, embed=path.endswith(".parquet")))]

    def _miss(self, name, fault, target):
        self.missing.append({"name": name, "fault": fault, "file": target})


def _png_size(path):
    """Width and height of a PNG, so that the page does not jump when it is drawn; None without one."""
    try:
        head = Path(path).read_bytes()[:24]
    except OSError:
        return None
    return (int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")) if head[:4] == b"\x89PNG" else None


def _panels(name, frame):
    """What a picture shows, for those who cannot see it."""
    if frame is None:
        return f"Figure {name}"
    panels = list(dict.fromkeys(frame["panel"]))
    shown = ", ".join(panels[:8]) + (f" and {len(panels) - 8} more" if len(panels) > 8 else "")
    series = [name for name in dict.fromkeys(frame["series"]) if not name.startswith("tick: ")]
    drawn = ", ".join(series[:8]) + (f" and {len(series) - 8} more" if len(series) > 8 else "")
    return (
        f"Figure {name}. Panels: {shown}. Drawn: {drawn}. The caption says what to see; the numbers are in its parquet."
    )


def _gauge(verdict):
    """Places, from 0 to 100, of an interval of the gain beside 0 and the smallest gain worth having."""
    low, high, gain, margin = (float(verdict[name]) for name in ("low", "high", "gain", "margin"))
    ends = min(0.0, low), max(0.0, high, margin)
    reach = (ends[1] - ends[0]) * 1.1 or 1.0
    start = ends[0] - 0.05 * reach

    def place(value):
        return round(100 * (value - start) / reach, 2)

    return {"zero": place(0.0), "margin": place(margin), "low": place(low), "high": place(high), "gain": place(gain)}
