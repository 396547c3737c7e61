"""Rule ``score_starts``: the models of one training in; what every start scores on one split out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, config, crossed, models
    from snapdyn.snapshots import Snapshots

    fit, seed = config.Fit(**snakemake.params.fit), snakemake.params.seed
    snapshots = Snapshots.from_frame(*artifacts.read(snakemake.input.snapshots, "snapshots/1"))
    fitted = [model for model in models.load_many(snakemake.input.models) if model.about["seed"] == seed]
    starts = job.progress([(model.about["start"], model) for model in fitted], "starts")
    about = {"paper": fit.paper, "experiment": fit.experiment, "dataset": fit.dataset, "method": fit.method}
    scores = crossed.score(starts, snapshots, identity=about | {"seed": seed}, rng=job.rng)
    artifacts.write(scores, snakemake.output[0], "metrics/1")
