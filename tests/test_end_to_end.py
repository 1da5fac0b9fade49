"""From videos to a promoted champion through the command line, with real Ray, MLflow and files.

A made-up patient's name is in every file name and in the subject column; it must not get out.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

import ptune
from ptune.cohort.synthetic import SyntheticConfig, render_cohort
from ptune.config import StudyConfig
from ptune.errors import BadInput, RegistryError
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import read_study
from ptune.track.bundle import Bundle
from ptune.track.registry import Registry
from ptune.tune.study import sweep
from ptune.upkeep.collect import find_garbage

CANARY = "Ottilie-Quendrick"
STUDY = {
    "study": "hand",
    "cohort": "cohort/cohort.csv",
    "task": "hand",
    "folds": {"count": 2},
    "budget": {"trials": 2},
    "finalists": {"count": 1},
    "init": "random",
    "stopping": "none",
    "extraction": {"width": 40, "height": 32},
    "space": {
        "modality": {"choice": ["flow", "mb"]},
        "segments": {"int": [1, 3]},
        "attention": {"choice": [True, False]},
    },
    "fixed": {
        "epochs": 2,
        "batch_size": 4,
        "snippet_frames": 8,
        "learning_rate": 0.002,
        "width": 0.125,
        "crop": 24,
        "attention_width": 8,
        "validation": {"snippets": 1, "frames": 8},
        "test": {"snippets": 2, "frames": 8},
    },
}


class World:
    """A folder with a cohort, a study and a home."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, root / "home"
        self.ray = root / "ray"
        self.environment = os.environ | {
            "PTUNE_HOME": str(self.home),
            "RAY_TMPDIR": str(self.ray),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        cohort = root / "cohort"
        config = SyntheticConfig(
            subjects=6,
            clips_per_subject=2,
            fps=12.5,
            seconds=(1.2, 1.6),
            width=64,
            height=48,
            score_weights=(2, 1, 1, 1, 1),
        )
        rows = list(csv.DictReader(render_cohort(cohort, config).read_text().splitlines()))
        for row in rows:
            name = f"{CANARY}_{Path(row['video']).name}"
            (cohort / row["video"]).rename(cohort / name)
            row.update(video=name, subject=f"{CANARY}-{row['subject']}", visit=f"{CANARY} day {row['visit']}")
        (cohort / f"{CANARY}_noise.mp4").write_bytes(b"no video at all" * 50)
        noise = {"video": f"{CANARY}_noise.mp4", "subject": rows[0]["subject"], "task": "hand", "score": "1"}
        with open(cohort / "cohort.csv", "w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows([*rows, noise])
        self.clip = cohort / rows[0]["video"]
        self.noise = cohort / noise["video"]
        self.write_study()

    def write_study(self, **changes: object) -> Path:
        path = self.root / "study.yaml"
        path.write_text(yaml.safe_dump(STUDY | changes))
        return path

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = ["ptune", *map(str, arguments)]
        return subprocess.run(
            command, env=self.environment, cwd=self.root, capture_output=True, text=True, timeout=240, check=False
        )

    def ptune(self, *arguments: object, code: int = 0) -> str:
        done = self.run(*arguments)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code != 2 else done.stderr

    def failure(self, *arguments: object) -> str:
        done = self.run(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stderr

    def facts(self, study: str = "hand"):
        return read_study(Ledger(Home(self.home, self.home / "features").ledger), study)


@pytest.fixture(scope="module")
def world():
    root = Path(tempfile.mkdtemp(prefix="pt-"))
    yield World(root)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def swept(world):
    world.printed = world.ptune("sweep", "study.yaml")
    return world


@pytest.fixture(scope="module")
def registered(swept):
    swept.version = json.loads(swept.ptune("register", "hand", "--json"))["version"]
    return swept


def test_a_sweep_cross_validates_every_trial_on_disjoint_subjects_and_leaves_out_what_cannot_be_read(swept):
    facts = swept.facts()
    assert {trial.state for trial in facts.trials.values()} == {"finished"}
    assert {trial.group for trial in facts.trials.values()} == {"flow", "mb"}
    assert set(facts.folds.values()) == {0, 1}
    assert facts.cohort["videos"] == 12
    assert "1 quarantined" in swept.printed
    assert "unreadable" in swept.printed
    assert "4 fits trained, 0 reused" in swept.printed
    ledger = Ledger(swept.home / "ledger")
    for trial in facts.trials.values():
        for signature in trial.fits.values():
            spec = ledger.find_fit(signature).spec
            assert not {video.subject for video in spec.train} & {video.subject for video in spec.held_out}


def test_the_same_command_again_trains_nothing_and_says_so(swept):
    before = swept.facts()
    assert "Nothing to train: all 2 trials of hand had ended; all was reused" in swept.ptune("sweep", "study.yaml")
    assert swept.facts() == before


def test_a_killed_sweep_goes_on_where_it_was(world):
    study = world.write_study(budget={"trials": 4})
    command = ["ptune", "sweep", str(study), "--as", "killed"]
    driver = subprocess.Popen(command, env=world.environment, cwd=world.root, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        facts = world.facts("killed")
        if facts and any(trial.fits for trial in facts.trials.values()):
            break
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    half = world.facts("killed")
    assert any(trial.state == "running" for trial in half.trials.values())

    printed = json.loads(world.ptune("sweep", study, "--as", "killed", "--json"))
    whole = world.facts("killed")
    assert [trial.state for trial in whole.trials.values()] == ["finished"] * 4
    for number, trial in half.trials.items():
        assert whole.trials[number].params == trial.params
        assert set(trial.fits.items()) <= set(whole.trials[number].fits.items())
    for trial in whole.trials.values():
        steps = [report.step for report in trial.reports]
        assert steps == sorted(set(steps))
    assert printed["trials"]["ended_now"] + printed["trials"]["ended_before"] == 4
    assert printed["fits"]["reused"] >= sum(
        len(trial.fits) for trial in half.trials.values() if trial.state == "running"
    )


def test_another_cohort_under_the_same_name_is_refused_with_the_difference(swept):
    rows = (swept.root / "cohort" / "cohort.csv").read_text().splitlines()
    (swept.root / "cohort" / "fewer.csv").write_text("\n".join(rows[:-2]) + "\n")
    path = swept.write_study(cohort="cohort/fewer.csv")
    before = swept.facts()
    message = swept.ptune("sweep", path, code=2)
    assert "the cohort had 12 videos of 6 subjects" in message
    assert "--as NAME" in message
    assert swept.facts() == before
    assert "folds was {'count': 2" in swept.ptune("sweep", swept.write_study(folds={"count": 3}), code=2)
    swept.write_study()


def test_promotion_follows_the_evidence(registered):
    registry = Registry(Home.open(registered.home))
    tags = registry.version("hand", "candidate").tags
    fusion = json.loads(registered.ptune("fuse", "hand", "--json"))["fusion"]
    assert float(tags["ptune.value"]) == pytest.approx(fusion["metrics"]["f1_weighted"], abs=1e-4)
    done = registered.run("promote", "hand")
    if done.returncode:
        assert "is not shown to be better than the majority class" in done.stderr
        assert registry.champion("hand") is None
        promoted = registered.ptune("promote", "hand", "--override", "to test what a champion does")
        assert "version 1 is the champion: overridden: to test" in promoted
    assert registry.champion("hand").version == 1
    assert "is champion already" in registered.failure("promote", "hand")
    assert "is its first champion" in registered.ptune("rollback", "hand", code=2)


def test_videos_are_scored_and_one_that_cannot_be_read_gets_a_problem_instead(registered):
    arguments = (registered.clip, registered.noise, "--model", "hand", "--alias", "candidate")
    scored, damaged = json.loads(registered.ptune("predict", *arguments, "--json", code=1))
    names = ("normal", "mild", "severe")
    fused = [scored[f"probability.{name}"] for name in names]
    assert sum(fused) == pytest.approx(1, abs=1e-5)
    assert scored["score_group"] == names[fused.index(max(fused))]
    assert damaged["problem"].startswith("unreadable")
    assert (damaged["score_group"], damaged["probability.mild"]) == ("", None)


def test_a_caller_with_mlflow_alone_loads_the_candidate_and_gets_the_same_scores(registered):
    world = registered
    script = """
import json, sys
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/hand@candidate")
print("ANSWER" + model.predict(pd.DataFrame({"video": [sys.argv[2]]})).to_json(orient="records"))
"""
    uri = f"sqlite:///{world.home / 'mlflow.db'}"
    done = subprocess.run(
        [sys.executable, "-c", script, uri, str(world.clip)],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.split("ANSWER")[1])[0]
    ours = json.loads(world.ptune("predict", world.clip, "--model", "hand", "--alias", "candidate", "--json"))[0]
    for name, value in row.items():
        assert ours[name] == (value if name in ("score_group", "problem", "flags") else pytest.approx(value, abs=1e-6))


SHARED = Path(__file__).parents[1].parent / "shared" / "videos"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real clips in ../shared/videos are not here")
def test_real_people_are_extracted_around_a_malformed_file_and_scored(registered):
    world = registered
    names = ["walking_outdoors.mp4", "hand_open_close.gif", "bad/damaged_200_bytes.mp4"]
    rows = [f"{SHARED / name},P{number},gait,{number}" for number, name in enumerate(names)]
    manifest = world.root / "real.csv"
    manifest.write_text("\n".join(["video,subject,task,score", *rows]) + "\n")
    report = json.loads(world.ptune("extract", manifest, "--size", "40x32", "--json", code=1))
    assert report["done"] == 2
    assert [item["reason"] for item in report["quarantined"].values()] == ["damaged"]
    assert [item["line"] for item in report["quarantined"].values()] == [4]
    arguments = (SHARED / names[1], "--model", "hand", "--alias", "candidate")
    scored = json.loads(world.ptune("predict", *arguments, "--json"))[0]
    assert scored["score_group"] in ("normal", "mild", "severe")
    assert sum(scored[f"probability.{name}"] for name in ("normal", "mild", "severe")) == pytest.approx(1, abs=1e-5)


def test_registering_again_makes_no_second_version(registered):
    world = registered
    assert json.loads(world.ptune("register", "hand", "--json"))["version"] == 1


def test_the_ledger_is_sound_knows_what_the_model_is_made_of_and_holds_nothing_useless(registered):
    found = json.loads(registered.ptune("ledger", "check", "--json"))
    assert (found["problems"], found["notes"]) == ([], [])
    decision = registered.facts().decided[-1]
    assert (decision["rule"], sum(member["weight"] for member in decision["members"])) == ("average", 1)
    assert set(registered.facts().baselines) == {"nuisance", "frozen"}
    refits = [Ledger(registered.home / "ledger").find_fit(signature) for signature in decision["fits"]]
    assert [refit.spec.held_out for refit in refits] == [()] * len(decision["members"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ptune.upkeep.collect.YOUNG_SECONDS", -1.0)
        left = {name for item in find_garbage(Ledger(registered.home / "ledger")).items for name in item.names}
    # Claims of finished fits, where workers claim them.
    assert {name for name in left if "/claim/" not in name} == set()


def test_no_command_needs_a_network_and_status_reads_the_ledger_only(swept):
    view = ptune.open(swept.home).study("hand")
    assert view.trials()["state"].tolist() == ["finished"] * 2
    assert len(view.predictions()) == 2 * 12
    status = json.loads(swept.ptune("status", "hand", "--json"))[0]
    assert status["trials"] == {"finished": 2}
    assert status["best"] == max(trial.value for trial in swept.facts().finished())
    assert len(json.loads(swept.ptune("fuse", "hand", "--json"))["tried"]) == 3
    assert "is not in this home (did you mean 'hand'?)" in swept.ptune("fuse", "hamd", code=2)


def test_the_made_up_patient_is_nowhere_outside_the_ledger(registered):
    world = registered
    places = [
        world.home / "mlflow.db",
        world.home / "artifacts",
        world.home / "reports",
        world.ray,
    ]
    seen = 0
    for place in places:
        assert place.exists()
        for path in [place] if place.is_file() else place.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                seen += len(content)
                assert CANARY.encode() not in content, path
                assert CANARY.lower().encode() not in content.lower(), path
    assert seen > 100_000
    assert CANARY.encode() in (world.home / "ledger" / "studies" / "hand" / "events.jsonl").read_bytes()


def test_artifacts_carry_the_bundle_and_every_byte_of_it_is_checked(registered):
    world = registered
    spec = next((world.home / "artifacts").rglob("bundle.json"))
    copy = world.root / "bundle"
    shutil.copytree(spec.parent, copy)
    assert Bundle(copy).spec.study == "hand"
    weights = copy / "stream-0-0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(RegistryError, match=r"stream-0-0\.safetensors is missing or differs"):
        Bundle(copy)


def _one_subject(lines):
    return [lines[0], *(",".join([line.split(",")[0], "S1", *line.split(",")[2:]]) for line in lines[1:3])]


def _one_class(lines):
    return [lines[0], *(",".join([*line.split(",")[:3], "1"]) for line in lines[1:])]


BAD_MANIFESTS = {
    "missing column": (lambda lines: [line.rsplit(",", 1)[0] for line in lines], "column 'score' is missing"),
    "missing file": (lambda lines: [*lines, "gone.mp4,S9,hand,1"], "found no file at 'gone.mp4'"),
    "off the scale": (
        lambda lines: [lines[0], lines[1].rsplit(",", 1)[0] + ",7"],
        "found '7', expected one of 0, 1, 2, 3, 4",
    ),
    "one subject": (_one_subject, "1 subject"),
    "fewer subjects than folds": (lambda lines: [lines[0], lines[1], lines[3]], "subjects for 3 folds"),
    "one class": (_one_class, "all videos are of one class"),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_bad_manifests_are_refused_before_anything_is_written(world, case):
    change, message = BAD_MANIFESTS[case]
    lines = (world.root / "cohort" / "cohort.csv").read_text().splitlines()
    lines = [",".join(line.split(",")[:4]) for line in lines]
    (world.root / "cohort" / "bad.csv").write_text("\n".join(change(lines)) + "\n")
    config = StudyConfig.parse(STUDY | {"study": "bad", "cohort": "cohort/bad.csv", "folds": {"count": 3}}, "test")
    with pytest.raises(BadInput) as refused:
        sweep(config, world.root, Home.open(world.home))
    assert message in str(refused.value)
    assert world.facts("bad") is None


def test_other_bad_input_is_refused_in_words(world):
    study = world.root / "bad.yaml"
    study.write_text(yaml.safe_dump(STUDY | {"studdy": 1}))
    assert "unknown key 'studdy' (did you mean 'study'?)" in world.ptune("sweep", study, code=2)
    kinetics = STUDY | {"study": "bad", "init": "kinetics", "fixed": {"epochs": 1}}
    study.write_text(yaml.safe_dump(kinetics))
    assert "ptune weights fetch" in world.ptune("sweep", study, code=2)
    assert "there is no such file" in world.ptune("sweep", world.root / "none.yaml", code=2)
    assert "there is no such file" in world.ptune("cohort", "check", world.root / "none.csv", code=2)
    study.write_text(yaml.safe_dump(STUDY | {"study": "bad", "cohort": "none.csv"}))
    assert "none.csv: 1 problem" in world.ptune("sweep", study, code=2)
    assert "cannot be written" in world.ptune("status", "--home", world.clip, code=2)
    assert "has no champion" in world.ptune("predict", world.clip, "--model", "nobody", code=2)
    assert "is not in this home" in world.ptune("register", "nobody", code=2)
    assert "No such command" in world.ptune("swep", code=2)
    assert world.facts("bad") is None
