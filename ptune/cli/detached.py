"""Runs a sweep in a session of its own, which outlives the terminal, and tells how it began."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptune.home import Home
from ptune.ledger import Ledger

#: Whoever asked waits this long for the study to be opened; before that features are extracted, which may take longer.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Detached:
    """A sweep in a session of its own.

    Args:
        log: what it prints.
        code: its exit code, None while it runs.
        said: what it printed before it ended.
    """

    study: str
    pid: int
    log: Path
    code: int | None
    said: str

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)

    def text(self) -> str:
        """Returns how it began, how to watch it and how to stop it."""
        if self.code is not None:
            return self.said.rstrip()
        return "\n".join(
            [
                f"{self.study} runs as process {self.pid}, whatever becomes of this terminal.",
                f"Log:   {self.log}",
                f"Watch: ptune status {self.study} --watch",
                f"Stop:  ptune stop {self.study}",
            ]
        )


def detach(arguments: list[str], study: str, home: Home) -> Detached:
    """Starts `ptune` with these arguments and waits until it has opened the study, or has ended."""
    log = home.root / "logs" / f"{study}.log"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        process = subprocess.Popen(
            [sys.executable, "-m", "ptune.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    events = Ledger(home.ledger).study(study)
    until = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < until:
        holder = events.holder()
        if holder is not None and holder.pid == process.pid and events.exists():
            break
        time.sleep(0.1)
    said = log.read_bytes()[before:].decode("utf-8", "replace") if process.returncode is not None else ""
    return Detached(study, process.pid, log, process.returncode, said)
