"""The nodes of a real cluster are looked at one by one, and what is wrong with one of them is said of it."""

import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ptune.checkup import DRIVER, VERSIONS, _judged, _race, look
from ptune.errors import BadInput
from ptune.home import Home
from ptune.track.server import ask_server
from tests.tune.chaos import ROOT
from tests.tune.test_cluster import ThreeNodes


@pytest.fixture(scope="module")
def cluster():
    nodes = ThreeNodes()
    yield nodes
    nodes.close()


def test_every_node_of_a_cluster_is_looked_at(cluster, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    own = {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "ptune.cli", "doctor", "--cluster", "--json", "--home", str(tmp_path / "home")],
        env=environment | own,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    seen = [item["found"] for item in found if item["subject"].endswith(": home")]
    assert seen == ["reads, writes, renames, syncs and locks; sees the driver's bytes and is seen"] * 3
    for subject in ("versions", "gpu", "clock", "disk"):
        assert sum(item["subject"].endswith(f": {subject}") for item in found) == 3
    assert {"subject": "exclusive creation", "ok": True, "found": "1 of 3 nodes made the same file"}.items() <= next(
        item for item in found if item["subject"] == "exclusive creation"
    ).items()
    assert not list((tmp_path / "home").glob(".checkup*")), "nothing is left behind"


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "checkup"
    folder.mkdir()
    (folder / DRIVER).write_text(socket.gethostname())
    return folder


def judged(facts, folder, **changes):
    """Returns what is found wrong with a node, by the last word of its subject."""
    node = {"name": "worker", "registered": 0, "off": 0.0} | facts | changes
    return {item.subject.rpartition(": ")[2]: item for item in _judged(node, [node], folder) if not item.ok}


def test_a_healthy_node_has_nothing_wrong(shared):
    assert judged(look(shared, ()), shared) == {}


def test_a_node_that_mounts_something_else_is_found_out(shared, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    wrong = judged(look(elsewhere, ()), shared)
    assert wrong["home"].found == "does not see the same files as the driver"
    assert judged(look(tmp_path / "absent", ()), shared)["home"].found.startswith("write: No such file")


def test_other_versions_lost_gpus_and_wrong_clocks_are_named(shared):
    facts = look(shared, ())
    wrong = judged(
        facts, shared, versions=dict.fromkeys(VERSIONS, "0.1"), python="3.9.1", registered=2, off=61.0, free=10
    )
    assert set(wrong) == {"versions", "gpu", "clock", "disk"}
    assert "ray 0.1 (here " in wrong["versions"].found
    assert "Python 3.9.1 (here 3." in wrong["versions"].found
    assert wrong["gpu"].found == "none; Ray offers 2"
    assert "61.0 s" in wrong["clock"].found


def test_of_all_nodes_one_makes_the_file_that_one_may_make(shared):
    nodes = [look(shared, ()) for _ in range(3)]
    assert [node["won"] for node in nodes] == [True, False, False]
    assert _race(nodes).ok
    assert not _race([{"won": True}, {"won": True}]).ok


def test_without_a_cluster_it_says_how_to_get_to_one(tmp_path, monkeypatch):
    from ptune.checkup import examine_cluster

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(BadInput, match=r"RAY_ADDRESS.*ptune submit doctor --cluster"):
        examine_cluster(Home.open(tmp_path / "home"))


class WantsToken(BaseHTTPRequestHandler):
    """An MLflow behind a proxy that asks who comes."""

    def do_GET(self):
        self.send_response(200 if self.path == "/version" else 401)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_):
        """Stays quiet."""


def test_a_server_that_is_not_there_or_wants_credentials_is_told_apart():
    assert ask_server("http://127.0.0.1:9").problem.startswith("does not answer (")
    server = HTTPServer(("127.0.0.1", 0), WantsToken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        asked = ask_server(f"http://127.0.0.1:{server.server_port}")
        assert asked.problem == "wants other credentials"
        assert "MLFLOW_TRACKING_TOKEN" in asked.remedy
    finally:
        server.shutdown()
