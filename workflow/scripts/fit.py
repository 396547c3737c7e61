"""Rules ``fit`` and ``fit_analysis``: snapshots in; a model, its parameters, and its predictions or draws out."""

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
        progress=job.progress,
    )
    if faults := methods.model_faults(model, stationary=not snapshots.timed):
        raise ValueError("; ".join(faults))
    predicted = forecasts.answer(model, snapshots, job.rng)
    seed, about = snakemake.params.seed, {"dataset": fit.dataset, "method": fit.method}
    known = fit.kind == "density" and len(model.parameters) and "system" in snapshots.meta
    truth = recovery.truth_of(snapshots, fit.drift, fit.diffusivity) if known else None
    parameters = recovery.tidy_parameters(model, fit=fit, seed=seed, truth=truth)
    trained = methods.gives(fit.method) in ("density", "energy") and model.history
    said = model.diagnostics if trained else None
    history = recovery.tidy_history(model, seed=seed, extra=said)
    models.save(model, snakemake.output.model, method=fit.method, meta=snapshots.meta)
    artifacts.write(parameters, snakemake.output.parameters, "parameters/1", {"axes": snapshots.meta["axes"]})
    artifacts.write(history, snakemake.output.history, "history/1", about)
    artifacts.write(predicted.frame(), snakemake.output.predicted, "snapshots/1", predicted.meta)
