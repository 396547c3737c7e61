"""Rules ``evaluate_density`` and ``evaluate_density_analysis``: densities of every seed in; scores, verdict out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, config, density_scores, models
    from snapdyn.snapshots import Snapshots

    def snapshots(paths):
        return [Snapshots.from_frame(*artifacts.read(path, "snapshots/1")) for path in paths]

    scores, answer = density_scores.evaluate(
        config.Fit(**snakemake.params.fit),
        cells=snapshots(snakemake.input.snapshots),
        drawn=snapshots(snakemake.input.predicted),
        fitted=[models.load(path) for path in snakemake.input.models],
        rng=job.rng,
        progress=job.progress,
    )
    job.log.info(answer["sentence"])
    artifacts.write(scores, snakemake.output.metrics, "metrics/1")
    artifacts.write_json(answer, snakemake.output.verdict)
