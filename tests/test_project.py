"""The project keeps its promises about itself: its tree, its start-up and its jobs."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_readmes_tree_is_the_tree():
    block = re.search(r"```text\n(.*?)```", README, re.DOTALL)
    assert block is not None
    named, prefix = set(), ""
    for line in block[1].splitlines():
        match = re.match(r"(\s*)(\S+)\s{2,}\S", line)
        assert match is not None, f"{line!r} gives no role"
        name = match[2]
        if not match[1]:
            prefix = name if name.endswith("/") else ""
            named.add(name.rstrip("/"))
        else:
            named.add((prefix + name).rstrip("/"))
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {path.split("/")[0] for path in tracked} - {".gitignore"}
    rooms = {"/".join(path.split("/")[:2]) for path in tracked if path.startswith("ptune/")} - {"ptune/__init__.py"}
    assert named == top | rooms


def test_command_line_starts_without_the_heavy_libraries():
    code = "import sys, ptune.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "mlflow", "cv2", "optuna", "pandas", "numpy", "av"} & set(loaded)


def test_every_command_shows_an_example():
    from ptune.cli import cli

    def commands(group, path):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, [*path, name])
            else:
                yield [*path, name], command

    for path, command in commands(cli, []):
        if path == ["cohort", "synth"]:
            assert command.epilog
        assert command.epilog is not None, path
        assert "ptune " + " ".join(path) in command.epilog


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_every_job_is_the_command_of_its_name(job, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(job), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(job), run_name="__main__")
    assert end.value.code == 0
    assert f" {job.stem} " in capsys.readouterr().out.splitlines()[0]


def test_readme_shows_the_two_commands():
    assert "make demo" in README
    assert "make test" in README
    ci = (ROOT / ".ci" / "run").read_text()
    assert "make lint" in ci
    assert "make test" in ci


def test_no_file_is_longer_than_a_room_should_be():
    long = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "ptune").rglob("*.py")}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}
