"""The driver's machine becomes metrics `system/...` of a study's run, by MLflow's own collectors."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from ptune.track.store import STUDY_RUN, RunStore

from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor  # isort: skip  # store.py sets MLflow up first
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor  # isort: skip
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor  # isort: skip
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor  # isort: skip

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

#: Samples that wait for a server; at ten seconds each, the last hour.
WAITING = 360


class Machine:
    """Samples processor, memory, disk, network and, where NVIDIA's library finds some, the GPUs of this machine."""

    def __init__(self) -> None:
        self.monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with suppress(Exception):  # No library, no driver or no GPU, each with an error of its own.
            self.monitors.append(GPUMonitor())
        self.waiting: deque[tuple[int, dict[str, float]]] = deque(maxlen=WAITING)
        self._sampled = 0.0
        self._sent = -1

    def sample(self, every: float) -> None:
        """Takes a sample, if the last is at least `every` seconds and at least one second old."""
        now = time.time()
        if now < self._sampled + max(every, 1.0):
            return
        self._sampled = now
        found: dict[str, float] = {}
        for monitor in self.monitors:
            monitor.collect_metrics()
            found |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        self.waiting.append((int(now), found))

    def send(self, store: RunStore) -> None:
        """Logs the samples that wait, one for each second; a step is the seconds since the run began."""
        run = store.known[STUDY_RUN]
        points = []
        for second, sample in self.waiting:
            step = second - run.started // 1000
            if step > self._sent:
                points += [(f"system/{name}", value, step) for name, value in sample.items()]
                self._sent = step
        store.log_metrics(run, points)
        self.waiting.clear()
