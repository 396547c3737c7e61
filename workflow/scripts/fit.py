"""Rules ``fit`` and ``fit_analysis``: snapshots in; a model, its parameters and its predictions out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, checkpoint, config, forecasts, methods, models, recovery
    from snapdyn.snapshots import Snapshots

    fit = config.Fit(**snakemake.params.fit)
    snapshots = Snapshots.from_frame(*artifacts.read(snakemake.input.snapshots, "snapshots/1"))
    device = job.device_for(methods.takes_device(fit.method))
    model = methods.fit(
        fit.method,
        snapshots,
        rng=job.rng,
        drift=fit.drift,
        diffusivity=fit.diffusivity,
        options=fit.options,
        precision=snakemake.params.precision,
        device=device,
        threads=job.threads,
        keep=checkpoint.of(job, device),
    )
    if faults := methods.model_faults(model, stationary=not snapshots.timed):
        raise ValueError("; ".join(faults))
    carry = forecasts.predict if snapshots.timed else forecasts.regenerate
    predicted = carry(model, snapshots, job.rng)
    seed = snakemake.params.seed
    parameters, history = recovery.tidy_parameters(model, fit=fit, seed=seed), recovery.tidy_history(model, seed=seed)
    models.save(model, snakemake.output.model, method=fit.method, meta=snapshots.meta)
    artifacts.write(parameters, snakemake.output.parameters, "parameters/1", {"axes": snapshots.meta["axes"]})
    artifacts.write(history, snakemake.output.history, "history/1")
    artifacts.write(predicted.frame(), snakemake.output.predicted, "snapshots/1", predicted.meta)
