"""The configuration: completed with its defaults, unfolded into fits, and documented.

Imports neither torch nor pandas: the graph is built with it.
"""

import json
from dataclasses import dataclass, field

from snapdyn import checks, compared, methods

# kind of experiment -> the key that says what varies
STUDIES = {"bandwidth": "bandwidths", "samples": "sizes", "coverage": "replicates", "misspecification": "sizes"}


class ConfigError(ValueError):
    """The configuration cannot be run; the message lists every fault."""


def _definition(node):
    """Follow a ``$ref``."""
    while "$ref" in node:
        node = checks.schema()["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def complete(node, value):
    """``value`` with the schema's defaults for what it leaves out; defaults of None stay out."""
    node = _definition(node)
    if not isinstance(value, dict):
        return value
    node = next((_definition(branch["then"]) for branch in node.get("allOf", ()) if _applies(branch, value)), node)
    filled = dict(value)
    for key, part in node.get("properties", {}).items():
        if key in filled:
            filled[key] = complete(part, filled[key])
        elif _definition(part).get("default") is not None:
            filled[key] = json.loads(json.dumps(_definition(part)["default"]))
    extra = node.get("additionalProperties")
    if isinstance(extra, dict):
        filled |= {k: complete(extra, v) for k, v in filled.items() if k not in node.get("properties", {})}
    return filled


def _applies(branch, value):
    return branch["if"]["properties"]["kind"]["const"] == value.get("kind")


@dataclass(frozen=True)
class Fit:
    """One method on one data set: the unit of the graph.

    ``paper`` is ``analyses`` for a user's own question, whose ``experiment`` is the analysis' name.
    """

    paper: str
    experiment: str
    kind: str
    dataset: str
    method: str
    seeds: int
    options: dict = field(default_factory=dict)
    drift: dict | None = None
    diffusivity: float | str | None = None
    attractor: bool = False
    inits: int = 1


class Plan:
    """A checked configuration, unfolded into data sets and fits.

    Args:
        config: the merged configuration; defaults are filled in.
        overlay, declared: see :func:`snapdyn.checks.check`.
        absent: function ``names -> {name: why}`` of resources that cannot be found locally.
    Raises:
        ConfigError: with every fault.
    """

    def __init__(self, config, *, overlay=None, declared=None, absent=lambda names: {}):
        if found := checks.check(config, overlay=overlay, declared=declared):
            raise ConfigError("the configuration has faults:\n" + "\n".join(f"  - {fault}" for fault in found))
        own = config.get("seeds", checks.schema()["properties"]["seeds"]["default"])
        stated = {"datasets": {}, "analyses": {}}
        for section in stated:
            stated[section] = {name: {"seeds": own} | spec for name, spec in (config.get(section) or {}).items()}
        for spec in stated["datasets"].values():  # the seeds of a user's file are those of its analyses
            if spec["kind"] in ("table", "h5ad"):
                spec.pop("seeds")
        self.config = complete(checks.schema(), config | stated)
        self.run = self.config["run"]
        self.datasets = self.config["datasets"]
        self.papers = self.config["papers"]
        self.skipped = {}
        if self.config["resources"] == "skip-missing":
            wanted = {n: d["resource"] for n, d in self.datasets.items() if d["kind"] in checks.RESOURCE_KINDS}
            gone = absent(sorted(set(wanted.values())))
            self.skipped = {name: gone[resource] for name, resource in wanted.items() if resource in gone}
        self.fits = [*self._paper_fits(), *self._analysis_fits()]
        labels = [fit.experiment for fit in self.of(paper="analyses")]
        if repeated := sorted({label for label in labels if labels.count(label) > 1}):
            raise ConfigError(f"several analyses would be called {repeated}; rename one of those that give them")

    def _paper_fits(self):
        for paper, spec in self.papers.items():
            for name, experiment in spec["experiments"].items():
                for dataset in experiment["datasets"]:
                    if dataset in self.skipped or experiment["kind"] == "comparison":
                        continue
                    data = self.datasets[dataset]
                    seeds = min(data["seeds"], experiment.get("seeds") or data["seeds"])
                    known = {}
                    if data["kind"] == "system":
                        known = {
                            "drift": {"library": data["system"], "parameters": data["parameters"]},
                            "diffusivity": data["diffusivity"],
                        }
                    known |= {key: experiment[key] for key in ("drift", "diffusivity") if experiment.get(key)}
                    for method, options in experiment["methods"].items():
                        special = experiment["options"].get(dataset, {}).get(method, {})
                        merged = (options or {}) | special
                        known["attractor"] = method in experiment["attractor"]
                        known["inits"] = experiment["inits"] if methods.trains_many(method) else 1
                        yield Fit(paper, name, experiment["kind"], dataset, method, seeds, merged, **known)

    def _analysis_fits(self):
        for name, spec in self.config["analyses"].items():
            dataset = self.datasets[spec["dataset"]]
            if spec["dataset"] in self.skipped:
                continue
            drift, diffusivity = spec.get("drift"), spec.get("diffusivity")
            chosen = spec.get("methods") or [spec["method"]]
            if chosen == "all":
                chosen = methods.all_of(checks.facts_of(dataset), drift=drift, diffusivity=diffusivity)
            for method in chosen:
                kind = "forecast" if checks.facts_of(dataset).timed else "stationary"
                kind = "interpolation" if dataset.get("hold_out") else kind
                kind = "density" if methods.gives(method) == "density" else kind
                label = name if spec.get("method") else f"{name}-{method.replace(':', '.')}"
                takes = methods.is_custom(method) or methods.METHODS[method].takes_drift
                library = drift if takes else None
                options = {
                    k: v
                    for k, v in spec["options"].items()
                    if methods.is_custom(method) or k in methods.METHODS[method].options
                }
                yield Fit(
                    "analyses",
                    label,
                    kind,
                    spec["dataset"],
                    method,
                    spec["seeds"],
                    options,
                    library,
                    diffusivity,
                )

    def of(self, **wanted):
        """The fits whose fields have these values, or one of them where a tuple is given."""
        return [
            fit
            for fit in self.fits
            if all(getattr(fit, k) in v if isinstance(v, tuple) else getattr(fit, k) == v for k, v in wanted.items())
        ]

    def one(self, **wanted):
        """The only fit with these values."""
        (fit,) = self.of(**wanted)
        return fit

    def study(self, paper, experiment, dataset):
        """What an experiment of a kind in :data:`STUDIES` says of its study of one data set."""
        spec = self.papers[paper]["experiments"][experiment]
        if spec["kind"] == "coverage":
            cut = spec["replicates"][dataset]
            return {"size": cut["size"], "replicates": cut["count"]}
        return {STUDIES[spec["kind"]]: spec[STUDIES[spec["kind"]]]}

    def comparisons(self, paper):
        """Name -> pairs of :func:`snapdyn.compared.pairs`, of what this run can compare of a paper."""
        experiments = self.papers[paper]["experiments"]
        asked = [name for name, experiment in experiments.items() if experiment["kind"] == "comparison"]
        found = {name: compared.pairs(experiments, name, absent=self.skipped) for name in asked}
        return {name: pairs for name, pairs in found.items() if pairs}

    def datasets_of(self, kind):
        """Names of the data sets of one kind that this run can make."""
        return [name for name, spec in self.datasets.items() if spec["kind"] == kind and name not in self.skipped]

    def skipped_experiments(self):
        """``experiment/dataset`` -> why it was left out."""
        return {
            f"{name}/{dataset}": self.skipped[dataset]
            for spec in self.papers.values()
            for name, experiment in spec["experiments"].items()
            for dataset in experiment["datasets"]
            if dataset in self.skipped
        }


def document():
    """The page docs/configuration.md, from the schema."""
    top = checks.schema()
    lines = [
        "# Configuration",
        "",
        "Generated from `workflow/schemas/config.schema.yaml` by `make docs`. `config/default.yaml` holds the",
        "published size; an overlay given with `--configfile` states only what differs and names its `run`.",
        "",
        "## Top level",
        "",
        *_rows(top),
    ]
    for name, node in top["$defs"].items():
        if node.get("properties") and name != "dataset":
            lines += ["", f"## {name}", "", node["description"], "", *_rows(node)]
    lines += [
        "",
        "## Methods and their options",
        "",
        "| method | data | what it does | options |",
        "| --- | --- | --- | --- |",
    ]
    for name, method in methods.METHODS.items():
        options = "; ".join(f"`{key}`: {text}" for key, text in method.options.items())
        cells = [f"`{name}`", method.data, method.does, options]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _rows(node):
    yield "| key | type | default | what it says |"
    yield "| --- | --- | --- | --- |"
    for key, part in node["properties"].items():
        part = _definition(part)
        kind = part.get("type") or ("one of " + ", ".join(map(str, part["enum"])) if "enum" in part else "")
        kind = "see below" if "additionalProperties" in part and not kind else kind
        kind = " or ".join(kind) if isinstance(kind, list) else kind or "number or text"
        default = "required" if key in node.get("required", ()) else f"`{json.dumps(part.get('default'))}`"
        if "const" in part:
            kind, default = f"`{part['const']}`", "required"
        yield f"| `{key}` | {kind} | {default} | {part.get('description', '')} |".replace("|h5ad|", "h5ad")


if __name__ == "__main__":
    print(document(), end="")
