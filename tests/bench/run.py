"""The benchmark suite: each hot path beside its peers in one run, as parquet.

    python tests/bench/run.py --out results/bench/benchmark.parquet

Beside the parquet, growth.png shows cost against the number of states (see plot.py).

Peers that are not part of the environment (torchsde, JAX, diffrax, PyKeOps) get a row "not installed". To measure them,
install them into a folder of their own and put it on PYTHONPATH. What was measured elsewhere has the status "stated".
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # before the first import of a numerical library
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import argparse  # noqa: E402
import math  # noqa: E402
import sys  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

import harness  # noqa: E402
import plot  # noqa: E402


def main(arguments=None):
    from paths import PATHS

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/bench/benchmark.parquet"))
    parser.add_argument("--only", nargs="+", choices=list(PATHS), default=list(PATHS), help="hot paths to measure")
    parser.add_argument("--rounds", type=int, default=harness.MIN_ROUNDS)
    parser.add_argument("--small", action="store_true", help="a tenth of the size: does everything still run")
    options = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    import torch

    from snapdyn import artifacts

    torch.set_num_threads(1)
    told = harness.conditions()
    print(f"{told['versions']}\n{told['machine']}, {told['cores']} cores, one used; load {told['load']}")
    rows = []
    for name in options.only:
        for case in PATHS[name](small=options.small):
            if options.small:  # pass marks, and what was measured elsewhere, are for the stated sizes
                here = [variant for variant in case.variants if math.isnan(variant.stated)]
                case.variants = [replace(variant, pass_ratio=math.nan) for variant in here]
                case.best_of = {name: (members, math.nan) for name, (members, _) in case.best_of.items()}
            rows += harness.measure(case, options.rounds, log=lambda line: print(line, flush=True))
    meta = {"conditions": told, "rounds": options.rounds, "small": options.small}
    frame = harness.frame(rows)
    artifacts.write(frame, options.out, "benchmark/1", meta)
    picture = options.out.with_name("growth.png")
    if plot.draw(frame, picture):
        print(picture)
    judged = [row for row in rows if row["pass_ratio"] == row["pass_ratio"] and row["ratio"] == row["ratio"]]
    short = [row for row in judged if row["ratio"] < row["pass_ratio"]]
    print(f"{options.out}: {len(rows)} rows, {len(judged) - len(short)} of {len(judged)} pass marks reached")
    for row in short:
        where = f"{row['path']}, {row['setting']}, {row['variant']}"
        print(f"  short: {where}: {row['ratio']:.2f} < {row['pass_ratio']:g}")


if __name__ == "__main__":
    main()
