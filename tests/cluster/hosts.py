"""Hosts of a cluster on one machine: each has an address, a name, processes and scratch of its own.

A host is a set of Linux namespaces. Its first process is its power switch: when that is killed, all others are. Hosts
meet at a switch, from which one can be unplugged. The folder `/mnt` is what those share that are given it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = ("ip", "unshare", "nsenter", "mount")
SUBNET = "10.77.0"
SHARED = Path("/mnt")
#: Where a host keeps what is its own.
SCRATCH = Path("/var/tmp")


def why_not() -> str:
    """Returns why hosts cannot be made here, or nothing."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"needs the programs {', '.join(missing)} (iproute2, util-linux)"
    probe = [
        "unshare",
        "--net",
        "--mount",
        "--uts",
        "--pid",
        "--fork",
        "ip",
        "link",
        "add",
        "name",
        "a",
        "type",
        "bridge",
    ]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"needs the right to make network namespaces: {done.stderr.strip()}" if done.returncode else ""


def run(*command: str) -> None:
    subprocess.run(command, check=True)


class Network:
    """A switch, and the names of those who are plugged into it.

    Args:
        folder: for the scratch of hosts.
        names: of hosts, in the order of their addresses.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.switch = f"pt{os.getpid()}-switch"
        self.addresses = {name: f"{SUBNET}.{number}" for number, name in enumerate(names, 1)}
        self.names = folder / "hosts"
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.addresses.items())]
        self.names.write_text("\n".join(lines) + "\n")
        self.hosts: list[Host] = []
        run("ip", "netns", "add", self.switch)
        run("ip", "-n", self.switch, "link", "add", "switch", "type", "bridge")
        run("ip", "-n", self.switch, "link", "set", "switch", "up")

    def host(self, name: str, shared: Path | None = None, environment: dict[str, str] | None = None) -> Host:
        """Returns a host that runs; a former one of this name is replaced and keeps its scratch."""
        host = Host(self, name, shared, environment or {})
        self.hosts.append(host)
        return host

    def close(self) -> None:
        """Ends every host."""
        for host in self.hosts:
            host.kill()
        run("ip", "netns", "delete", self.switch)


class Host:
    """One host; see `Network.host`."""

    def __init__(self, network: Network, name: str, shared: Path | None, environment: dict[str, str]) -> None:
        self.network, self.name, self.address = network, name, network.addresses[name]
        self.shared, self.given = shared, environment
        self.scratch = network.folder / name
        (self.scratch / "home").mkdir(parents=True, exist_ok=True)
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(SCRATCH / "home"),
            "TMPDIR": str(SCRATCH),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        } | environment
        self.namespace = f"pt{os.getpid()}-{name}"
        self.jobs: list[subprocess.Popen[bytes]] = []
        self._start()

    def _start(self) -> None:
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", self.network.switch, "link", "add", self.name, "type", "veth", "peer", "name", "eth0",
            "netns", self.namespace)  # fmt: skip
        run("ip", "-n", self.network.switch, "link", "set", self.name, "master", "switch", "up")
        run("ip", "-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            run("ip", "-n", self.namespace, "link", "set", device, "up")
        script = [
            f"hostname {self.name}",
            f"mount --bind {self.scratch} {SCRATCH}",
            f"mount --bind {self.network.names} /etc/hosts",
            "mount -t tmpfs -o size=1g tmpfs /dev/shm",
            f"mount --bind {self.shared} {SHARED}" if self.shared else f"mount -t tmpfs tmpfs {SHARED}",
            "touch /var/tmp/ready",
            # The first process of a host adopts orphans.
            "trap : CHLD; while :; do sleep 1; done",
        ]
        (self.scratch / "ready").unlink(missing_ok=True)
        self.outer = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--uts", "--pid", "--fork",
             "--kill-child", "--mount-proc", "bash", "-ec", "\n".join(script)],
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(
            lambda: (self.scratch / "ready").exists() or self.outer.poll() is not None, 20, f"{self.name} starts"
        )
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
        self.first = int(children[0])

    def start(self, *command: str, log: str, user: str = "", **environment: str) -> subprocess.Popen[bytes]:
        """Starts a command here and returns its process; what it prints is appended to a file in the host's scratch."""
        with open(self.scratch / log, "ab") as out:
            process = subprocess.Popen(
                self._inside(command, user),
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.jobs.append(process)
        return process

    def run(self, *command: str, user: str = "", timeout: float = 300, **environment: str) -> str:
        """Runs a command here and returns what it printed.

        Raises:
            AssertionError: it failed; says what it printed.
        """
        code, printed = self.attempt(*command, user=user, timeout=timeout, **environment)
        assert code == 0, f"on {self.name}, {' '.join(command)}: {printed[-4000:]}"
        return printed

    def attempt(self, *command: str, user: str = "", timeout: float = 300, **environment: str) -> tuple[int, str]:
        """Runs a command here and returns its exit code and what it printed."""
        done = subprocess.run(
            self._inside(command, user),
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.returncode, done.stdout

    def _inside(self, command: Sequence[str], user: str) -> list[str]:
        as_user = ["runuser", "-u", user, "--"] if user else []
        return ["nsenter", "-t", str(self.first), "-m", "-u", "-n", "-p", f"--wdns={SCRATCH}", *as_user, *command]

    def unplug(self) -> None:
        """Cuts the host off the others."""
        run("ip", "-n", self.network.switch, "link", "set", self.name, "down")

    def plug(self) -> None:
        """Ends `unplug`."""
        run("ip", "-n", self.network.switch, "link", "set", self.name, "up")

    def kill(self) -> None:
        """Takes the host's power: every process ends, without a word to anybody."""
        if self.outer.poll() is None:
            os.kill(self.first, signal.SIGKILL)
            self.outer.wait()
            for job in self.jobs:
                job.wait()
            self.jobs.clear()
            run("ip", "netns", "delete", self.namespace)

    def restart(self) -> None:
        """Takes the host's power and gives it back; nothing is started on it."""
        self.kill()
        self._start()


def wait_until(condition, seconds: float, what: str, each: float = 0.1) -> None:
    """Waits for `condition` to return something.

    Raises:
        AssertionError: it does not.
    """
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {seconds:.0f} s"
        time.sleep(each)
