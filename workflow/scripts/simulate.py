"""Rule ``simulate``: a system's configuration in, one cloud of unordered states out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, simulate, systems

    spec, seed = snakemake.params.spec, snakemake.params.seed
    system = systems.build(spec["system"], diffusivity=spec["diffusivity"], **spec["parameters"])
    recipe = {key: spec.get(key) for key in ("n", "dt", "burn", "per_trajectory", "gap", "scheme")}
    recipe |= {key: spec[key] for key in ("paths", "train") if spec.get(key) not in (None, 1)}
    snapshots = simulate.system_snapshots(
        system,
        recipe.pop("n"),
        dataset=snakemake.wildcards.dataset,
        seed=seed,
        spec={"system": spec["system"], "options": spec["parameters"], "recipe": recipe},
        progress=lambda blocks: job.progress(blocks, "blocks of trajectories"),
        **recipe,
    )
    artifacts.write(snapshots.frame(), snakemake.output[0], "snapshots/1", snapshots.meta)
