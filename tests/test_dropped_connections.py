"""What an object store holds is the same whether connections to it drop or not, and what cannot be sent is an error."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import pytest
import yaml

from ptune.cohort.manifest import load_manifest
from ptune.cohort.synthetic import SyntheticConfig, render_cohort
from ptune.config import StudyConfig
from ptune.errors import StorageError
from ptune.extract.store import open_store
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.ledger.store import store_at
from ptune.replay import read_study
from ptune.track.publish import register_study
from ptune.track.registry import CANDIDATE, Registry
from ptune.track.server import ask_server
from tests.cluster.hosts import wait_until
from tests.example_connections import dropping
from tests.example_places import below, s3_server
from tests.example_registry import add_study
from tests.track.live import free_port
from tests.tune.chaos import ROOT, STUDY


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as uri:
        yield uri


def objects(seed):
    """Returns some small objects, as events are, and a large one, as weights are."""
    dice = random.Random(seed)
    return {f"{number:08d}": dice.randbytes(dice.choice([40, 3_000, 150_000])) for number in range(12)}


def until_done(work, tries=30):
    """Does what a user does: runs the same again when it stopped with an error in words."""
    for _ in range(tries):
        with suppress(StorageError):
            return work()
    raise AssertionError(f"stopped {tries} times")


@pytest.mark.parametrize("seed", range(20 if os.environ.get("PTUNE_FULL") else 3))
def test_objects_are_whole_through_connections_that_drop_in_the_middle_of_a_body(bucket, seed):
    place, written = below(bucket), objects(seed)
    with dropping(place, seed) as (through, proxy):
        for name, content in written.items():
            until_done(lambda name=name, content=content: store_at(through).put(f"events/{name}", content))
        read = {name: until_done(lambda name=name: store_at(through).read(f"events/{name}")) for name in written}
        assert proxy.dropped
    assert read == written
    direct = store_at(place)
    assert [entry.name for entry in direct.entries("events")] == [f"events/{name}" for name in sorted(written)]
    assert {name: direct.read(f"events/{name}") for name in written} == written


def test_a_store_whose_every_connection_drops_is_an_error_and_leaves_no_part_of_an_object(bucket):
    place = below(bucket)
    with (
        dropping(place, 0, within=5_000) as (through, proxy),
        pytest.raises(StorageError, match="run the same command again"),
    ):
        store_at(through).put("weights", bytes(1_000_000))
    assert proxy.dropped
    assert store_at(place).read("weights") is None


SMALL = STUDY | {"budget": {"trials": 2}, "fixed": STUDY["fixed"] | {"epochs": 1}}
STUDY_OF_TWO = SMALL | {"space": {"modality": {"choice": ["flow"]}, "segments": {"int": [1, 2]}}}
ABLATION = {
    "ablation": "parts",
    "tasks": ["hand"],
    "rows": {"Flow": ["flow"], "Both": ["flow", "mb"]},
    "columns": {"focal": {"segments": 1}},
} | {name: SMALL[name] for name in ("cohort", "folds", "init", "extraction", "fixed")}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A folder with a cohort, the smallest study of it and an ablation."""
    root = tmp_path_factory.mktemp("cohort")
    size = SyntheticConfig(
        subjects=6,
        clips_per_subject=2,
        fps=12.5,
        seconds=(1.0, 1.2),
        width=64,
        height=48,
        score_weights=(2, 1, 1, 1, 1),
    )
    render_cohort(root / "cohort", size)
    (root / "study.yaml").write_text(yaml.safe_dump(STUDY_OF_TWO))
    (root / "parts.yaml").write_text(yaml.safe_dump(ABLATION))
    return root


