"""What is missing for a run is known before it: GPU, files, network, room."""

import http.server
import sys
import threading
from pathlib import Path

import pytest
from plan_helpers import fake_torch

from snapdyn import preflight, resources

DECLARED = resources.declare(
    {
        "cells": {
            "description": "two forms",
            "licence": "none",
            "forms": [
                {
                    "reader": "timed-parquet",
                    "licence": "none",
                    "tested": True,
                    "files": [{"file": "cells/a.parquet", "sha256": "a" * 64}],
                },
                {
                    "reader": "timed-arrays",
                    "licence": "none",
                    "tested": True,
                    "files": [
                        {"file": "cells/x.npy", "sha256": "b" * 64, "urls": ["http://localhost:1/x.npy"]},
                        {"file": "cells/t.npy", "sha256": "c" * 64, "urls": ["http://localhost:1/t.npy"]},
                    ],
                },
            ],
        }
    }
)


@pytest.fixture
def fault(tmp_path, monkeypatch):
    """What is said of a GPU where torch is as described."""

    def ask(**described):
        folder = fake_torch(tmp_path / f"{len(list(tmp_path.iterdir()))}", **described)
        monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(preflight.__file__).parents[1]}")
        preflight.gpu_fault.cache_clear()
        return preflight.gpu_fault()

    yield ask
    preflight.gpu_fault.cache_clear()


def test_a_gpu_that_answers_is_no_fault(fault):
    assert fault() is None


def test_no_gpu_is_one_sentence_that_says_what_to_do(fault):
    told = fault(available=False)
    assert "device: cuda was asked for, but torch sees no GPU" in told and "set device: auto or cpu" in told
    assert "\n" not in told
    assert "CPU build" in fault(available=False, cuda=None)
    assert "does not answer (out of memory)" in fault(answer="raise RuntimeError('out of memory')")
    assert "torch ended with status -9" in fault(answer="import os; os.kill(os.getpid(), 9)")


def test_this_process_never_imports_torch_for_it(fault):
    before = sys.modules.get("torch")
    fault(available=False)
    assert sys.modules.get("torch") is before


def test_absent_files_are_told_with_checksum_and_place(tmp_path):
    told = preflight.absent_files(["cells"], DECLARED, [tmp_path / "shared", tmp_path / "here"])
    assert told["cells"][0].startswith(f"resource cells is not in {tmp_path / 'shared'}, {tmp_path / 'here'}")
    assert f"put cells/a.parquet (SHA-256 {'a' * 64}) at {tmp_path / 'here/cells/a.parquet'}" in told["cells"][1]
    assert "x.npy" in told["cells"][2] and " and put cells/t.npy" in told["cells"][2]
    (tmp_path / "shared/cells").mkdir(parents=True)
    (tmp_path / "shared/cells/a.parquet").write_bytes(b"there")
    assert preflight.absent_files(["cells"], DECLARED, [tmp_path / "shared", tmp_path / "here"]) == {}


@pytest.fixture
def server():
    """An address that answers with the status which it is asked for, and what was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.command)
            self.send_response(int(self.path[1:4]))
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://localhost:{running.server_port}", asked
        running.shutdown()


def test_an_address_answers_or_not_and_nothing_is_downloaded(server, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "localhost")
    address, asked = server
    assert preflight.unreachable(f"{address}/200") is None
    assert "404" in preflight.unreachable(f"{address}/404")
    assert asked == ["HEAD", "HEAD"]
    assert "no answer" in preflight.unreachable("http://localhost:1/x", timeout=0.5)
    assert preflight.fetching(["cells"], DECLARED)[0].startswith("the run will try http://localhost:1/x.npy: no answer")


def test_room_is_that_of_the_nearest_folder_that_exists(tmp_path):
    assert preflight.room(tmp_path / "not" / "yet") == pytest.approx(preflight.room(tmp_path), rel=0.01)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"12345")
    assert preflight.size(tmp_path) == 5
