"""The run that the user started: refused early if it cannot work, watched while it goes on, summed up at its end.

The Snakefile calls :func:`begin` when it is read, :func:`start` before the first job and :func:`end` after the last;
the processes of single jobs, which read the Snakefile too, never get past :func:`begin`. Apart from the refusal,
nothing here may break a run: if Snakemake's inner life is not what we know, there is no progress and no summary.
"""

from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from snapdyn import preflight


@dataclass
class Session:
    """What the Snakefile knows of this run.

    Attributes:
        workflow: Snakemake's own object.
        plan: the :class:`snapdyn.config.Plan`.
        declared: the resources of config/resources.yaml.
        watcher: the :class:`snapdyn.progress.Progress` of a run under way.
        folder: where results go, as ``--directory`` may say.
    """

    workflow: object
    plan: object
    declared: dict
    watcher: object = None
    folder: Path = field(default_factory=Path.cwd)

    @property
    def results(self):
        return f"results/{self.plan.run}"


WOULD_REFUSE = "A run on this machine would be refused"
CURRENT = None  # of this process; `make plan` reads it after its dry run


def begin(workflow, plan, declared):
    """Keep what the Snakefile knows; a dry run warns of what would stop a run on this machine."""
    global CURRENT
    if not getattr(workflow, "is_main_process", False):
        return
    CURRENT = Session(workflow, plan, declared)
    with _quietly("check"):
        elsewhere = workflow.resource_settings.nodes is not None
        if workflow.output_settings.dryrun and not elsewhere and (fault := _gpu_fault(plan)):
            _logger().warning(f"{WOULD_REFUSE}: {fault}")


def start():
    """Refuse what cannot work, then watch.

    Raises:
        ValueError: ``device: cuda`` without a usable GPU, in a run on this machine with jobs that ask for one.
    """
    session = CURRENT
    if session is None or session.workflow.touch:
        return
    if session.workflow.local_exec and _wants_gpu(session.workflow) and (fault := _gpu_fault(session.plan)):
        raise ValueError(fault)
    with _quietly("progress"):
        from snapdyn import estimates, progress

        workflow = session.workflow
        jobs = estimates.planned(workflow.dag)
        past = estimates.history(session.plan.run, session.results)
        limits = estimates.limits_of(workflow)
        session.watcher = progress.Progress(
            estimates.expect(jobs, past), limits, _logger().info, alive=lambda: _alive(workflow)
        )
        _logger().addHandler(session.watcher)
        if opening := session.watcher.opening():
            _logger().info(opening)
        session.watcher.watch()


def end(succeeded):
    """Stop watching and say what came out."""
    session = CURRENT
    if session is None or session.watcher is None:
        return
    with _quietly("summary"):
        from snapdyn import summary

        session.watcher.stop()
        for line in summary.lines(session, succeeded):
            _logger().info(line)


def left_out(plan):
    """Experiments and analyses that ``resources: skip-missing`` leaves out -> why."""
    own = {name: plan.skipped.get(spec["dataset"]) for name, spec in plan.config["analyses"].items()}
    return plan.skipped_experiments() | {name: why for name, why in own.items() if why}


def _gpu_fault(plan):
    return preflight.gpu_fault() if plan.config["device"] == "cuda" else None


def _wants_gpu(workflow):
    """Whether a job of this run asks for a GPU: figures of what was fitted elsewhere need none."""
    with suppress(Exception):
        from snapdyn import estimates

        return bool((estimates.planned(workflow.dag)["gpu"] > 0).any())
    return True


def _alive(workflow):
    """The ids of the jobs at work, those inside groups included."""
    return [
        inner.jobid for job in list(workflow.scheduler.running) for inner in (job.jobs if job.is_group() else [job])
    ]


def _logger():
    from snakemake.logging import logger

    return logger


@contextmanager
def _quietly(what):
    try:
        yield
    except Exception as error:
        _logger().debug(f"no {what}: {type(error).__name__}: {error}")
