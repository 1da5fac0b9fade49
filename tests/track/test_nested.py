"""A search is judged on subjects it never saw, with real Ray, MLflow and files; features are made up."""

import csv
import hashlib

import pytest
from click.testing import CliRunner

from ptune.cli import cli
from ptune.cluster import ray_session
from ptune.config import FitVideo, StudyConfig
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import read_study
from ptune.track.nested import cross_validate_search
from ptune.track.publish import run_study
from tests.example_features import EXTRACTION, write_features

STUDY = {
    "study": "hand",
    "cohort": "cohort.csv",
    "task": "hand",
    "folds": {"count": 2},
    "budget": {"trials": 2},
    "finalists": {"count": 1},
    "init": "random",
    "stopping": "none",
    "extraction": EXTRACTION.model_dump(mode="json"),
    "space": {"modality": {"choice": ["flow", "mb"]}},
    "fixed": {
        "segments": 1,
        "epochs": 1,
        "batch_size": 4,
        "snippet_frames": 8,
        "learning_rate": 0.002,
        "width": 0.125,
        "crop": 24,
        "attention_width": 8,
        "validation": {"snippets": 1, "frames": 8},
        "test": {"snippets": 1, "frames": 8},
    },
}
#: Two searches, their refits and the study itself.
pytestmark = pytest.mark.timeout(900)
CONFIG = StudyConfig.parse(STUDY, "test")


def write_cohort(folder, home):
    """Writes files that stand for videos of six subjects, and what extraction would make of them."""
    videos = []
    with open(folder / "cohort.csv", "w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["video", "subject", "task", "score"])
        for number in range(12):
            subject, score = f"S{number // 2}", (0, 1, 3)[(number // 2 + number) % 3]
            content = f"video {number}".encode()
            (folder / f"{number}.mp4").write_bytes(content)
            rows.writerow([f"{number}.mp4", subject, "hand", score])
            identity = hashlib.sha256(content).hexdigest()[:16]
            label = CONFIG.grouping.class_of(score)
            videos.append(FitVideo(video_id=identity, subject=subject, score=score, label=label))
    write_features(home.features, tuple(videos))


class World:
    """What a nested cross-validation left, run twice; then the study itself."""

    def __init__(self, root):
        self.root, self.home = root, Home.open(root / "home")
        self.ledger = Ledger(self.home.ledger)
        write_cohort(root, self.home)
        with ray_session(self.home, 2):
            self.first = cross_validate_search(CONFIG, root, self.home)
            self.fits = [self.ledger.find_fit(signature).spec for signature in self.ledger.fits()]
            self.again = cross_validate_search(CONFIG, root, self.home)
            self.fits_again = self.ledger.fits()
            self.study_before = self.facts("hand")
            run_study(CONFIG, root, self.home)

    def facts(self, name):
        return read_study(self.ledger, name)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("nested"))


def subjects(videos):
    return {video.subject for video in videos}


def test_each_fold_is_predicted_by_what_was_trained_and_chosen_without_it(world):
    assert [judged.study for judged in world.first.folds] == ["hand.outer-0", "hand.outer-1"]
    assert world.study_before is None, "the study itself was not run"
    everybody = {f"S{number}" for number in range(6)}
    for judged in world.first.folds:
        search = world.facts(judged.study)
        outside = subjects(judged.frame.itertuples())
        assert set(search.folds) == everybody - outside
        assert {trial.state for trial in search.trials.values()} == {"finished"}
        for member in judged.fusion.members:
            stream = search.stream(search.trials[member.trial])
            refits = [spec for spec in world.fits if spec.stream == stream and subjects(spec.held_out) == outside]
            assert [subjects(spec.train) for spec in refits] == [set(search.folds)], "on all that the search saw"


def test_the_score_is_that_of_all_videos_together(world):
    facts = world.first.facts()
    frame = world.first.frame
    assert frame["video_id"].is_unique
    assert (facts["videos"], facts["subjects"]) == (12, 6)
    right = [max(range(3), key=row.__getitem__) for row in frame["probabilities"]] == frame["label"]
    assert facts["metrics"]["accuracy"] == pytest.approx(right.mean())
    low, high = facts["interval"]
    assert 0 <= low <= facts["metrics"]["f1_weighted"] <= high <= 1
    assert f"Nested f1_weighted {facts['metrics']['f1_weighted']:.3f} (95 % interval" in world.first.text()


def test_run_again_it_trains_nothing(world):
    trained = sum(len(judged.fusion.members) for judged in world.first.folds) + 2 * 2 * 2
    assert world.first.facts()["fits"] == {"trained": trained, "reused": 0}
    assert world.again.facts()["fits"]["trained"] == 0
    assert world.again.facts()["metrics"] == world.first.facts()["metrics"]
    assert len(world.fits_again) == len(world.fits)


def test_the_study_itself_has_the_same_folds(world):
    folds = world.facts("hand").folds
    for judged in world.first.folds:
        assert {subject for subject, fold in folds.items() if fold == judged.fold} == subjects(
            judged.frame.itertuples()
        )


def test_nothing_that_is_printed_names_a_subject(world):
    for text in (world.first.text(), str(world.first.facts())):
        assert not any(f"S{number}" in text for number in range(6))


def test_a_search_that_takes_days_is_not_previewed_as_one(tmp_path):
    done = CliRunner().invoke(cli, ["sweep", str(tmp_path / "study.yaml"), "--nested", "--dry-run"])
    assert "--nested goes with neither" in done.output
