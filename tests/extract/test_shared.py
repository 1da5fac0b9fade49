"""Features in an object store: the same records as in a folder, fetched once to a node, within its limit."""

import multiprocessing
import os
import pickle
from contextlib import nullcontext

import numpy as np
import pytest

from ptune.errors import ConfigError, FeatureError, HomeError, StorageError
from ptune.extract import pipeline, workers
from ptune.extract.cache import NodeCache
from ptune.extract.estimate import estimate
from ptune.extract.pipeline import extract
from ptune.extract.record import BUILDING
from ptune.extract.report import load_quarantine
from ptune.extract.store import open_store, store_of
from ptune.extract.workers import RecordWorker
from ptune.home import Home
from tests.example_places import below, s3_server
from tests.extract.test_pipeline import QUICK, clips


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as uri:
        yield uri


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def without_ray(monkeypatch):
    """Runs the workers in this process."""

    def run(requests, backend, workers, share_videos):
        worker = RecordWorker()
        return (worker(request) for request in requests)

    monkeypatch.setattr(pipeline, "_run", run)
    monkeypatch.setattr(pipeline, "_quickest", lambda: "cpu")
    monkeypatch.setattr(pipeline, "ray_session", lambda *_: nullcontext())


def pictures(seed=0, frames=5):
    dice = np.random.default_rng(seed)
    rgb = dice.integers(0, 256, (frames, 6, 8, 3), np.uint8)
    return rgb, dice.integers(-99, 99, (frames - 1, 6, 8, 2), np.int16)


def cached(cache):
    return [path for path in cache.glob("features/??/*") if path.is_file()]


def files_of(store, video_id):
    return {name: store.kept(f"{video_id}/{name}") for name in ("rgb.arrow", "flow.arrow", "metadata.json")}


def test_a_record_in_an_object_store_has_the_bytes_of_one_in_a_folder(tmp_path, bucket, cache):
    (rgb, flow), place = pictures(), below(bucket)
    folder, shared = open_store(tmp_path / "features", QUICK), open_store(place, QUICK)
    for store in (folder, shared):
        store.write("v1", rgb, flow, 25.0, {"note": 1})
    assert files_of(shared, "v1") == files_of(folder, "v1")
    assert (shared.has("v1"), shared.has("v2"), shared.ids()) == (True, False, ["v1"])
    assert np.array_equal(shared.read("v1", "flow", 1, 2), flow[1:3])
    assert not list(cache.rglob(f"{BUILDING}/*")), "what was sent is not kept twice"
    assert not open_store(below(bucket), QUICK).has("v1")


def test_a_record_is_replaced_and_removed(bucket):
    store = open_store(below(bucket), QUICK)
    store.write("v1", *pictures(), 25.0)
    assert store.kept("v1/vector.npy") is None
    store.keep("v1/vector.npy", b"made of it")
    assert np.array_equal(store.read("v1", "rgb", 0, 5), pictures()[0])
    store.write("v1", *pictures(1), 25.0)
    assert np.array_equal(store.read("v1", "rgb", 0, 5), pictures(1)[0])
    store.remove("v1")
    assert (store.has("v1"), store.kept("v1/vector.npy"), store.objects.entries("")) == (False, None, [])
    with pytest.raises(FeatureError, match="video v1: has no features"):
        store.video("v1")


def test_an_upload_that_is_cut_off_leaves_no_record_and_goes_on(bucket, monkeypatch):
    place = below(bucket)
    store = open_store(place, QUICK)
    send = store.objects.send

    def refusing(name, path):
        if name.endswith("flow.arrow"):
            raise StorageError("ledger, v1", "cannot be reached")
        send(name, path)

    monkeypatch.setattr(store.objects, "send", refusing)
    with pytest.raises(StorageError, match="features, v1: cannot be reached"):
        store.write("v1", *pictures(), 25.0)
    assert not store.has("v1")
    monkeypatch.undo()
    monkeypatch.setenv("PTUNE_CACHE", str(store.cache.folder))
    builder = store_of(store.place).builder("v1")
    assert builder.sealed(), "only sending is left to do"
    builder.publish()
    assert np.array_equal(store.read("v1", "flow", 0, 4), pictures()[1])


@pytest.mark.parametrize("name", ["rgb", "flow"])
def test_damaged_bytes_are_never_read(bucket, cache, name):
    place = below(bucket)
    store = open_store(place, QUICK)
    store.write("v1", *pictures(), 25.0)
    sha256 = store.metadata("v1")["arrays"][name]["sha256"]

    copy = store.cache.path(sha256)
    copy.write_bytes(copy.read_bytes()[:-1])
    assert np.array_equal(open_store(place, QUICK).video("v1").flow, pictures()[1]), "a damaged copy is fetched again"

    copy.unlink()
    store.keep(f"v1/{name}.arrow", b"damaged")
    with pytest.raises(FeatureError, match=f"the checksum of its {name} does not match"):
        open_store(place, QUICK).video("v1")
    assert not copy.exists()
    store.objects.delete(f"v1/{name}.arrow")
    with pytest.raises(FeatureError, match=f"it lacks its {name}.*Delete v1/ below the prefix"):
        open_store(place, QUICK).video("v1")


