import pickle

import numpy as np
import pytest

from ptune.config import ExtractConfig
from ptune.errors import FeatureError
from ptune.extract.boundary import motion_boundaries
from ptune.extract.flow import dequantize
from ptune.extract.store import FeatureStore, VideoFeatures, open_store


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    rgb = random.integers(0, 256, (6, 5, 7, 3), np.uint8)
    flow = random.integers(-32767, 32768, (5, 5, 7, 2), np.int16)
    return rgb, flow


@pytest.fixture
def store(tmp_path, arrays):
    store = FeatureStore(tmp_path / "signature")
    store.write("v1", *arrays, fps=25.0, extra={"codec": "h264"})
    return store


def test_what_was_written_is_read(store, arrays):
    rgb, flow = arrays
    assert store.has("v1")
    assert store.ids() == ["v1"]
    assert np.array_equal(store.read("v1", "rgb", 1, 3), rgb[1:4])
    assert np.array_equal(store.read("v1", "flow", 0, 5), flow)
    assert np.array_equal(store.read("v1", "mb", 2, 2), motion_boundaries(dequantize(flow[2:4])))
    assert store.video("v1").fps == 25.0
    assert store.metadata("v1")["extra"] == {"codec": "h264"}


def test_reading_copies_nothing(store):
    features = store.video("v1")
    assert not features.rgb.flags.owndata
    assert np.shares_memory(store.read("v1", "flow", 1, 2), features.flow)


def test_lengths_differ_by_one(store):
    features = store.video("v1")
    assert [features.length(name) for name in ("rgb", "flow", "mb")] == [6, 5, 5]


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (0, 6), (5, 1)])
def test_frames_beyond_the_end_are_refused(store, start, count):
    with pytest.raises(FeatureError, match="expected frames 0 to 4"):
        store.read("v1", "flow", start, count)


def test_a_record_without_metadata_is_not_there(store):
    (store.path / "v1" / "metadata.json").unlink()
    assert not store.has("v1")
    assert store.ids() == []
    with pytest.raises(FeatureError, match="has no features"):
        store.video("v1")


@pytest.mark.parametrize("name", ["rgb", "flow"])
def test_one_flipped_byte_is_found(store, name):
    path = store.path / "v1" / f"{name}.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FeatureError, match=f"checksum of its {name}.*Delete the folder v1.*extract again"):
        FeatureStore(store.path).video("v1")


def test_a_second_write_replaces_the_record(store, arrays):
    rgb, flow = arrays
    store.write("v1", rgb[:4], flow[:3], fps=25.0)
    assert np.array_equal(store.video("v1").rgb, rgb[:4])


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 1}', "[1]"])
def test_broken_metadata_is_a_broken_record(store, text):
    (store.path / "v1" / "metadata.json").write_text(text)
    with pytest.raises(FeatureError, match="extract again"):
        FeatureStore(store.path).video("v1")


def test_a_missing_array_is_a_broken_record(store):
    (store.path / "v1" / "flow.arrow").unlink()
    with pytest.raises(FeatureError, match="cannot be mapped"):
        FeatureStore(store.path).video("v1")


def test_a_removed_record_is_gone(store):
    store.remove("v1")
    assert list(store.path.iterdir()) == []
    store.remove("v1")


def test_a_store_travels_as_its_path(store):
    store.video("v1")
    assert len(pickle.dumps(store)) < 500
    assert pickle.loads(pickle.dumps(store)).has("v1")


def test_ids_cannot_leave_the_store(store):
    with pytest.raises(FeatureError, match="letters, digits"):
        store.has("../v1")


def test_each_configuration_has_its_own_store(tmp_path):
    first, second = (open_store(tmp_path, ExtractConfig(width=width)) for width in (80, 96))
    assert first.path != second.path
    assert first.path == tmp_path / ExtractConfig(width=80).signature()


def test_features_that_do_not_belong_together_are_refused(arrays):
    rgb, flow = arrays
    with pytest.raises(ValueError, match=r"expected int16 \[5, 5, 7, 2\]"):
        VideoFeatures(rgb, flow[:4], 25.0)
    with pytest.raises(ValueError, match="rgb is float"):
        VideoFeatures(rgb.astype(float), flow, 25.0)
