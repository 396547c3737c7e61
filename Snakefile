# The workflow is workflow/Snakefile; this file lets plain `snakemake --cores N` find it from the root.
include: "workflow/Snakefile"


rule default:
    """Everything, as `all`: Snakemake takes no default target from an included file."""
    default_target: True
    input:
        rules.all.input,
