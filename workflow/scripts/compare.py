"""Rule ``compare``: scores of other experiments in; ratios and differences of the pairs that were asked for out."""

from snapdyn import run

with run.job(snakemake) as job:
    from pathlib import Path

    from snapdyn import artifacts, comparisons

    frames = {Path(path).parent.name: artifacts.read(path, "metrics/1")[0] for path in snakemake.input.metrics}
    scores = comparisons.run(frames, snakemake.params.pairs, snakemake.params.spec, **snakemake.params.about)
    artifacts.write(scores, snakemake.output.metrics, "metrics/1")
