"""Rules ``score_recovery`` and ``score_scan``: parameters of every method in, errors against the truth out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, collect, recovery

    parameters, meta = collect.concatenate(snakemake.input.parameters, "parameters/1")
    fits = [(fit["dataset"], fit["method"]) for fit in snakemake.params.fits]
    histories = {
        key: artifacts.read(path, "history/1")[0] for key, path in zip(fits, snakemake.input.histories, strict=False)
    }
    scores = recovery.score(parameters, histories, snakemake.params.sizes)
    artifacts.write(parameters, snakemake.output.parameters, "parameters/1", meta)
    artifacts.write(scores, snakemake.output.metrics, "metrics/1", meta)
