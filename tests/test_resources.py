"""Resources: declared, found, fetched and verified; every form gives the same thing."""

import hashlib
import io
import sys
import threading
import types
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from snapdyn import resources

DECLARED = Path(__file__).parents[1] / "config" / "resources.yaml"
POINTS = np.arange(12, dtype=np.float32).reshape(6, 2)
LABELS = np.array([0, 0, 1, 1, 1, 2])


def array_bytes(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def parquet_bytes():
    buffer = io.BytesIO()
    columns = {"cell_row": np.arange(6), "time": LABELS, "z1": POINTS[:, 0], "z2": POINTS[:, 1]}
    pd.DataFrame(columns).sample(frac=1, random_state=0).to_parquet(buffer)
    return buffer.getvalue()


CONTENT = {
    "data.npy": array_bytes(POINTS),
    "labels.npy": array_bytes(LABELS),
    "table.parquet": parquet_bytes(),
}


def declared(base=None):
    """A resource with a local form of one file and a form of two files that ``base`` serves."""

    def entry(name, url=True):
        sha256 = hashlib.sha256(CONTENT[name]).hexdigest()
        return {"file": f"toy/{name}", "sha256": sha256, "urls": [f"{base}/{name}"] if base and url else []}

    arrays, table = [entry("data.npy"), entry("labels.npy")], [entry("table.parquet", url=False)]
    common = {"licence": "none", "tested": True}
    forms = [{"reader": "timed-parquet", "files": table}, {"reader": "timed-arrays", "files": arrays}]
    toy = {"description": "toy", "licence": "none", "forms": [common | form for form in forms]}
    return resources.declare({"toy-points": toy})


def put(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(CONTENT[name])


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Truncating(Quiet):
    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])


@pytest.fixture
def serve(tmp_path):
    """Serve ``tmp_path/www`` over HTTP on this machine; returns the address."""
    servers = []

    def serve(handler=Quiet):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=tmp_path / "www"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    put(tmp_path / "www", *CONTENT)
    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def check_points(frame):
    assert list(frame) == ["row", "t", "x0", "x1"]
    assert frame["row"].tolist() == [0, 1, 2, 3, 4, 5] and frame["t"].tolist() == LABELS.tolist()
    np.testing.assert_array_equal(frame[["x0", "x1"]], POINTS)


@pytest.mark.parametrize(
    ("place", "names", "reader"),
    [
        ("toy", ["table.parquet"], "timed-parquet"),
        ("toy-points", ["data.npy", "labels.npy"], "timed-arrays"),
        ("toy", ["data.npy", "labels.npy", "table.parquet"], "timed-parquet"),
    ],
)
def test_the_first_form_found_wins_and_all_read_the_same(tmp_path, place, names, reader):
    put(tmp_path / place, *names)
    located = resources.locate("toy-points", declared(), [tmp_path / "nowhere", tmp_path])
    assert located.form.reader == reader
    check_points(resources.read(*located))
    assert resources.missing(["toy-points"], declared(), [tmp_path]) == []


def test_earlier_folders_come_first(tmp_path):
    put(tmp_path / "one/toy", "table.parquet")
    put(tmp_path / "two/toy", "table.parquet")
    located = resources.locate("toy-points", declared(), [tmp_path / "one", tmp_path / "two"])
    assert located.paths == (tmp_path / "one/toy/table.parquet",)


def test_a_table_of_points_is_read_from_parquet_and_csv(tmp_path):
    columns = {"x1": POINTS[:, 0], "x2": POINTS[:, 1]}
    pd.DataFrame({"time": LABELS} | columns).to_parquet(tmp_path / "points.parquet")
    pd.DataFrame({"samples": LABELS.astype(float)} | columns).to_csv(tmp_path / "points.csv", index=False)
    for name in ("points.parquet", "points.csv"):
        check_points(resources.READERS["timed-table"](tmp_path / name))
    pd.DataFrame(columns).to_csv(tmp_path / "still.csv", index=False)
    with pytest.raises(ValueError, match="one column of times, `time` or `samples`, among"):
        resources.READERS["timed-table"](tmp_path / "still.csv")


