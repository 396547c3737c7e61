"""Rule ``recover``: simulated clouds of every seed in, what one method finds in each out."""

from snapdyn import run

with run.job(snakemake) as job:
    from functools import partial

    import numpy as np
    import pandas as pd

    from snapdyn import artifacts, checkpoint, config, methods, recovery, simulate, systems
    from snapdyn.snapshots import Snapshots

    fit = config.Fit(**snakemake.params.fit)
    device = job.device_for(methods.takes_device(fit.method))
    keep = checkpoint.of(job, device)

    def recovered(path):
        snapshots = Snapshots.from_frame(*artifacts.read(path, "snapshots/1"))
        seed = snapshots.meta["seed"]
        model = methods.fit(
            fit.method,
            snapshots,
            rng=np.random.default_rng(seed),
            drift=fit.drift,
            diffusivity=fit.diffusivity,
            options=fit.options,
            precision=snakemake.params.precision,
            device=device,
            threads=job.threads,
            keep=keep,
        )
        truth = recovery.truth_of(snapshots, fit.drift, fit.diffusivity)
        extra = {}
        if fit.attractor:
            system = systems.build(fit.drift["library"], diffusivity=fit.diffusivity, **fit.drift["parameters"])
            extra = simulate.attractor_distances(system, model, seed=seed)
        parameters = recovery.tidy_parameters(model, fit=fit, seed=seed, truth=truth)
        return parameters, recovery.tidy_history(model, seed=seed, extra=extra)

    seeds = job.progress(snakemake.input.snapshots, "seeds")
    parts = [keep.part(path, partial(recovered, path)) for path in seeds]
    parameters, histories = zip(*parts, strict=True)
    meta = {"options": fit.options, "diffusivity": fit.diffusivity}
    artifacts.write(pd.concat(parameters), snakemake.output.parameters, "parameters/1", meta)
    artifacts.write(pd.concat(histories), snakemake.output.history, "history/1", meta)