def test_what_was_not_used_for_longest_gives_way_and_stays_readable_where_it_is_mapped(bucket, cache, monkeypatch):
    place = below(bucket)
    store = open_store(place, QUICK)
    for number in range(4):
        store.write(f"v{number}", *pictures(number, 40), 25.0)
    size = sum(path.stat().st_size for path in cached(cache)) / 4
    monkeypatch.setenv("PTUNE_CACHE_GB", str(2.5 * size / 1e9))
    for path in cached(cache):
        path.unlink()
    store = open_store(place, QUICK)
    first = store.video("v0")
    for number in (1, 2, 3, 0, 2):
        assert np.array_equal(store.video(f"v{number}").rgb, pictures(number, 40)[0])
        assert sum(path.stat().st_size for path in cached(cache)) <= 2.5 * size
    assert np.array_equal(first.rgb, pictures(0, 40)[0])
    assert len(store._open) <= 3, "nobody holds what the cache gave up"


def _reads(place, barrier, answers):
    store = store_of(place)
    fetched, blocks = [], store.objects.blocks
    store.objects.blocks = lambda name: fetched.append(name) or blocks(name)
    barrier.wait()
    video = store.video("v1")
    answers.put((os.getpid(), int(video.rgb.sum(dtype=np.int64)), fetched))


def test_processes_of_a_node_fetch_a_record_once(bucket, cache):
    rgb, flow = pictures(frames=300)
    store = open_store(below(bucket), QUICK)
    store.write("v1", rgb, flow, 25.0)
    for path in cached(cache):
        path.unlink()
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(4), context.Queue()
    readers = [context.Process(target=_reads, args=(store.place, barrier, answers)) for _ in range(4)]
    for reader in readers:
        reader.start()
    found = [answers.get(timeout=60) for _ in readers]
    for reader in readers:
        reader.join()
    assert {total for _, total, _ in found} == {int(rgb.sum(dtype=np.int64))}
    assert sorted(name for *_, names in found for name in names) == ["v1/flow.arrow", "v1/rgb.arrow"]
    assert len(cached(cache)) == 2


def test_extraction_makes_the_same_records_and_goes_on(tmp_path, bucket, without_ray, cache):
    videos, place = clips(tmp_path), below(bucket)
    home = Home.open(tmp_path / "home", features=place)
    assert home.features == place
    first = extract(videos[:1], QUICK, home)
    report = extract(videos, QUICK, home)
    assert (len(first.done), len(report.done), len(report.reused)) == (1, 2, 1)
    assert (first.pairs, report.pairs, len(report.quarantined)) == (8, 9 + 10, 1)
    store = open_store(place, QUICK)
    assert list(load_quarantine(store)) == [videos[3].id]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_run", in_a_folder)
        local = Home.open(tmp_path / "local")
        extract(videos, QUICK, local)
    for video in videos[:3]:
        assert files_of(store, video.id) == files_of(open_store(local.features, QUICK), video.id)
    cost = estimate(videos, QUICK, home, workers=1, backend="cpu")
    assert (cost.reused, cost.bytes_free, cost.fits) == (3, None, True)
    assert "of the object store needed" in cost.text()


def in_a_folder(requests, backend, workers_, share_videos):
    assert share_videos
    decoding, flow = workers.DecodeWorker(), workers.FlowWorker()
    return (flow(chunk) for request in requests for chunk in decoding(request))


def test_a_store_that_refuses_loses_no_video_and_says_why(tmp_path, bucket, without_ray):
    place = below(bucket.replace("s3://bucket", "s3://nowhere"))
    with pytest.raises(StorageError, match=r"features, .*the object store answered NO_SUCH_BUCKET"):
        extract(clips(tmp_path)[:1], QUICK, Home.open(tmp_path / "home", features=place))


def test_a_store_opens_anew_in_another_process(bucket):
    store = open_store(below(bucket), QUICK)
    store.write("v1", *pictures(), 25.0)
    other = pickle.loads(pickle.dumps(store))
    assert other.place == store.place
    assert np.array_equal(other.read("v1", "mb", 0, 4), store.read("v1", "mb", 0, 4))


def test_places_and_limits_that_make_no_sense_are_refused(tmp_path, bucket, monkeypatch):
    with pytest.raises(HomeError, match=r"features: cannot lie at ftp://.*Correct --features"):
        open_store("ftp://server/features", QUICK)
    monkeypatch.setenv("PTUNE_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="PTUNE_CACHE_GB: 'much'"):
        NodeCache.of_node()
    home = Home.open(tmp_path / "home", features=f"file://{tmp_path}/my%20features")
    assert home.features == tmp_path / "my features"
