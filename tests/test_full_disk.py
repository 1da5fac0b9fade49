"""A disk that is full at whichever byte is said in words, nothing half-written is ever read, and all goes on."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import nullcontext

import numpy as np
import pytest

from ptune.errors import PtuneError, StorageError
from ptune.extract import pipeline
from ptune.extract.pipeline import extract
from ptune.extract.store import open_store
from ptune.extract.workers import DecodeWorker, FlowWorker, RecordWorker
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.track.project import Projector
from ptune.track.store import connect
from tests.example_crashes import sequence
from tests.example_full_disk import small_disk
from tests.example_places import below, s3_server
from tests.example_study import example_study
from tests.extract.test_pipeline import QUICK, clips
from tests.test_durability import as_new, assert_before_or_after, assert_goes_on  # noqa: F401 (a fixture)

SEEDS = range(40 if os.environ.get("PTUNE_FULL") else 6)
#: Of what takes seconds each.
FEW = SEEDS if os.environ.get("PTUNE_FULL") else SEEDS[:2]
ROOM = 64 * 1024


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as uri:
        yield uri


@pytest.mark.parametrize("seed", SEEDS)
def test_ledger_and_checkpoints_on_a_full_disk(tmp_path, as_new, seed):  # noqa: F811 (the fixture)
    with small_disk(tmp_path / "disk", ROOM) as disk:
        root = disk.folder / "root"
        sequence(disk.folder / "whole", with_features=False)
        total = disk.used()
        disk.resize(total + random.Random(seed).randrange(4, total))
        as_new()
        acknowledged = set()
        with pytest.raises(StorageError, match=r"the disk is full. Free some space. Then run the same command again"):
            sequence(root, acknowledged.add, with_features=False)
        assert_before_or_after(root, acknowledged)
        assert not list(root.rglob("*.part"))
        disk.resize(ROOM)
        assert_goes_on(root, with_features=False)


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """A home with the features of three clips, which workers in this process made."""

    def run(requests, backend, workers, share_videos):
        if not share_videos:
            return map(RecordWorker(), requests)
        decoding, flow = DecodeWorker(), FlowWorker()
        return (flow(chunk) for request in requests for chunk in decoding(request))

    monkeypatch.setattr(pipeline, "_run", run)
    monkeypatch.setattr(pipeline, "_quickest", lambda: "cpu")
    monkeypatch.setattr(pipeline, "ray_session", lambda *_: nullcontext())
    whole = Home.open(tmp_path / "whole")
    extract(clips(tmp_path), QUICK, whole)
    return whole


@pytest.mark.parametrize("in_bucket", [False, True], ids=["features on the disk", "cache on the disk"])
@pytest.mark.parametrize("seed", FEW)
def test_features_on_a_full_disk(tmp_path, whole, bucket, monkeypatch, seed, in_bucket):
    videos, expected = clips(tmp_path), open_store(whole.features, QUICK)
    total = sum(path.stat().st_size for path in whole.features.rglob("*") if path.is_file()) // 1024
    with small_disk(tmp_path / "disk", ROOM) as disk:
        monkeypatch.setenv("PTUNE_CACHE", str(disk.folder / "cache"))
        # A record in a bucket is built on this disk, where only one lies at a time.
        most = total // 4 if in_bucket else total - 4
        home = Home.open(tmp_path / "home", features=below(bucket) if in_bucket else disk.folder / "features")
        disk.resize(random.Random(seed).randrange(8, most))
        with pytest.raises(PtuneError, match=r"No space left on device|the disk is full"):
            extract(videos, QUICK, home)
        disk.resize(ROOM)
        store = open_store(home.features, QUICK)
        for video_id in store.ids():
            assert np.array_equal(store.video(video_id).flow, expected.video(video_id).flow)
        report = extract(videos, QUICK, home)
        assert len(report.done) + len(report.reused) == 3
        for video_id in expected.ids():
            for name in ("rgb.arrow", "flow.arrow", "metadata.json"):
                assert store.kept(f"{video_id}/{name}") == expected.kept(f"{video_id}/{name}")
        assert not list(disk.folder.rglob(".building")), "nothing of what failed is left"


@pytest.mark.parametrize("seed", FEW)
def test_a_tracking_database_on_a_full_disk(tmp_path, monkeypatch, seed):
    with small_disk(tmp_path / "disk", ROOM) as disk:
        monkeypatch.chdir(tmp_path)  # Where MLflow puts artifacts of a database that nobody told where.
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{disk.folder}/mlflow.db")
        home = Home.open(tmp_path / "home")
        example_study(home.ledger)
        before = Ledger(home.ledger).study("hand").events()
        dice = random.Random(seed)
        if dice.random() < 0.5:
            connect(home)
        disk.resize(disk.used() + dice.randrange(4, 200))
        with pytest.raises(StorageError, match=r"its disk is full. Free some space, then run `ptune sync hand`"):
            Projector(home, "hand").sync()
        disk.resize(ROOM)
        Projector(home, "hand").sync()
        assert Ledger(home.ledger).study("hand").events() == before
        assert sqlite3.connect(f"{disk.folder}/mlflow.db").execute("pragma integrity_check").fetchone() == ("ok",)
