"""Rule ``scan_bandwidths``: simulated clouds in, the kernel methods' parameters at every bandwidth out."""

from snapdyn import run

with run.job(snakemake) as job:
    import pandas as pd

    from snapdyn import artifacts, config, scan
    from snapdyn.snapshots import Snapshots

    fits = [config.Fit(**fit) for fit in snakemake.params.fits]
    widths = snakemake.params.bandwidths
    parts = []
    for path in job.progress(snakemake.input.snapshots, "seeds"):
        snapshots = Snapshots.from_frame(*artifacts.read(path, "snapshots/1"))
        parts.append(scan.bandwidths(snapshots, fits, widths, device=job.device, threads=job.threads))
    artifacts.write(pd.concat(parts), snakemake.output.parameters, "parameters/1", {"bandwidths": list(widths)})
