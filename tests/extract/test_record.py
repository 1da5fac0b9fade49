import hashlib
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ptune.errors import FeatureError
from ptune.extract import record as module
from ptune.extract.record import BUILDING, Chunk, RecordBuilder, chunks_of, envelope
from ptune.extract.store import FeatureStore


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    rgb = random.integers(0, 256, (10, 5, 7, 3), np.uint8)
    flow = random.integers(-32767, 32768, (9, 5, 7, 2), np.int16)
    return rgb, flow


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_PAIRS", 4)


def build(folder: Path, rgb, flow) -> None:
    """What extraction does, and does again after it was cut off: each step that has no marker."""
    if FeatureStore(folder).has("v1"):
        return
    builder = RecordBuilder(folder, "v1")
    if builder.sealed():
        builder.publish()
        return
    if builder.decoded() is None:
        builder.finish_decoding(builder.write_frames(iter(rgb)), {"codec": "h264"})
    for chunk in builder.missing():
        part = builder.frames(chunk)
        assert np.array_equal(part, rgb[chunk.first : chunk.first + chunk.pairs + 1])
        builder.write_chunk(chunk, flow[chunk.first : chunk.first + chunk.pairs], {"first": chunk.first})
    builder.seal(25.0, {"chunks": builder.chunk_facts()})


def content(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_chunks_cover_every_pair_once():
    assert chunks_of(10) == [Chunk(0, 4), Chunk(4, 4), Chunk(8, 1)]
    assert chunks_of(2) == [Chunk(0, 1)]


def test_a_record_is_built_in_steps(tmp_path, arrays):
    rgb, flow = arrays
    build(tmp_path, rgb, flow)
    store = FeatureStore(tmp_path)
    assert np.array_equal(store.video("v1").rgb, rgb)
    assert np.array_equal(store.video("v1").flow, flow)
    assert store.metadata("v1")["extra"]["chunks"] == [{"first": 0}, {"first": 4}, {"first": 8}]
    assert sorted(content(tmp_path)) == ["v1/flow.arrow", "v1/metadata.json", "v1/rgb.arrow"]
    assert not (tmp_path / BUILDING).exists()


CALLS = ("replace", "rename", "pwrite", "fsync", "open", "unlink", "rmdir")


class Died(BaseException):
    """Not an Exception, as a killed process catches nothing either."""


def die_at(death: int, before: bool, patched: pytest.MonkeyPatch) -> list[str]:
    """Makes one system call the last; returns the list that the calls so far are put on."""
    calls: list[str] = []

    def dying(name):
        function = getattr(os, name)

        def call(*arguments, **options):
            calls.append(name)
            if before and len(calls) == death:
                raise Died
            result = function(*arguments, **options)
            if not before and len(calls) == death:
                raise Died
            return result

        return call

    for name in CALLS:
        patched.setattr(os, name, dying(name))
    return calls


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_death_at_any_system_call_loses_no_more_than_a_step(tmp_path, arrays, monkeypatch, before):
    # The metadata holds the name of the store's folder.
    reference = tmp_path / "reference"
    build(reference, *arrays)
    deaths = 0
    while True:
        folder = tmp_path / str(deaths) / reference.name
        with monkeypatch.context() as patched:
            calls = die_at(deaths + 1, before, patched)
            with suppress(Died):
                build(folder, *arrays)
        if len(calls) <= deaths:
            break
        deaths += 1
        store = FeatureStore(folder)
        if store.has("v1"):
            assert np.array_equal(store.video("v1").flow, arrays[1])
        build(folder, *arrays)
        assert content(folder) == content(reference)
    assert deaths > 30


def test_two_builders_of_one_record_do_not_hurt_each_other(tmp_path, arrays):
    rgb, flow = arrays
    first, second = RecordBuilder(tmp_path, "v1"), RecordBuilder(tmp_path, "v1")
    for builder in (first, second):
        builder.finish_decoding(builder.write_frames(rgb), {})
    for chunk in second.missing():
        second.write_chunk(chunk, flow[chunk.first : chunk.first + chunk.pairs], {})
    first.seal(25.0, {})
    with pytest.raises(FileNotFoundError):
        second.write_chunk(Chunk(0, 4), flow[:4], {})
    with pytest.raises(FileNotFoundError):
        second.seal(25.0, {})
    assert sorted(content(tmp_path)) == ["v1/flow.arrow", "v1/metadata.json", "v1/rgb.arrow"]
    assert np.array_equal(FeatureStore(tmp_path).video("v1").flow, flow)


def test_a_record_without_all_its_flow_cannot_be_sealed(tmp_path, arrays):
    rgb, flow = arrays
    builder = RecordBuilder(tmp_path, "v1")
    builder.finish_decoding(builder.write_frames(rgb), {})
    builder.write_chunk(Chunk(0, 4), flow[:4], {})
    with pytest.raises(FeatureError, match="2 chunks lack flow"):
        builder.seal(25.0, {})
    assert not FeatureStore(tmp_path).has("v1")


def test_frames_of_another_size_are_refused(tmp_path, arrays):
    rgb, flow = arrays
    builder = RecordBuilder(tmp_path, "v1")
    with pytest.raises(ValueError, match="a frame is"):
        builder.write_frames(iter([rgb[0], rgb[1, :4]]))
    builder.finish_decoding(builder.write_frames(rgb), {})
    with pytest.raises(ValueError, match="expected int16"):
        builder.write_chunk(Chunk(0, 4), flow[:3], {})


@pytest.mark.parametrize(("shape", "dtype"), [((5, 7, 3), np.uint8), ((6, 4, 2), np.int16)])
def test_the_envelope_makes_a_file_that_arrow_reads(tmp_path, shape, dtype):
    for frames in (1, 2, 17):
        values = np.arange(frames * np.prod(shape)).reshape(frames, *shape).astype(dtype)
        before, after = envelope(frames, shape, np.dtype(dtype))
        assert len(before) == len(envelope(1000, shape, np.dtype(dtype))[0])
        path = tmp_path / f"{frames}.arrow"
        path.write_bytes(before + values.tobytes() + after)
        column = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0)
        assert np.array_equal(column.to_numpy_ndarray(), values)


def test_more_than_two_gigabytes_of_frames_can_be_described(tmp_path):
    shape, frames = (256, 340, 3), 9000
    before, after = envelope(frames, shape, np.dtype(np.uint8))
    path = tmp_path / "long.arrow"
    with open(path, "wb") as handle:
        handle.write(before)
        handle.seek(frames * 256 * 340 * 3, os.SEEK_CUR)
        handle.write(after)
    array = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0).to_numpy_ndarray()
    assert array.shape == (frames, *shape)
    assert not array[-1].any()
