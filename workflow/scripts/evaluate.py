"""Rules ``evaluate`` and ``evaluate_analysis``: predictions of every seed in; scores and a verdict out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, config, evaluation, models
    from snapdyn.snapshots import Snapshots

    def snapshots(paths):
        return [Snapshots.from_frame(*artifacts.read(path, "snapshots/1")) for path in paths]

    fit = config.Fit(**snakemake.params.fit)
    trusted = fit.method if ":" in fit.method else (fit.drift or {}).get("library")
    scores, answer = evaluation.evaluate(
        fit,
        cells=snapshots(snakemake.input.snapshots),
        predicted=snapshots(snakemake.input.predicted),
        fitted=[models.load_if_saved(path, trust=trusted) for path in snakemake.input.models],
        baselines=[artifacts.read(path, "metrics/1")[0] for path in snakemake.input.baselines],
        truths=[artifacts.read(path, "field/1")[0] for path in snakemake.input.truth],
        forecasts_of_truth=snapshots(snakemake.input.forecast),
        inits=[artifacts.read(path, "metrics/1")[0] for path in snakemake.input.get("inits", [])],
        rng=job.rng,
    )
    job.log.info(answer["sentence"])
    artifacts.write(scores, snakemake.output.metrics, "metrics/1")
    artifacts.write_json(answer, snakemake.output.verdict)
