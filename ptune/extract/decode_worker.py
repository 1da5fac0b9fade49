"""Jobs on standard input become frames on standard output: the child process in which `isolation` decodes videos.

A job is a line of JSON, so that no path stands where other users of the machine can read it. Each answer is a message:
its kind, the lengths of what follows, a JSON header and raw bytes. Nothing that a broken video may have put there is
unpickled, and nothing is written to disk.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

#: Kind, length of the JSON header, length of the bytes.
HEAD = struct.Struct("<cIQ")
#: The child can take jobs; a frame; pictures were decoded, none to be sent; all frames were sent; it could not be done.
READY, FRAME, ALIVE, DONE, FAILED = b"R", b"F", b"A", b"D", b"E"
#: A silence of so many seconds is broken, if only to say that there is progress.
ALIVE_SECONDS = 0.25

_PR_SET_PDEATHSIG = 1


class _Answers:
    """Messages on their way to the parent."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._last = 0.0
        self._pictures = 0

    def send(self, kind: bytes, header: dict[str, Any], payload: Any = b"") -> None:
        """Sends a message; `payload` is contiguous."""
        head, body = json.dumps(header).encode(), memoryview(payload).cast("B")
        self._out.write(HEAD.pack(kind, len(head), len(body)) + head)
        self._out.write(body)
        self._out.flush()
        self._last = time.monotonic()

    def begin(self) -> None:
        """Counts anew."""
        self._pictures = 0

    def progress(self, pictures: int) -> None:
        """Tells now and then how many pictures were decoded."""
        self._pictures += pictures
        if time.monotonic() - self._last > ALIVE_SECONDS:
            self.send(ALIVE, {"pictures": self._pictures})


def main() -> None:
    """Serves jobs until standard input ends.

    The parent's process id and the bytes of memory that may be taken are the arguments.
    """
    parent, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent)
    answers = _Answers(os.fdopen(os.dup(1), "wb"))
    # Whatever a library prints must not get between the messages.
    os.dup2(2, 1)
    from ptune.extract import decode

    _limit(memory_bytes)
    answers.send(READY, {})
    for line in sys.stdin.buffer:
        if not _serve(answers, decode, json.loads(line)):
            return


def _serve(answers: _Answers, decode: Any, job: dict[str, Any]) -> bool:
    """Answers one job; returns whether this process can be used again."""
    from ptune.errors import VideoError

    answers.begin()
    try:
        config = SimpleNamespace(**job["config"])
        part = decode.Part(*job["part"])
        frames = decode.read_frames(Path(job["source"]), config, part, job["allow_damaged"], answers.progress)
        for image in frames:
            answers.send(FRAME, {"shape": image.shape}, image)
        answers.send(DONE, asdict(frames.facts))
    except VideoError as error:
        answers.send(FAILED, {"reason": error.reason, "detail": error.detail})
        return error.reason != "too_large"
    except BrokenPipeError:
        return False
    except Exception as error:
        # Its text could hold a path.
        answers.send(FAILED, {"reason": "crashed", "detail": f"its decoder failed with {type(error).__name__}"})
        return False
    return True


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died before this was asked for.
    if os.getppid() != parent:
        sys.exit(1)


def _limit(memory_bytes: int) -> None:
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_DATA: memory_bytes}
    for name, limit in limits.items():
        hard = resource.getrlimit(name)[1]
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (allowed, allowed))


if __name__ == "__main__":
    main()
