"""Rule ``predict``: the models of one training in; one split's model, its parameters and its predictions out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, config, forecasts, models, recovery
    from snapdyn.snapshots import Snapshots

    fit, seed = config.Fit(**snakemake.params.fit), snakemake.params.seed
    snapshots = Snapshots.from_frame(*artifacts.read(snakemake.input.snapshots, "snapshots/1"))
    model = next(model for model in models.load_many(snakemake.input.models) if model.about["seed"] == seed)
    predicted = forecasts.answer(model, snapshots, job.rng)
    parameters = recovery.tidy_parameters(model, fit=fit, seed=seed)
    models.save(model, snakemake.output.model, method=fit.method, meta=snapshots.meta)
    artifacts.write(parameters, snakemake.output.parameters, "parameters/1", {"axes": snapshots.meta["axes"]})
    artifacts.write(predicted.frame(), snakemake.output.predicted, "snapshots/1", predicted.meta)
