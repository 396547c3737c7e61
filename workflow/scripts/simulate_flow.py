"""Rule ``simulate_flow``: potentials and a seed in, several snapshots of a population in each of them out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, flows

    frame, meta = flows.courses(
        snakemake.params.spec,
        dataset=snakemake.wildcards.dataset,
        seed=snakemake.params.seed,
        progress=lambda courses: job.progress(courses, "courses"),
    )
    for course, share in meta["unsolved"].items():
        if share:
            job.log.warning(f"{course}: {share:.2g} of the implicit steps end at a kink or a jump of the potential")
    artifacts.write(frame, snakemake.output[0], "courses/1", meta)
