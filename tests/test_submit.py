"""ptune commands as Ray Jobs, on a real head with token authentication, from outside of it."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

import ptune
from ptune.cli import cli, jobs
from ptune.cluster import in_job
from ptune.errors import BadInput, ClusterError, StudyBusy
from ptune.ledger import Ledger
from ptune.ledger.lease import acquire
from ptune.submit import Cluster, Errand
from tests.track.live import free_port
from tests.tune.chaos import ROOT, STUDY, Arena

TOKEN = secrets.token_hex(32)


class Head:
    """`ray start --head` with a dashboard on ports of its own, which wants a token."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="pt", dir="/tmp"))
        (self.folder / "token").write_text(TOKEN)
        self.address = f"http://127.0.0.1:{(port := free_port())}"
        own = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PTUNE_", "MLFLOW_"))}
        agent = ["--dashboard-agent-listen-port", str(free_port())]
        where = ["--node-ip-address", "127.0.0.1", "--port", str(free_port()), "--dashboard-host", "127.0.0.1"]
        size = ["--num-cpus", "2", "--num-gpus", "0", "--object-store-memory", str(100 * 2**20)]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [
                    *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", *where, *agent, *size),
                    *("--dashboard-port", str(port), "--temp-dir", str(self.folder / "ray")),
                ],
                env=kept | own,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._await()

    def _await(self):
        until = time.monotonic() + 90
        while time.monotonic() < until:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                Cluster(self.address)
                return
            except BadInput:
                return
            except ClusterError:
                time.sleep(0.2)
        raise AssertionError("the head did not come up")

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        finally:
            for session in self._left():
                os.killpg(session, signal.SIGKILL)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _left(self):
        """Returns the process groups of this head that live on."""
        found = set()
        for entry in Path("/proc").iterdir():
            try:
                if str(self.folder).encode() in (entry / "cmdline").read_bytes():
                    found.add(os.getpgid(int(entry.name)))
            except (OSError, ValueError):
                continue
        return found - {os.getpgid(0)}


@pytest.fixture(scope="module")
def head():
    running = Head()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("RAY_", "PTUNE_"))]:
        monkeypatch.delenv(name)
    # What Cluster sets is put back, too.
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    root = tmp_path_factory.mktemp("arena")
    return Arena(root, budget={"trials": 1}, stopping="none", fixed={**STUDY["fixed"], "epochs": 1})


def run(*arguments, code=0):
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)
    assert (done.exception, done.return_value) == (None, code), done.output
    return done.output


