"""A Ray cluster of three hosts with an MLflow server over PostgreSQL, started as docs/cluster.md says, and a laptop.

The head runs no trials. Each worker has a core, its own disk, and `/mnt`, which it shares with the head. The database
has a host of its own. The laptop stands outside: it has neither the shared folder nor the network of the workers' Ray,
only the head's address.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from tests.cluster.hosts import ROOT, Host, Network, wait_until

HEAD, WORKERS, DATABASE, LAPTOP = "head", ("worker-1", "worker-2"), "database", "laptop"
ADDRESS = f"http://{HEAD}:8265"
TRACKING = f"http://{HEAD}:5000"
POSTGRES_USER = "postgres"
SCRIPTS = ROOT / "docs" / "cluster"
#: A host's Ray is started again when it ends, as a service manager does it.
AGAIN = 'while :; do "$@"; sleep 2; done'


def postgres_programs() -> Path | None:
    """Returns the folder of PostgreSQL's programs, where it is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    given = shutil.which("initdb")
    return found[-1].parent if found else Path(given).parent if given else None


class Cluster:
    """See the module.

    Args:
        folder: empty; for the hosts' scratch and the shared folder.
    """

    def __init__(self, folder: Path) -> None:
        self.shared = folder / "shared"
        self.shared.mkdir(parents=True)
        # PostgreSQL runs as another user, who has to reach its files.
        for part in (folder, *folder.parents):
            if part.stat().st_uid == os.getuid() and part != Path("/"):
                part.chmod(part.stat().st_mode | 0o011)
        token = folder / "auth_token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.network = Network(folder, [HEAD, *WORKERS, DATABASE, LAPTOP])
        everywhere = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
        inside = everywhere | {"PTUNE_HOME": "/mnt/home", "MLFLOW_TRACKING_URI": TRACKING}
        self.database = self.network.host(DATABASE)
        self.head = self.network.host(HEAD, self.shared, inside)
        self.workers = [self.network.host(name, self.shared, inside) for name in WORKERS]
        self.laptop = self.network.host(LAPTOP, environment=everywhere | {"RAY_API_SERVER_ADDRESS": ADDRESS})

    def start(self) -> None:
        """Starts everything and waits until it is there."""
        self.start_database()
        self.start_head()
        for worker in self.workers:
            self.start_worker(worker)
        self.await_workers(len(self.workers))

    def start_database(self) -> None:
        """Starts PostgreSQL, with what it had."""
        programs, data = postgres_programs(), self.database.scratch / "data"
        if not data.exists():
            data.mkdir()
            self.database.run("chown", POSTGRES_USER, "/var/tmp/data", "/var/tmp/home")
            self._as_postgres(f"{programs}/initdb", "-D", "/var/tmp/data", "--auth=trust", "--no-sync", timeout=120)
            with open(data / "pg_hba.conf", "a") as lines:
                lines.write("host all all 10.77.0.0/24 trust\n")
        options = f"-h {self.database.address} -k /var/tmp/home"
        self._as_postgres(
            f"{programs}/pg_ctl", "-D", "/var/tmp/data", "-o", options, "-l", "/var/tmp/data/log", "start"
        )

    def stop_database(self) -> None:
        """Ends PostgreSQL; whoever is connected is thrown out."""
        self._as_postgres(f"{postgres_programs()}/pg_ctl", "-D", "/var/tmp/data", "-m", "immediate", "stop")

    def _as_postgres(self, *command: str, timeout: float = 60) -> None:
        self.database.run(*command, user=POSTGRES_USER, timeout=timeout, HOME="/var/tmp/home")

    def start_head(self) -> None:
        """Starts the head's Ray and MLflow's server, and waits for both."""
        store = self.head.scratch / "home" / ".ptune" / "mlflow-store"
        store.parent.mkdir(exist_ok=True)
        store.write_text(f"postgresql://{POSTGRES_USER}@{DATABASE}/postgres\n")
        self._ray(self.head, "head", f"--dashboard-host={self.head.address}")
        where = ["--host", self.head.address, "--allowed-hosts", f"{HEAD}:5000", "--workers", "1"]
        self.head.start("bash", str(SCRIPTS / "mlflow-server.sh"), *where, log="mlflow.log")
        wait_until(lambda: self._answers(f"{TRACKING}/health"), 120, "MLflow's server")
        wait_until(lambda: self._answers(f"{ADDRESS}/api/version"), 120, "Ray's dashboard")

    def start_worker(self, worker: Host) -> None:
        """Starts a worker's Ray."""
        self._ray(worker, "worker", HEAD, "--num-cpus=1")

    def await_workers(self, count: int) -> None:
        """Waits until Ray has so many workers."""
        wait_until(lambda: self.alive() == count + 1, 120, f"{count} workers", each=1)

    def alive(self) -> int:
        """Returns how many nodes Ray believes to be there."""
        script = "import ray; ray.init(address='auto', log_to_driver=False, logging_level='ERROR');" \
                 "print('NODES', sum(node['Alive'] for node in ray.nodes()))"  # fmt: skip
        code, printed = self.head.attempt("python", "-c", script)
        return int(printed.rpartition("NODES")[2]) if code == 0 else 0

    def _ray(self, host: Host, *role: str) -> None:
        own = [f"--node-ip-address={host.address}", "--temp-dir=/var/tmp/ray", f"--object-store-memory={200 * 2**20}"]
        host.start("bash", "-c", AGAIN, "service", "bash", str(SCRIPTS / "node.sh"), *role, *own, log="ray.log")

    def submit(self, *command: str) -> str:
        """Runs a command of ptune as a job, from the laptop, and returns what it printed."""
        return self.laptop.run("ptune", "submit", "--follow", *command)

    def begin(self, *command: str) -> subprocess.Popen[bytes]:
        """Starts a command of ptune as a job, from the laptop, and returns who follows it."""
        return self.laptop.start("ptune", "submit", "--follow", *command, log="jobs.log")

    def _answers(self, address: str) -> bool:
        script = "import sys,urllib.request,urllib.error\n" \
                 "try: urllib.request.urlopen(sys.argv[1],timeout=5)\n" \
                 "except urllib.error.HTTPError: pass"  # fmt: skip
        return self.laptop.attempt("python", "-c", script, address)[0] == 0

    def close(self) -> None:
        """Ends all hosts."""
        self.network.close()
