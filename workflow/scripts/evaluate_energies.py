"""Rule ``evaluate_energies``: learned energies and the courses they were learned from in; their scores out."""

from snapdyn import run

with run.job(snakemake) as job:
    import pandas as pd

    from snapdyn import artifacts, config, energy_evaluation, models

    fit = config.Fit(**snakemake.params.fit)
    members = energy_evaluation.members([artifacts.read(path, "courses/1") for path in snakemake.input.courses])
    floors = [artifacts.read(path, "metrics/1")[0] for path in snakemake.input.floors]
    parts = [frame.assign(paper=fit.paper, experiment=fit.experiment) for frame in floors]
    pairs = list(zip(members, models.load_many(snakemake.input.models), strict=True))
    for (seed, _, snapshots), model in job.progress(pairs, "courses"):
        parts.append(energy_evaluation.score(fit, seed, snapshots, model))
    artifacts.write(pd.concat(parts, ignore_index=True), snakemake.output.metrics, "metrics/1")
