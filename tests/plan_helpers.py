"""Frames of jobs and a torch of one's own choosing, for tests of what happens around a run."""

import pandas as pd

TORCH = """
class version:
    cuda = {cuda!r}

class cuda:
    is_available = staticmethod(lambda: {available})
    get_device_name = staticmethod(lambda i: "a GPU made of paper")

class deterministic:
    pass

class utils:
    deterministic = deterministic

class ones:
    def __init__(self, n, device): pass
    def item(self):
        {answer}

set_num_threads = use_deterministic_algorithms = lambda *a, **k: None
"""


def jobs(*rows, **columns):
    """A frame of jobs from ``(rule, job, wall_s, after)``; numbered from 0."""
    frame = pd.DataFrame(rows, columns=["rule", "job", "wall_s", "after"])
    wall = frame["wall_s"].astype(float)
    usual = {"threads": 1, "mem_mb": 100.0, "gpu": 0, "idle": False, "log": "", "reason": "", "origin": "full run"}
    return frame.assign(jobid=range(len(frame)), wall_s=wall, cpu_s=wall, peak_mb=10.0, **usual).assign(**columns)


def fake_torch(folder, *, cuda="12.8", available=True, answer="return 1.0"):
    """Put a package called torch into ``folder`` that says of GPUs what it is told to."""
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(TORCH.format(cuda=cuda, available=available, answer=answer))
    return folder
