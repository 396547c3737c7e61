"""Rule ``tabulate_energy``: a learned energy and the data in; its field, and cells on their way, out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, energy_frames, models
    from snapdyn.snapshots import Snapshots

    snapshots = Snapshots.from_frame(*artifacts.read(snakemake.input.snapshots, "snapshots/1"))
    model = models.load(snakemake.input.model)
    frame, meta = energy_frames.field(model, snapshots)
    moved = energy_frames.on_the_way(model, snapshots, job.rng)
    artifacts.write(frame, snakemake.output.field, "field/1", meta)
    artifacts.write(moved.frame(), snakemake.output.between, "snapshots/1", moved.meta)
