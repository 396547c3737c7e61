"""Rules ``gather_*`` and ``collect``: tables of many jobs in, one table of each kind out."""

from snapdyn import run

with run.job(snakemake) as job:
    from snapdyn import artifacts, collect

    for kind, path in snakemake.output.items():
        frame, meta = collect.concatenate(snakemake.input[kind], f"{kind}/1")
        artifacts.write(frame, path, f"{kind}/1", meta)
