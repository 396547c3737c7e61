"""Rule ``scorecard``: claims and measurements in, verdicts out."""

from snapdyn import run

with run.job(snakemake) as job:
    import json
    from pathlib import Path

    from snapdyn import artifacts, scorecard

    measured = artifacts.read(snakemake.input.metrics, "metrics/1")[0]
    parameters = artifacts.read(snakemake.input.parameters, "parameters/1")[0]
    name = snakemake.params.run
    frame = scorecard.build(
        measured,
        parameters,
        scorecard.read_published(snakemake.input.published),
        skipped=snakemake.params.skipped,
        full=name == "full",
    )
    verdicts = {Path(path).parent.name: json.loads(Path(path).read_text()) for path in snakemake.input.verdicts}
    text = scorecard.verdicts_to_markdown(verdicts) + scorecard.to_markdown(frame, own=bool(verdicts))
    artifacts.write(frame, snakemake.output.frame, "scorecard/1", {"run": name})
    artifacts.write_text(text, snakemake.output.text)
