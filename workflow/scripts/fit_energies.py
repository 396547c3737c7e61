"""Rule ``fit_energies``: the courses of every seed in; one training, and a learned energy of each course, out."""

from snapdyn import run

with run.job(snakemake) as job:
    import pandas as pd

    from snapdyn import artifacts, checkpoint, config, energy_evaluation, methods, models, recovery, witness

    fit = config.Fit(**snakemake.params.fit)
    members = energy_evaluation.members([artifacts.read(path, "courses/1") for path in snakemake.input.courses])
    device = job.device_for(methods.takes_device(fit.method))
    courses = [snapshots for *_, snapshots in members]
    fitted = methods.fit_many(
        fit.method,
        courses,
        seeds=[seed for seed, *_ in members],
        options=fit.options,
        device=device,
        keep=checkpoint.of(job, device),
        progress=job.progress,
        witness=witness.of(courses),
    )
    about = [{"seed": seed, "course": course} for seed, course, _ in members]
    metas = [snapshots.meta for *_, snapshots in members]
    names = list(dict.fromkeys(course for _, course, _ in members))
    found, histories = [], []
    for (seed, course, snapshots), model in zip(members, fitted, strict=True):
        found.append(energy_evaluation.parameters(fit, seed, snapshots, model))
        member = names.index(course)
        histories.append(recovery.tidy_history(model, seed=seed, member=member, extra=model.diagnostics))
    said = {"dataset": fit.dataset, "method": fit.method, "courses": names}  # a history's member is its course's place
    models.save_many(fitted, snakemake.output.models, method=fit.method, metas=metas, about=about)
    artifacts.write(pd.concat(found), snakemake.output.parameters, "parameters/1", {"options": fit.options})
    artifacts.write(pd.concat(histories), snakemake.output.history, "history/1", said)
