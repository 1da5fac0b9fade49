"""What an object store holds is the same whether connections to it drop or not, and what cannot be sent is an error."""

from __future__ import annotations

import os
import random
from contextlib import suppress

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
from tests.example_connections import dropping
from tests.example_places import below, s3_server
from tests.example_registry import add_study
from tests.tune.chaos import STUDY, Launch


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


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A folder with a cohort and the smallest study of it."""
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
    study = STUDY | {"budget": {"trials": 2}, "space": {"modality": {"choice": ["flow"]}, "segments": {"int": [1, 2]}}}
    (root / "study.yaml").write_text(yaml.safe_dump(study | {"fixed": STUDY["fixed"] | {"epochs": 1}}))
    return root


def sweep(root, home, features, **environment):
    """Extracts and trains with features at a place; returns the extraction's store and all predictions."""
    Launch(root, root / home, root / "study.yaml", environment, features).finish()
    opened = Home.open(root / home, features)
    ledger = Ledger(opened.ledger)
    fits = {fit for trial in read_study(ledger, "chaos").trials.values() for fit in trial.fits.values()}
    predictions = {fit: ledger.find_fit(fit).predictions() for fit in fits}
    return open_store(opened.features, StudyConfig.load(root / "study.yaml").extraction), predictions


@pytest.mark.skipif(not os.environ.get("PTUNE_FULL"), reason="takes minutes: `make test-full`")
def test_a_sweep_on_features_behind_dropping_connections_is_the_sweep_on_a_folder(cohort, bucket, monkeypatch):
    monkeypatch.setenv("PTUNE_CACHE", str(cohort / "cache"))
    place = below(bucket)
    folder, expected = sweep(cohort, "plain", str(cohort / "features"))
    with dropping(place, 0, share=0.5) as (through, proxy):
        _, found = sweep(cohort, "shared", through)
        assert proxy.dropped > 3
    assert found.keys() == expected.keys()
    assert all(found[fit].equals(expected[fit]) for fit in expected)
    direct = open_store(place, StudyConfig.load(cohort / "study.yaml").extraction)
    assert (
        direct.ids()
        == folder.ids()
        == sorted(video.id for video in load_manifest(cohort / "cohort" / "cohort.csv").videos)
    )
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
