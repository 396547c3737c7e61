"""One HTML file about a run, readable offline: ``python -m snapdyn.report [Snakemake's arguments]``.

The configuration is merged as Snakemake merges it, so the arguments of the run are those of its report. What the page
holds is gathered by :mod:`snapdyn.report_content`; how it looks stands in ``workflow/report/``.
"""

import copy
import os
import shlex
import sys
from pathlib import Path

from snapdyn import artifacts

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "workflow" / "report"


def merged(root, overlay):
    """The configuration of a run: the defaults, every paper, and what the user gave, in Snakemake's own way."""
    import yaml
    from snakemake.utils import update_config

    config = {}
    for path in [root / "config" / "default.yaml", *sorted((root / "config" / "papers").glob("*.yaml"))]:
        update_config(config, yaml.safe_load(path.read_text(encoding="utf-8")))
    update_config(config, copy.deepcopy(dict(overlay)))
    return config


def plan_of(overlay, root=ROOT):
    """The checked plan of the run with this overlay.

    Raises:
        snapdyn.config.ConfigError: with every fault of the configuration.
    """
    from snapdyn import config as configuration
    from snapdyn import resources

    config = merged(root, overlay)
    declared = resources.load(root / "config" / "resources.yaml")

    def absent(names):
        looked = resources.folders(config.get("resources_dir", "resources"))
        where = ", ".join(map(str, looked))
        return {
            name: f"resource {name} is not in {where} (resources: skip-missing)"
            for name in resources.missing(names, declared, looked)
        }

    return configuration.Plan(config, overlay=overlay or None, declared=list(declared), absent=absent)


def render(content):
    """The page as text.

    Args:
        content: see :meth:`snapdyn.report_content.Content.build`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = {name: Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js")}
    return templates.get_template("report.html.j2").render(style=own["report.css"], code=own["report.js"], **content)


def make(plan, results, *, root=ROOT, arguments=""):
    """Write ``report.html`` into the folder of a run.

    Returns:
        its path and what is missing from it.
    """
    from snapdyn import report_content

    content = report_content.Content(plan, results, root, arguments).build()
    path = Path(results) / "report.html"
    artifacts.write_text(render(content), path)
    return path, content["missing"]


def main(arguments):
    """Make the report that these arguments of Snakemake ask for, or say in one message why there is none."""
    from snakemake.cli import parse_args, parse_config
    from snakemake.settings.types import ConfigSettings

    _, given = parse_args(arguments)
    if given.dryrun:
        return 0  # it has made nothing to report on
    for path in given.configfile or ():
        if not Path(path).is_file():
            word = "--configfile takes every word that follows it; name targets before it"
            print(f"there is no configuration file {path} ({word})", file=sys.stderr)
            return 1
    overlay = ConfigSettings(config=parse_config(given.config), configfiles=given.configfile or ()).overwrite_config
    if given.directory:
        os.chdir(given.directory)
    kept = shlex.join(_about_the_configuration(arguments))
    try:
        plan = plan_of(overlay)
        path, missing = make(plan, Path("results") / plan.run, arguments=kept)
    except (ValueError, OSError) as error:  # also a disk that refuses the page
        print(error, file=sys.stderr)
        return 1
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, opens offline in any browser.")
    if missing:
        print(f"{len(missing)} pieces of the run are missing; the report names them and says how to make them.")
    return 0


def _about_the_configuration(arguments):
    """Those of Snakemake's arguments that say what is run: configuration files and values."""
    kept, keep = [], False
    for word in arguments:
        if word.startswith("-"):
            keep = word.split("=")[0] in ("--configfile", "--configfiles", "--config", "-C")
        if keep:
            kept.append(word)
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
