"""Rule ``score_baselines``: snapshots in; what trivial predictions score on their held-out cells out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, baselines, interpolation
    from snapdyn.snapshots import Snapshots

    snapshots = Snapshots.from_frame(*artifacts.read(snakemake.input.snapshots, "snapshots/1"))
    score = interpolation.evaluate_baselines if snapshots.meta.get("hold_out") else baselines.evaluate
    scores = score(snapshots, seed=snakemake.params.seed)
    artifacts.write(scores, snakemake.output[0], "metrics/1")
