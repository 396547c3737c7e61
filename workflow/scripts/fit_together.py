"""Rule ``fit_together``: the snapshots of every split in; one training, and a model of each split and start, out."""

from snapdyn import run

with run.job(snakemake) as job:
    import pandas as pd

    from snapdyn import artifacts, checkpoint, config, crossed, methods, models, recovery
    from snapdyn.snapshots import Snapshots

    fit = config.Fit(**snakemake.params.fit)
    splits = [Snapshots.from_frame(*artifacts.read(path, "snapshots/1")) for path in snakemake.input.snapshots]
    members = crossed.members(fit.seeds, fit.inits)
    device = job.device_for(methods.takes_device(fit.method))
    fitted = methods.fit_many(
        fit.method,
        [splits[split] for split, _ in members],
        seeds=[start for _, start in members],
        options=fit.options,
        device=device,
        keep=checkpoint.of(job, device),
        progress=job.progress,
    )
    about = [{"seed": split, "start": start} for split, start in members]
    histories = [
        recovery.tidy_history(model, seed=split, member=start, extra=model.diagnostics)
        for model, (split, start) in zip(fitted, members, strict=True)
    ]
    metas = [splits[split].meta for split, _ in members]
    models.save_many(fitted, snakemake.output.models, method=fit.method, metas=metas, about=about)
    said = {"dataset": fit.dataset, "method": fit.method}
    artifacts.write(pd.concat(histories, ignore_index=True), snakemake.output.history, "history/1", said)
