"""Put the tables of many jobs together, in an order that does not depend on who finished first."""

import pandas as pd

from snapdyn import artifacts

MEASURED = ("value", "n", "estimate", "std_error", "truth")  # what a row says, not what it is about


def concatenate(paths, kind):
    """One frame of all the rows in ``paths``, sorted by what each row is about.

    Args:
        paths: parquet artifacts of the same ``kind``, in any order.
        kind: a contract without coordinates, such as ``metrics/1`` or ``parameters/1``.
    Returns:
        the frame and its metadata (``tables``: how many there were); the bytes that they make when
        written depend on the rows alone.
    Raises:
        ValueError: no paths.
        artifacts.ContractError: a file that breaks its contract; all of them are named at once.
    """
    paths = sorted({str(path) for path in paths})
    if not paths:
        raise ValueError(f"expected one {kind} table at least, got none; no job of this run writes any")
    frames, faults = [], []
    for path in paths:
        try:
            frames.append(artifacts.read(path, kind)[0])
        except artifacts.ContractError as error:
            faults.append(str(error))
    if faults:
        raise artifacts.ContractError("\n".join(faults))
    frame = pd.concat(frames, ignore_index=True).drop_duplicates()  # what several methods are compared with
    about = [name for name in frame if name not in MEASURED]
    said = [name for name in frame if name in MEASURED]
    return frame.sort_values(about + said, kind="stable", ignore_index=True), {"tables": len(paths)}
