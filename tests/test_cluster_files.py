"""What the docs give for making a cluster is whole: parsed by those who read it, or run."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from ptune.track.server import ask_server
from tests.track.live import free_port

ROOT = Path(__file__).parents[1]
FILES = ROOT / "docs" / "cluster"
TEXT = (ROOT / "docs" / "cluster.md").read_text()
CLUSTER = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_ray_takes_its_cluster_file():
    import jsonschema
    import ray
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(CLUSTER, schema)
    prepared = prepare_config(CLUSTER)
    validate_config(prepared)
    workers = prepared["available_node_types"]["gpu_worker"]
    assert (workers["min_workers"], workers["max_workers"], prepared["max_workers"]) == (0, 8, 8)
    assert prepared["available_node_types"]["head"]["resources"] == {"CPU": 0, "GPU": 0}


def test_no_command_starts_ray_without_a_token():
    environment = (FILES / "environment.sh").read_text()
    assert "\nRAY_AUTH_MODE=token\n" in environment
    assert "RAY_AUTH_MODE" in environment.splitlines()[-1], "exported"
    commands = CLUSTER["head_start_ray_commands"] + CLUSTER["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    for command in starts:
        assert command.startswith(". ~/ptune-source/docs/cluster/environment.sh && ")
    assert "chmod 600 ~/.ray/auth_token" in CLUSTER["setup_commands"][0]
    for name in ("node.sh", "slurm.sh"):
        before, _, _ = (FILES / name).read_text().partition("ray start -")
        assert '/environment.sh"' in before


@pytest.mark.parametrize("script", sorted(FILES.glob("*.sh")), ids=lambda path: path.stem)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", script], check=True)


def test_every_command_of_the_cluster_file_parses():
    for key in ("initialization_commands", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in CLUSTER[key]:
            subprocess.run(["bash", "-nc", command], check=True)


def test_a_host_without_a_token_starts_nothing(tmp_path):
    done = subprocess.run(
        ["bash", FILES / "node.sh", "head"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "no token at" in done.stderr


def status(url, host):
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers={"Host": host}), timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def test_mlflows_server_keeps_runs_on_its_hosts_disk_and_answers_to_its_own_names(tmp_path):
    port = free_port()
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            ["bash", FILES / "mlflow-server.sh", "--port", str(port), "--workers", "1"],
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(tmp_path),
                "PTUNE_HOME": str(tmp_path / "home"),
            },
            stdout=log,
            stderr=log,
        )
    try:
        url, until = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1", time.monotonic() + 240
        while status(url, "localhost:5000") != 200:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.5)
        assert status(url, "evil.example") == 403
        asked = ask_server(f"http://127.0.0.1:{port}")
        assert asked.problem == "does not answer to this name"
        assert f"--allowed-hosts 127.0.0.1:{port}" in asked.remedy
        store = tmp_path / ".ptune" / "mlflow.db"
        assert store.exists()
        assert store.stat().st_mode & 0o077 == 0, "others do not read it"
    finally:
        process.terminate()
        process.wait(timeout=30)


def pods(document):
    """Returns the pod specs of a RayCluster's spec by the name of their group."""
    groups = {"head": document["headGroupSpec"]} | {group["groupName"]: group for group in document["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in groups.items()}


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_kubernetes_manifests_agree_with_the_lock_and_among_themselves(name):
    import ray

    documents = list(yaml.safe_load_all((FILES / name).read_text()))
    ours = documents[-1]
    assert ours["apiVersion"] == "ray.io/v1"
    cluster = ours["spec"] if ours["kind"] == "RayCluster" else ours["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    for group, pod in pods(cluster).items():
        (container,) = pod["containers"]
        environment = {item["name"]: item for item in container["env"]}
        assert environment["RAY_AUTH_MODE"]["value"] == "token"
        assert "secretKeyRef" in environment["RAY_AUTH_TOKEN"]["valueFrom"], "no token in a file"
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (group != "head")
    head = cluster["headGroupSpec"]["rayStartParams"]
    assert (head["num-cpus"], head["num-gpus"]) == ("0", "0")
    if ours["kind"] == "RayJob":
        words = shlex.split(ours["spec"]["entrypoint"])
        assert words[:3] == ["python", "-m", "ptune.cli"]
        require_command(words[3:])


def test_the_image_has_the_lock_and_demands_a_token():
    steps = re.findall(r"^([A-Z]+) ((?:.*\\\n)*.*)$", (FILES / "Dockerfile").read_text(), re.MULTILINE)
    assert [step for step, _ in steps] == ["FROM", "RUN", "COPY", "RUN", "USER", "WORKDIR", "ENV"]
    assert steps[0][1].startswith("python:3.11-")
    assert "--constraint /opt/ptune/constraints.txt" in steps[3][1]
    assert "RAY_AUTH_MODE=token" in steps[-1][1]
    assert dict(steps)["USER"] != "root"


def require_command(words):
    """Parses a ptune command line as the shell would, without running it."""
    import click

    from ptune.cli import cli

    name, command, rest = "ptune", cli, words
    context = click.Context(cli, info_name=name)
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, rest)
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=name, parent=context)
    context = command.make_context(name, list(rest), parent=context)
    return command, context.params


def test_every_ptune_command_in_the_docs_is_one():
    blocks = "\n".join(line for line in TEXT.splitlines() if line.startswith("    "))
    lines = re.findall(r"^    (ptune .*?)(?:  #.*)?$", blocks, re.MULTILINE)
    lines += re.findall(r"`(ptune (?!-)[^`]*)`", TEXT.replace("\n  ", " "))
    assert len(lines) > 8
    for line in lines:
        words = shlex.split(line)[1:]
        if len(words) > 1:
            command, given = require_command(words)
            if command.name == "submit":
                require_command(list(given["command"]))


def test_every_promise_names_a_test_that_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)
    assert len(named) > 10
    for path, function in named:
        assert f"def {function}(" in (ROOT / path).read_text(), (path, function)


def test_every_file_that_the_docs_name_exists():
    for path in re.findall(r"docs/cluster/[\w.-]+", TEXT + (ROOT / "ray_cluster.yaml").read_text()):
        assert (ROOT / path).is_file(), path