def from_videos_to_a_model(root, home, features, **environment):
    """Runs ptune's commands from videos to a prediction; returns the home and what was predicted."""
    scratch = tempfile.mkdtemp(prefix="pt", dir="/tmp")
    own = {"RAY_TMPDIR": scratch, "PTUNE_HOME": str(root / home), "OMP_NUM_THREADS": "1"}
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    for command in (
        ["extract", "cohort/cohort.csv", "--size", "40x32", "--workers", "1"],
        ["sweep", "study.yaml", "--workers", "1"],
        ["ablate", "parts.yaml", "--workers", "1"],
        ["register", "chaos"],
        ["predict", "cohort/cohort.csv", "--model", "chaos", "--alias", "candidate", "--json"],
    ):
        places = [] if command[0] == "predict" else ["--features", features]
        for _ in range(4):
            done = subprocess.run(
                [Path(sys.executable).with_name("ptune"), *command, *places],
                env=kept | own | environment,
                cwd=root,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            if "run the same command again" not in done.stderr:
                break
        assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(scratch)
    return Home.open(root / home, features), json.loads(done.stdout)


def predictions(home):
    """Returns the predictions of all fits of the study and the ablation."""
    ledger = Ledger(home.ledger)
    trials = [trial for study in ("chaos", "parts-hand") for trial in read_study(ledger, study).trials.values()]
    return {fit: ledger.find_fit(fit).predictions() for trial in trials for fit in trial.fits.values()}


@contextmanager
def mlflow_server(folder, artifacts):
    """Runs MLflow's server, which keeps artifacts in an object store; yields its URI."""
    port = free_port()
    script = ROOT / "docs" / "cluster" / "mlflow-server.sh"
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder)}
    options = ["--port", str(port), "--workers", "1", "--artifacts-destination", artifacts]
    options += ["--allowed-hosts", f"127.0.0.1:{port}"]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(
            ["bash", script, *options],
            env=os.environ | own | {"PTUNE_HOME": str(folder)},
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: ask_server(f"http://127.0.0.1:{port}").version, 240, "MLflow answers")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.mark.skipif(not os.environ.get("PTUNE_FULL"), reason="takes minutes: `make test-full`")
def test_from_videos_to_a_model_behind_dropping_connections_is_what_it_is_in_folders(cohort, bucket, monkeypatch):
    monkeypatch.setenv("PTUNE_CACHE", str(cohort / "cache"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "10")
    place, artifacts = below(bucket), below(bucket)
    plain, expected = from_videos_to_a_model(cohort, "plain", str(cohort / "features"))
    with dropping(place, 0, share=0.4) as (through, proxy), dropping(artifacts, 1, share=0.1) as (uploads, carrier):
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{carrier.address}")
        with mlflow_server(cohort, uploads.partition("?")[0]) as server:
            monkeypatch.delenv("MLFLOW_S3_ENDPOINT_URL")
            home, found = from_videos_to_a_model(cohort, "shared", through, MLFLOW_TRACKING_URI=server)
        print(f"{proxy.dropped} connections to features dropped, {carrier.dropped} to artifacts")
        assert proxy.dropped > 3
        assert carrier.dropped > 0
    one, other = predictions(plain), predictions(home)
    assert one.keys() == other.keys()
    assert all(one[fit].equals(other[fit]) for fit in one)
    assert found == expected
    assert not list(home.artifacts.rglob("*")), "nothing lies on this disk instead"
    config = StudyConfig.load(cohort / "study.yaml").extraction
    direct, folder = open_store(place, config), open_store(plain.features, config)
    videos = load_manifest(cohort / "cohort" / "cohort.csv").videos
    assert direct.ids() == folder.ids() == sorted(video.id for video in videos)
    for video_id in direct.ids():
        for name in ("rgb.arrow", "flow.arrow", "metadata.json"):
            assert direct.kept(f"{video_id}/{name}") == folder.kept(f"{video_id}/{name}")


def test_a_model_is_registered_and_loaded_behind_dropping_connections(tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "10")
    home = Home.open(tmp_path / "home")
    add_study(home, "hand", 0.9)
    with dropping(below(bucket), 1, share=0.3) as (through, proxy):
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{proxy.address}")
        artifacts = through.partition("?")[0]
        Registry(home).client.create_experiment("hand", artifact_location=artifacts)
        register_study(home, "hand")
        registry = Registry(home)
        version = registry.version("hand", CANDIDATE)
        registry.verify(version)
        bundle = registry.bundle("hand", CANDIDATE)
        assert proxy.dropped > 3
    model = mlflow.MlflowClient(home.tracking_uri).get_logged_model(version.source.rpartition("/")[2])
    assert model.artifact_location.startswith(artifacts)
    assert [stream.name for stream in bundle.spec.streams]
    assert store_at(f"{artifacts}?{bucket.partition('?')[2]}").entries("")
    assert not list(home.artifacts.rglob("*")), "nothing lies on this disk instead"