def test_the_environment_comes_before_the_configured_folder(monkeypatch):
    monkeypatch.delenv(resources.ENVIRONMENT, raising=False)
    assert resources.folders() == [Path("resources")]
    monkeypatch.setenv(resources.ENVIRONMENT, "/data")
    assert resources.folders("mine") == [Path("/data"), Path("mine")]


@pytest.mark.parametrize("spoil", [lambda content: content[:-7], lambda content: content[:-1] + b"?"])
def test_a_wrong_file_is_an_error_and_does_not_fall_through(tmp_path, serve, spoil):
    put(tmp_path / "toy", *CONTENT)
    table = tmp_path / "toy/table.parquet"
    table.write_bytes(spoil(table.read_bytes()))
    with pytest.raises(resources.ResourceError, match="expected .* truncated") as told:
        resources.locate("toy-points", declared(serve()), [tmp_path])
    for digest in map(hashlib.sha256, (table.read_bytes(), CONTENT["table.parquet"])):
        assert digest.hexdigest() in str(told.value)


def test_an_absent_resource_is_downloaded_once(tmp_path, serve):
    known, folders = declared(serve()), [tmp_path / "read-only", tmp_path / "kept"]
    assert resources.missing(["toy-points"], known, folders) == ["toy-points"]
    located = resources.locate("toy-points", known, folders)
    assert located.paths == tuple(tmp_path / "kept/toy" / name for name in ("data.npy", "labels.npy"))
    check_points(resources.read(*located))
    for path in (tmp_path / "www").iterdir():
        path.unlink()  # the second time nothing is asked of the server
    assert resources.locate("toy-points", known, folders) == located


@pytest.mark.parametrize("fault", ["truncated", "wrong sum", "not there"])
def test_a_bad_download_leaves_nothing_behind(tmp_path, serve, fault):
    base = serve(Truncating if fault == "truncated" else Quiet)
    if fault == "wrong sum":
        (tmp_path / "www/data.npy").write_bytes(b"something else")
    if fault == "not there":
        (tmp_path / "www/data.npy").unlink()
    with pytest.raises(resources.ResourceError, match=f"from {base}/data.npy"):
        resources.locate("toy-points", declared(base), [tmp_path / "kept"])
    assert not (tmp_path / "kept/toy/data.npy").exists()
    assert all(path.name == "labels.npy" for path in (tmp_path / "kept").rglob("*") if path.is_file())


def test_offline_and_absent_is_one_error_that_says_all(tmp_path):
    known = declared("http://127.0.0.1:9")  # the discard port: nobody answers
    with pytest.raises(resources.ResourceError) as told:
        resources.locate("toy-points", known, [tmp_path])
    for form in known["toy-points"].forms:
        for file in form.files:
            for fact in (*file.urls, file.sha256, str(tmp_path / file.file)):
                assert fact in str(told.value)


def test_a_second_address_is_tried(tmp_path, serve):
    base = serve()
    file = declared(base)["toy-points"].forms[1].files[0]
    mirrored = resources.File(file.file, file.sha256, ("http://127.0.0.1:9/data.npy", *file.urls))
    assert resources._fetch(mirrored, tmp_path / "data.npy") == []
    assert (tmp_path / "data.npy").read_bytes() == CONTENT["data.npy"]


def test_nothing_is_ever_unpickled(tmp_path):
    np.save(tmp_path / "data.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "labels.npy", LABELS)
    form = declared()["toy-points"].forms[1]
    with pytest.raises(resources.ResourceError, match="cannot read .*data.npy.*allow_pickle=False"):
        resources.read("toy-points", (tmp_path / "data.npy", tmp_path / "labels.npy"), form)


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", parquet_bytes()[:-9]])
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path, content):
    (tmp_path / "table.parquet").write_bytes(content)
    with pytest.raises(resources.ResourceError, match="timed-parquet cannot read .*table.parquet"):
        resources.read("toy-points", (tmp_path / "table.parquet",), declared()["toy-points"].forms[0])


