"""A video becomes frames in a child process, so that a broken one can neither crash, nor hang, nor fill this one.

Knows processes, pipes and clocks, and nothing of how videos are decoded.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

import ptune
from ptune.config.extraction import ExtractConfig
from ptune.errors import VideoError
from ptune.extract.decode import WHOLE, Frames, Image, Part, VideoFacts
from ptune.extract.decode_worker import ALIVE, DONE, FAILED, FRAME, HEAD, READY
from ptune.extract.picture import MAX_WORKING_PIXELS

#: What reads a file more slowly than this, in bytes per second, has stopped reading it.
_SLOWEST_READING = 1e6
_LONGEST_HEADER = 1 << 16
_PIPE_BYTES = 1 << 20
_START_SECONDS = 120.0
_DYING_SECONDS = 5.0

#: Kind, header, and uint8 [H,W,3] if it is a frame.
_Message = tuple[bytes, dict[str, Any], Image]

_REASONS = ("unreadable", "damaged", "truncated", "too_short", "too_small", "too_large", "crashed")


@dataclass(frozen=True)
class Limits:
    """What decoding one video may take. Only time spent waiting for the child counts, not what is done with frames.

    Args:
        idle_seconds: without a packet or a picture.
        seconds_per_frame: on average over a video's pictures, with `idle_seconds` and the time to read its file on top.
        memory_bytes: of the child's own.
    """

    idle_seconds: float = 60.0
    seconds_per_frame: float = 2.0
    memory_bytes: int = 4 << 30


class Decoder:
    """Decodes video after video in a child process of its own, as a context manager.

    The child starts with the first video, serves one at a time, and is replaced after it was killed. It dies with this
    process, however that ends, and with this object.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        self.limits = limits
        self._child: _Child | None = None
        self._busy = False

    def frames(self, source: Path, config: ExtractConfig, part: Part = WHOLE, allow_damaged: bool = False) -> Frames:
        """Returns the frames of a video, as `read_frames` does; the video asked for before is abandoned.

        Raises:
            VideoError: while frames are asked for: as `read_frames`, or timeout, too_large (it needed more memory than
                allowed) or crashed.
            RuntimeError: the child process cannot be started, which is no fault of the video.
        """
        return Frames(self._images(Path(source).absolute(), config, part, allow_damaged))

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is no child."""
        return None if self._child is None else self._child.pid

    def close(self) -> None:
        """Ends the child process."""
        child, self._child, self._busy = self._child, None, False
        if child is not None:
            child.end()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _images(
        self, source: Path, config: ExtractConfig, part: Part, allow_damaged: bool
    ) -> Generator[Image, None, VideoFacts]:
        job = {
            "source": str(source),
            "config": config.model_dump(mode="json", exclude={"flow"}),
            "part": [part.start_seconds, part.end_seconds],
            "allow_damaged": allow_damaged,
        }
        if self._busy:
            self.close()
        budget, reusable = _Budget(self.limits, source), False
        child, message = self._begun(json.dumps(job).encode() + b"\n", budget)
        self._busy = True
        try:
            while True:
                kind, header, image = message
                if kind == FRAME:
                    budget.sent += 1
                    yield image
                elif kind == ALIVE:
                    budget.decoded = int(header["pictures"])
                elif kind == DONE:
                    reusable = True
                    return VideoFacts(**header)
                elif kind == FAILED and header["reason"] in _REASONS:
                    reusable = header["reason"] not in ("too_large", "crashed")
                    raise VideoError(header["reason"], str(header["detail"]))
                else:
                    raise _nonsense()
                if child is not self._child:
                    raise RuntimeError("its decoder was given another video")
                message = child.message(budget)
        except (KeyError, TypeError):
            raise _nonsense() from None
        finally:
            if child is self._child:
                self._busy = False
                if not reusable:
                    self.close()

    def _begun(self, job: bytes, budget: _Budget) -> tuple[_Child, _Message]:
        """Gives the job to the child, and returns its first answer.

        One that served before may have died since, or may die of what an earlier video did to it: then the job is given
        to a new one.
        """
        while True:
            fresh = self._child is None or not self._child.lives()
            if fresh:
                self.close()
                self._child = _Child(self.limits.memory_bytes)
                self._child.start()
            child = self._child
            assert child is not None
            try:
                child.send(job)
                return child, child.message(budget)
            except VideoError as error:
                self.close()
                if fresh or error.reason != "crashed":
                    raise
            except BaseException:
                self.close()
                raise


class _Budget:
    """How long the parent may still wait for a video."""

    def __init__(self, limits: Limits, source: Path) -> None:
        self._limits = limits
        self._waited = 0.0
        self.sent = self.decoded = 0
        size = 0
        with contextlib.suppress(OSError):
            size = source.stat().st_size
        self._reading_seconds = size / _SLOWEST_READING

    def wait(self, poll: select.poll) -> None:
        """Returns when there is something to read.

        Raises:
            VideoError: timeout.
        """
        limits = self._limits
        pictures = max(self.sent, self.decoded)
        total = limits.idle_seconds + self._reading_seconds + limits.seconds_per_frame * pictures
        start = time.monotonic()
        found = poll.poll(1000 * max(0.0, min(limits.idle_seconds, total - self._waited)))
        self._waited += time.monotonic() - start
        if not found:
            raise VideoError("timeout", f"{pictures} pictures decoded in {self._waited:.0f} seconds, then no more")


class _Child:
    """The process and its pipes."""

    def __init__(self, memory_bytes: int) -> None:
        folders = [str(Path(ptune.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {
            "PYTHONPATH": os.pathsep.join(folder for folder in folders if folder),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, "-P", "-m", "ptune.extract.decode_worker", str(os.getpid()), str(memory_bytes)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # libav prints paths there.
            stderr=subprocess.DEVNULL,
            env=os.environ | environment,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self._in: IO[bytes] = self._process.stdin
        self._out = self._process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self.end = weakref.finalize(self, _end, self._process, os.getpid())
        with contextlib.suppress(AttributeError, OSError):
            fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def start(self) -> None:
        """Waits until the process can take jobs.

        Raises:
            RuntimeError: it cannot.
        """
        try:
            kind = self.message(_Budget(Limits(idle_seconds=_START_SECONDS), Path(os.devnull)))[0]
        except VideoError as error:
            raise RuntimeError(f"the process that decodes videos does not start: {error.detail}") from None
        assert kind == READY

    def lives(self) -> bool:
        """Returns whether the process is there."""
        return self._process.poll() is None

    def send(self, job: bytes) -> None:
        """Hands over a job.

        Raises:
            VideoError: crashed.
        """
        try:
            self._in.write(job)
        except BrokenPipeError:
            raise self._death() from None

    def message(self, budget: _Budget) -> _Message:
        """Returns the next message: its kind, its header and, for a frame, uint8 [H,W,3].

        Raises:
            VideoError: timeout or crashed.
        """
        kind, length, size = HEAD.unpack(self._read(HEAD.size, budget).data)
        if length > _LONGEST_HEADER:
            raise _nonsense()
        try:
            header = dict(json.loads(bytes(self._read(length, budget))))
            height, width = (int(side) for side in header["shape"][:2]) if kind == FRAME else (0, 0)
        except (KeyError, TypeError, ValueError):
            raise _nonsense() from None
        if min(height, width) < 0 or height * width > MAX_WORKING_PIXELS or size != 3 * height * width:
            raise _nonsense()
        return kind, header, self._read(size, budget).reshape(height, width, 3)

    def _read(self, size: int, budget: _Budget) -> Image:
        content = np.empty(size, np.uint8)
        missing = content.data
        while missing:
            budget.wait(self._poll)
            count = os.readv(self._out, [missing])
            if not count:
                raise self._death()
            missing = missing[count:]
        return content

    def _death(self) -> VideoError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._process.wait(_DYING_SECONDS)
            if status < 0:
                return VideoError("crashed", f"its decoder was ended by {signal.Signals(-status).name}")
            return VideoError("crashed", f"its decoder ended with status {status}")
        return VideoError("crashed", "its decoder closed its output")


def _nonsense() -> VideoError:
    # A decoder whose memory was overwritten can send anything.
    return VideoError("crashed", "its decoder's answer makes no sense")


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:
        # A fork of the owner, which has the object but not the process.
        return
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()