def shell(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "ptune.cli", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def watching(home, study="hand"):
    """Returns an errand that is at it until somebody ends it."""
    return Errand("status", study, ("--watch", "--home", str(home)), str(home))


def errand(*words, **places):
    with click.Context(cli):
        return jobs._errand(tuple(map(str, words)), places)


def of_another_machine(log, stale_seconds):
    """Takes the lease of a log as a driver on another machine does; returns what ends its heartbeat, as if it died."""
    lease = acquire(log.store, f"{log._folder}/lease", stale_seconds)
    (entry,) = log.store.entries(f"{log._folder}/lease")
    record = json.loads(log.store.read(entry.name))
    log.store.put(entry.name, json.dumps(record | {"machine": "another", "host": "lost-head"}).encode())
    return lease._ended.set


def test_a_sweep_runs_on_the_cluster_as_it_would_here(head, arena, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-clusters")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not-for-clusters")
    study = arena.write_study(
        "there.yaml", budget={"trials": 1}, stopping="none", fixed={**STUDY["fixed"], "epochs": 1}
    )
    (arena.root / "patients.txt").write_text("stays at home")
    home = tmp_path / "home"
    log = Ledger(home / "ledger").study("chaos")
    lose_head = of_another_machine(log, 4.0)
    given = ("--address", head.address, "--home", home, "--features", arena.root / "features")
    run("submit", *given, "sweep", study)
    cluster, written = Cluster(head.address), []

    def read(text):
        written.append(text)
        if "lost-head" in text:
            lose_head()

    assert cluster.follow(cluster.job("chaos"), read).status == "SUCCEEDED"
    printed = "".join(written)
    assert "held by process" in printed
    assert "on lost-head" in printed
    assert "1 trials ended" in printed
    assert [event["kind"] for event in log.events()].count("finished") == 1

    (job,) = json.loads(run("jobs", "--address", head.address, "--json"))
    assert (job["id"], job["status"]) == ("ptune-sweep-chaos-1", "SUCCEEDED")
    stored = Cluster(head.address)._client.get_job_info(job["id"])
    assert not [secret for secret in (TOKEN, "not-for-clusters") if secret in stored.model_dump_json()]
    assert not [name for name in stored.runtime_env["env_vars"] if "TOKEN" in name or "KEY" in name or "URI" in name]
    unpacked = next((head.folder / "ray").glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/"))
    assert [path.name for path in unpacked.iterdir()] == ["there.yaml"]
    travelled = yaml.safe_load((unpacked / "there.yaml").read_text())
    assert travelled["cohort"] == str(arena.root / "cohort" / "cohort.csv")
    assert {**travelled, "cohort": STUDY["cohort"]} == yaml.safe_load(study.read_text())
    assert run("logs", "chaos", "--address", head.address) in printed


def test_a_sweep_that_is_stopped_has_time_to_leave(head, arena, tmp_path):
    fixed = {**STUDY["fixed"], "epochs": 100}
    study = arena.write_study("long.yaml", study="long", budget={"trials": 1}, stopping="none", fixed=fixed)
    given = ("--address", head.address, "--home", tmp_path, "--features", arena.root / "features")
    run("submit", *given, "sweep", study)
    log = Ledger(tmp_path / "ledger").study("long")
    until = time.monotonic() + 120
    while "reported" not in [event["kind"] for event in log.events()]:
        assert time.monotonic() < until
        time.sleep(0.1)
    (stopped,) = json.loads(run("stop", "long", "--address", head.address, "--json"))
    assert stopped["status"] == "STOPPED"
    # It was not killed: its last word is printed, and nobody has to wait for its lease.
    assert "again to go on" in run("logs", stopped["id"], "--address", head.address)
    (lease,) = log.store.entries(f"{log._folder}/lease")
    assert json.loads(log.store.read(lease.name))["released"]


def test_one_job_at_a_time_does_the_same_whoever_submits_it(head, tmp_path):
    cluster, found = Cluster(head.address), []
    ask = watching(tmp_path)
    together = threading.Barrier(3)

    def submit():
        own = Cluster(head.address)
        together.wait()
        found.append(own.submit(ask))

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.job.id for each in found} == {"ptune-status-hand-1"}
    assert sorted(each.new for each in found) == [False, False, True]

    other = cluster.submit(Errand("status", "hand", ("--watch", "--json", "--home", str(tmp_path)), str(tmp_path)))
    assert (other.job.id, other.new, other.same) == ("ptune-status-hand-1", False, False)
    elsewhere = cluster.submit(watching(tmp_path / "of-others"))
    assert (elsewhere.job.id, elsewhere.new) == ("ptune-status-hand-2", True)

    printed = json.loads(run("stop", "hand", "--address", head.address, "--json"))
    assert {each["id"]: each["status"] for each in printed} == {
        "ptune-status-hand-1": "STOPPED",
        "ptune-status-hand-2": "STOPPED",
    }
    assert cluster.submit(ask).job.id == "ptune-status-hand-3"
    cluster.stop(cluster.job("ptune-status-hand-3"))
    with pytest.raises(BadInput, match="no job of it runs"):
        cli(["stop", "hand", "--address", head.address], standalone_mode=False)


def test_who_follows_reads_each_line_once_though_the_stream_breaks_off(head, tmp_path, monkeypatch):
    cluster = Cluster(head.address)
    whole = cluster._client.tail_job_logs
    broken = []

    async def breaks_off(name):
        broken.append(name)
        async for text in whole(name):
            yield text[: len(broken) * 20]
            break
        if len(broken) == 3:
            threading.Thread(target=Cluster(head.address).stop, args=(job,)).start()

    monkeypatch.setattr(cluster._client, "tail_job_logs", breaks_off)
    job = cluster.submit(watching(tmp_path, "lines")).job
    written = []
    ended = cluster.follow(job, written.append)
    assert len(broken) >= 3
    assert "".join(written) == cluster.logs(job)
    assert "Running entrypoint" in "".join(written)
    assert ended.status == "STOPPED"
    run("logs", job.id, "-f", "--address", head.address, code=1)


def test_a_job_without_a_home_is_told_so(head):
    printed = run("submit", "--address", head.address, "-f", "ledger", "check", code=1)
    assert "home: is not given" in printed


@pytest.mark.parametrize(("token", "found"), [("", "wants a token"), ("f" * 64, "refuses this token")])
def test_a_cluster_that_wants_another_token_says_where_to_put_it(head, token, found):
    # Ray keeps the token that a process began with.
    done = shell("jobs", "--address", head.address, RAY_AUTH_TOKEN=token)
    assert done.returncode == 2
    assert f"{found}; expected the token of this cluster. Put it into RAY_AUTH_TOKEN" in done.stderr


def test_the_token_may_lie_in_a_file(head, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(head.folder / "token"))
    assert Cluster(head.address).address == head.address


def test_what_does_not_answer_is_given_up_in_bounded_time(monkeypatch):
    monkeypatch.setattr("ptune.submit.TIMEOUT_SECONDS", (0.5, 0.5))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (free_port(), silent.getsockname()[1]):
            started = time.monotonic()
            with pytest.raises(ClusterError, match="does not answer"):
                Cluster(f"http://127.0.0.1:{port}")
            assert time.monotonic() - started < 5


@pytest.mark.parametrize("given", [None, "auto", "127.0.0.1:6379", "ray://head:10001"])
def test_an_address_is_that_of_a_dashboard(monkeypatch, given):
    with pytest.raises(BadInput, match="--address"):
        Cluster(given)


@pytest.mark.parametrize("module", ["platform.python_version", "ptune.submit.ray.__version__"])
def test_other_versions_are_refused_before_anything_is_uploaded(head, monkeypatch, module):
    monkeypatch.setattr(module, (lambda: "3.99.1") if "python" in module else "2.99.0")
    cluster = Cluster(head.address)
    before = len(cluster.jobs())
    monkeypatch.setattr(cluster._client, "submit_job", lambda **_: pytest.fail("uploaded"))
    with pytest.raises(BadInput, match="Nothing was uploaded"):
        cluster.submit(Errand("doctor", "home", ()))
    assert len(cluster.jobs()) == before


def test_a_job_of_another_ptune_is_refused_where_it_runs():
    done = shell("status", PTUNE_SUBMITTER="0.0.1")
    assert done.returncode == 2
    assert f"ptune on the cluster: is {ptune.__version__}; expected 0.0.1" in done.stderr


def test_only_a_job_waits_for_a_lease_that_may_be_of_the_dead(tmp_path, monkeypatch, capfd):
    log = Ledger(tmp_path).study("hand")
    of_another_machine(log, 1.5)()
    assert not in_job()
    with pytest.raises(StudyBusy), log.lease(inherits=True):
        pass
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(StudyBusy), log.lease():
        pass
    with log.lease(inherits=True):
        pass
    assert "It may be of a lost head" in capfd.readouterr().err


def test_paths_become_whole_and_the_home_is_the_clusters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, entry in {
        ("extract", "cohort.csv", "--size", "40x32"): f"extract --size 40x32 --home /h {tmp_path}/cohort.csv",
        ("register", "hand", "--model=best", "--home", "mine"): f"register --model best --home {tmp_path}/mine hand",
        ("promote", "hand", "--override", "we know"): "promote --override 'we know' --home /h hand",
        ("fuse", "a", "b", "--streams", "a:1", "--streams", "b:2"): "fuse --streams a:1 --streams b:2 --home /h a b",
        (
            "export",
            "hand",
            "--to",
            "x",
            "--ledger",
            "s3://b/l",
        ): f"export --to {tmp_path}/x --home /h --ledger s3://b/l hand",
        ("ledger", "check"): "ledger check --home /h",
        ("cohort", "check", "c.csv", "--folds", "3"): f"cohort check --folds 3 {tmp_path}/c.csv",
    }.items():
        made = errand(*words, home="/h")
        given = made.entrypoint.removeprefix("python -m ptune.cli ")
        assert sorted(given.split()) == sorted(entry.split())
        assert not made.files


def test_an_ablation_travels_with_what_it_extends(tmp_path):
    for file in ("paper_table2.yaml", "paper_table3.yaml"):
        if (ROOT / "search_spaces" / file).exists():
            shutil.copy(ROOT / "search_spaces" / file, tmp_path)
    base = yaml.safe_load((tmp_path / "paper_table2.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"extends": "paper_table2.yaml", "ablation": "mine"}))
    made = errand("ablate", tmp_path / "mine.yaml")
    assert (made.command, made.study, made.arguments) == ("ablate", "mine", ("mine.yaml",))
    assert yaml.safe_load(made.files["mine.yaml"]) == base | {
        "ablation": "mine",
        "cohort": os.path.abspath(tmp_path / base["cohort"]),
    }


def test_a_study_of_another_name_is_another_job(arena):
    assert errand("sweep", arena.study).study == "chaos"
    assert errand("sweep", arena.study, "--as", "chaos-2").study == "chaos-2"


@pytest.mark.parametrize("words", [("ui",), ("demo",), ("jobs",), ("logs", "hand"), ("submit", "ui")])
def test_what_is_for_this_machine_is_not_submitted(words):
    with pytest.raises(click.UsageError, match="this machine"):
        errand(*words)


def test_wrong_command_lines_are_refused_here(arena, tmp_path):
    with pytest.raises(click.UsageError, match="this machine"):
        errand("sweep", arena.study, "--detach")
    with pytest.raises(click.UsageError, match="No such option"):
        errand("sweep", arena.study, "--fast")
    with pytest.raises(click.UsageError, match="lacks a command"):
        errand("ledger")
    with pytest.raises(BadInput, match="no such file"):
        errand("sweep", tmp_path / "none.yaml")
