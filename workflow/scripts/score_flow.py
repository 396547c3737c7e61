"""Rule ``score_flow``: the courses of one seed in; what the truth and no movement score on them, with floors, out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, energy_evaluation

    frame, meta = artifacts.read(snakemake.input.courses, "courses/1")
    scores = energy_evaluation.floors(
        frame,
        meta,
        rng=job.rng,
        diffusivity=snakemake.params.diffusivity,
        progress=lambda courses: job.progress(courses, "courses"),
    )
    artifacts.write(scores, snakemake.output[0], "metrics/1")
