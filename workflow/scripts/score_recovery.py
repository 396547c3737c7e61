"""Rules ``score_recovery`` and ``score_study``: parameters of every method in, errors against the truth out."""

from snapdyn import run

with run.job(snakemake) as job:
    import pandas as pd

    from snapdyn import artifacts, collect, recovery

    parameters, meta = collect.concatenate(snakemake.input.parameters, "parameters/1")
    histories, scores = {}, []
    if tests := snakemake.input.get("tests"):
        scores.append(collect.concatenate(tests, "metrics/1")[0])
    else:
        fits = [(fit["dataset"], fit["method"]) for fit in snakemake.params.fits]
        files = zip(fits, snakemake.input.histories, strict=True)
        histories = {key: artifacts.read(path, "history/1")[0] for key, path in files}
    scores.append(recovery.score(parameters, histories, snakemake.params.sizes))
    artifacts.write(parameters, snakemake.output.parameters, "parameters/1", meta)
    artifacts.write(pd.concat(scores, ignore_index=True), snakemake.output.metrics, "metrics/1", meta)
