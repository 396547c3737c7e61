"""Rule ``study``: the clouds of a data set in, parameters and tests of every version of them out."""

from snapdyn import run

with run.job(snakemake) as job:
    import pandas as pd

    from snapdyn import artifacts, checkpoint, config, methods, studies
    from snapdyn.snapshots import Snapshots

    fits = [config.Fit(**fit) for fit in snakemake.params.fits]
    spec = snakemake.params.spec
    device = job.device_for(any(methods.takes_device(fit.method) for fit in fits))
    how = {"device": device, "threads": job.threads, "keep": checkpoint.of(job, device)}
    parts = []
    for path in job.progress(snakemake.input.snapshots, "seeds"):
        snapshots = Snapshots.from_frame(*artifacts.read(path, "snapshots/1"))
        parts.append(studies.run(fits[0].kind, snapshots, fits, spec, **how))
    parameters, tests = (pd.concat(frames, ignore_index=True) for frames in zip(*parts, strict=True))
    artifacts.write(parameters, snakemake.output.parameters, "parameters/1", spec)
    artifacts.write(tests, snakemake.output.tests, "metrics/1", spec)