def test_wrong_declarations_are_all_named():
    file = {"file": "a", "sha256": "abc"}
    form = {"reader": "timed-parquet", "licence": "none", "tested": True, "files": [file]}
    entry = {"description": "d", "licence": "none", "forms": [form]}
    bad = {"one": entry, "two": entry | {"forms": [form | {"files": [], "reader": "crystal-ball"}]}}
    bad |= {"three": {"description": "no forms"}, "four": entry | {"forms": [], "colour": "red"}}
    with pytest.raises(resources.ResourceError) as told:
        resources.declare(bad)
    for word in ("one: a: 'abc'", "crystal-ball", "three: key 'forms'", "colour"):
        assert word in str(told.value)
    with pytest.raises(resources.ResourceError, match="no resource is called 'toy'"):
        resources.locate("toy", declared(), [])


def test_an_r_object_is_searched_for_counts_genes_and_days(monkeypatch):
    class Named(np.ndarray):  # what rdata returns for a matrix with dimnames, as far as we use it
        dims, coords = ("dim_0", "dim_1"), {"dim_0": np.array(["A", "B", "C"])}

    counts = np.array([[0, 5, 1, 0], [2, 0, 0, 0], [0, 0, 3, 4]])
    columns = {"cell": np.array(["c1", "c2", "c3", "c4"]), "group": np.array(["D6", "D0", "D6", "D0"])}
    experiment = types.SimpleNamespace(
        assays=types.SimpleNamespace(data={"listData": {"counts": counts.view(Named)}}),
        colData=types.SimpleNamespace(listData=columns),
    )
    stand_in = types.SimpleNamespace(read_rda=lambda path: {"iPSC": experiment})
    monkeypatch.setitem(sys.modules, "rdata", stand_in)
    found = resources.READERS["counts-rda"]("iPSC.rda")
    assert found["day"].tolist() == [0, 0, 6, 6] and found["genes"].tolist() == ["A", "B", "C"]
    np.testing.assert_array_equal(found["counts"].toarray(), counts.T[[1, 3, 0, 2]])


def test_the_project_declares_its_resources():
    known = resources.load(DECLARED)
    assert {"embryoid-body-5pc", "ipsc-cardiomyocyte", "mouse-hematopoiesis-2d"} <= set(known)
    for resource in known.values():
        assert any(file.urls for form in resource.forms for file in form.files)


def test_real_embryoid_body(snapdyn_resources):
    frame = resources.read(*resources.locate("embryoid-body-5pc", resources.load(DECLARED), [snapdyn_resources]))
    assert frame["t"].value_counts(sort=False).sort_index().tolist() == [2381, 4163, 3278, 3665, 3332]
    points = frame[[f"x{i}" for i in range(5)]].to_numpy()
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(points.std(axis=0), 1, atol=1e-6)


def test_real_cardiomyocytes(snapdyn_resources):
    found = resources.read(*resources.locate("ipsc-cardiomyocyte", resources.load(DECLARED), [snapdyn_resources]))
    assert sparse.issparse(found["counts"]) and found["counts"].shape == (315, 15_724)
    assert len(found["genes"]) == len(set(found["genes"])) == 15_724
    days, cells = np.unique(found["day"], return_counts=True)
    assert dict(zip(days.tolist(), cells.tolist(), strict=True)) == {0: 83, 6: 77, 10: 60, 30: 41, 60: 54}


def test_real_hematopoiesis(snapdyn_resources):
    known = resources.load(DECLARED)
    frame = resources.read(*resources.locate("mouse-hematopoiesis-2d", known, [snapdyn_resources]))
    assert list(frame) == ["row", "t", "x0", "x1"]
    assert frame["t"].value_counts(sort=False).sort_index().to_dict() == {0: 1429, 1: 3781, 2: 5788}
    np.testing.assert_allclose(frame[["x0", "x1"]].mean(), 0, atol=1e-6)
