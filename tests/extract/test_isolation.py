import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest

import ptune
from ptune.config import ExtractConfig
from ptune.errors import VideoError
from ptune.extract.decode import Part, read_frames
from ptune.extract.isolation import Decoder, Limits
from tests.extract.clips import panning, write_clip

SMALL = ExtractConfig(width=80, height=60)
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at processes through /proc")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "S014_visit_2.mp4", panning(frames=40))


def status(pid, field):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return line.split()[1]
    return ""


def gone(pid, seconds=10):
    """Waits until a process is neither alive nor a zombie."""
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def children():
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


def test_the_child_returns_what_this_process_would(clip):
    here = read_frames(clip, SMALL, Part(0.2, 1.0))
    expected = np.stack(list(here))
    with Decoder() as decoder:
        for _ in range(2):
            there = decoder.frames(clip, SMALL, Part(0.2, 1.0))
            assert np.array_equal(np.stack(list(there)), expected)
            assert there.facts == here.facts


def test_one_child_serves_video_after_video(clip, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with Decoder() as decoder:
        assert decoder.pid is None
        list(decoder.frames(clip, SMALL))
        pid = decoder.pid
        with pytest.raises(VideoError, match="unreadable"):
            list(decoder.frames(tmp_path / "bad.mp4", SMALL))
        list(decoder.frames(clip, SMALL))
        assert decoder.pid == pid
    assert decoder.pid is None


def test_what_is_known_comes_after_the_last_frame(clip):
    with Decoder() as decoder:
        frames = decoder.frames(clip, SMALL)
        next(frames)
        with pytest.raises(RuntimeError, match="after its last frame"):
            _ = frames.facts
        assert sum(1 for _ in frames) == 39
        assert frames.facts.frames == 40


def test_a_video_can_be_left_in_the_middle(clip):
    with Decoder() as decoder:
        first = decoder.frames(clip, ExtractConfig(width=640, height=480))
        next(first)
        assert len(list(decoder.frames(clip, SMALL))) == 40
        with pytest.raises(RuntimeError, match="another video"):
            next(first)
        next(decoder.frames(clip, SMALL))
        gc.collect()
        assert len(list(decoder.frames(clip, SMALL))) == 40


@LINUX
@pytest.mark.parametrize("blow", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_crash_is_the_video_s_and_not_ours(clip, blow):
    with Decoder() as decoder:
        frames = decoder.frames(clip, ExtractConfig(width=640, height=480))
        next(frames)
        pid = decoder.pid
        os.kill(pid, blow)
        with pytest.raises(VideoError, match=f"crashed: its decoder was ended by {blow.name}"):
            list(frames)
        assert gone(pid)
        assert len(list(decoder.frames(clip, SMALL))) == 40
        assert decoder.pid != pid


@LINUX
def test_a_child_that_died_between_videos_is_replaced_in_silence(clip):
    with Decoder() as decoder:
        list(decoder.frames(clip, SMALL))
        os.kill(decoder.pid, signal.SIGKILL)
        assert len(list(decoder.frames(clip, SMALL))) == 40


def test_a_child_that_stops_is_not_waited_for(clip):
    with Decoder(Limits(idle_seconds=1)) as decoder:
        frames = decoder.frames(clip, ExtractConfig(width=640, height=480))
        next(frames)
        os.kill(decoder.pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(VideoError, match="timeout"):
            list(frames)
        assert time.monotonic() - start < 5
        assert len(list(decoder.frames(clip, SMALL))) == 40


def test_a_slow_consumer_is_no_slow_decoder(clip):
    with Decoder(Limits(idle_seconds=1)) as decoder:
        frames = decoder.frames(clip, ExtractConfig(width=640, height=480))
        next(frames)
        time.sleep(1.5)
        assert sum(1 for _ in frames) == 39


@LINUX
def test_no_child_is_left_and_no_zombie(clip, tmp_path):
    before = children()
    pipe = tmp_path / "never.mp4"
    os.mkfifo(pipe)
    for _ in range(3):
        with Decoder(Limits(idle_seconds=1)) as decoder:
            list(decoder.frames(clip, SMALL))
            with pytest.raises(VideoError, match="timeout"):
                list(decoder.frames(pipe, SMALL))
            next(decoder.frames(clip, SMALL))
    forgotten = Decoder()
    list(forgotten.frames(clip, SMALL))
    pid = forgotten.pid
    del forgotten
    gc.collect()
    assert gone(pid)
    assert children() == before


@LINUX
def test_the_child_is_on_its_own(clip):
    """Its path is in no list of processes, it writes no file, leaves no core, and Ctrl-C is not for it."""
    with Decoder() as decoder:
        frames = decoder.frames(clip, ExtractConfig(width=640, height=480))
        next(frames)
        pid = decoder.pid
        for name in ("cmdline", "environ"):
            assert b"S014" not in Path(f"/proc/{pid}/{name}").read_bytes()
        assert os.getsid(pid) != os.getsid(0)
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        found = {line[:26].strip(): line[26:].split()[0] for line in limits}
        assert found["Max core file size"] == found["Max file size"] == "0"
        assert int(found["Max data size"]) == Limits().memory_bytes
        os.kill(pid, signal.SIGINT)
        assert sum(1 for _ in frames) == 39
        assert len(list(decoder.frames(clip, SMALL))) == 40
        assert decoder.pid == pid


OWNER = """
import os, signal, sys
from pathlib import Path
from ptune.config import ExtractConfig
from ptune.extract.isolation import Decoder

decoder = Decoder()
frames = decoder.frames(Path(sys.argv[1]), ExtractConfig(width=640, height=480))
next(frames)
print(decoder.pid, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@LINUX
@pytest.mark.parametrize("end", ["killed", "finished"])
def test_the_child_dies_with_its_owner(clip, end):
    owner = subprocess.run(
        [sys.executable, "-c", OWNER, str(clip), end], capture_output=True, text=True, timeout=60, check=False
    )
    assert owner.returncode == (-signal.SIGKILL if end == "killed" else 0), owner.stderr
    assert gone(int(owner.stdout))


@LINUX
def test_a_copy_of_ptune_elsewhere_starts_its_own_child(clip, tmp_path):
    code = tmp_path / "model" / "code"
    shutil.copytree(Path(ptune.__file__).parent, code / "ptune", ignore=shutil.ignore_patterns("__pycache__"))
    script = OWNER.replace(
        "print(", "print(Path(f'/proc/{decoder.pid}/environ').read_bytes().split(b'PYTHONPATH=')[1]);print("
    )
    start = f"import sys; sys.path.insert(0, {str(code)!r})\n"
    owner = subprocess.run(
        [sys.executable, "-c", start + script, str(clip), "finished"],
        capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert str(code) in owner.stdout.splitlines()[0]


def test_a_child_that_cannot_start_is_no_fault_of_the_video(clip, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Decoder() as decoder, pytest.raises(RuntimeError, match="does not start"):
        list(decoder.frames(clip, SMALL))


def test_what_libraries_print_does_not_reach_the_frames(tmp_path, capfd):
    path = write_clip(tmp_path / "a.mp4", panning(frames=20))
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    capfd.readouterr()
    with Decoder() as decoder, pytest.raises(VideoError, match="damaged"):
        list(decoder.frames(path, SMALL))
    assert capfd.readouterr() == ("", "")


def test_a_thread_that_ends_takes_the_child_along_and_it_is_replaced(clip):
    with Decoder() as decoder:
        thread = threading.Thread(target=lambda: list(decoder.frames(clip, SMALL)))
        thread.start()
        thread.join()
        assert len(list(decoder.frames(clip, SMALL))) == 40


def looped(path, clip, times):
    """The same packets over and over."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [(bytes(packet), packet.dts, packet.is_keyframe) for packet in source.demux(stream) if packet.size]
        for repeat in range(times):
            for content, dts, key in packets:
                packet = av.Packet(content)
                packet.stream, packet.time_base, packet.is_keyframe = copy, stream.time_base, key
                packet.pts = packet.dts = dts + repeat * stream.duration
                target.mux(packet)
    return path


@LINUX
def test_memory_does_not_grow_with_length(tmp_path):
    short = write_clip(tmp_path / "short.mp4", np.tile(panning(frames=50), (10, 1, 1, 1)))
    taken = {}
    for count, path in ((500, short), (5000, looped(tmp_path / "long.mp4", short, 10))):
        with Decoder() as decoder:
            tracemalloc.start()
            assert sum(1 for _ in decoder.frames(path, SMALL)) == count
            here = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            taken[count] = here, int(status(decoder.pid, "VmHWM")) << 10
    assert taken[5000][0] < taken[500][0] + (1 << 20)
    assert taken[5000][1] < taken[500][1] + (8 << 20)
