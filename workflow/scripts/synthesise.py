"""Rule ``synthesise``: a seed in; an embedded count course, its true drift and its true next snapshots out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, synthetic

    spec, seed = dict(snakemake.params.spec), snakemake.params.seed
    course = {key: spec[key] for key in ("times", "cells_per_time", "n_genes")} | {"seed": seed}
    snapshots, truth, forecast = synthetic.course_with_truth(
        course,
        dataset=snakemake.wildcards.dataset,
        seed=seed,
        train=spec["train"],
        hold_out=spec.get("hold_out"),
        n_pcs=spec["n_pcs"],
        min_genes=1,
        rng=job.rng,
    )
    artifacts.write(snapshots.frame(), snakemake.output.snapshots, "snapshots/1", snapshots.meta)
    artifacts.write(truth, snakemake.output.truth, "field/1", snapshots.meta)
    artifacts.write(forecast.frame(), snakemake.output.forecast, "snapshots/1", forecast.meta)
