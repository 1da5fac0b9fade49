"""A search is judged on subjects it never saw, from the command line, with real Ray, MLflow and files."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from ptune.home import Home
from ptune.ledger import Ledger
from tests.test_end_to_end import World


@pytest.fixture(scope="module")
def world():
    root = Path(tempfile.mkdtemp(prefix="pt-"))
    yield World(root)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def nested(world):
    return json.loads(world.ptune("sweep", "study.yaml", "--nested", "--json"))


def fits_of(world):
    ledger = Ledger(Home(world.home, world.home / "features").ledger)
    return {signature: ledger.find_fit(signature).spec for signature in ledger.fits()}


def test_each_fold_is_predicted_by_what_was_trained_and_chosen_without_it(world, nested):
    assert [judged["study"] for judged in nested["folds"]] == ["hand.outer-0", "hand.outer-1"]
    assert (nested["subjects"], nested["videos"]) == (6, 12)
    low, high = nested["interval"]
    assert low <= nested["metrics"]["f1_weighted"] <= high
    searched = [set(world.facts(judged["study"]).folds) for judged in nested["folds"]]
    assert searched[0] | searched[1] >= searched[0] ^ searched[1]
    assert not searched[0] & searched[1], "with two folds each search sees the subjects that judge the other"
    for judged, own in zip(nested["folds"], searched, strict=True):
        facts = world.facts(judged["study"])
        assert {trial.state for trial in facts.trials.values()} == {"finished"}
        for number in judged["fusion"]["members"].values():
            stream = facts.stream(facts.trials[number])
            refits = [
                spec
                for spec in fits_of(world).values()
                if spec.stream == stream and {v.subject for v in spec.train} == own
            ]
            assert [{video.subject for video in spec.held_out} for spec in refits] == [searched[1 - judged["fold"]]], (
                "refitted on everybody that the search saw"
            )
    assert world.facts("hand") is None, "the study itself was not run"


def test_the_same_command_again_trains_nothing(world, nested):
    before = len(fits_of(world))
    again = json.loads(world.ptune("sweep", "study.yaml", "--nested", "--json"))
    assert again["fits"]["trained"] == 0
    assert again["metrics"] == nested["metrics"]
    assert again["interval"] == nested["interval"]
    assert len(fits_of(world)) == before
    assert f"Nested f1_weighted {nested['metrics']['f1_weighted']:.3f}" in world.ptune(
        "sweep", "study.yaml", "--nested"
    )


def test_the_study_itself_uses_the_same_folds(world, nested):
    world.ptune("sweep", "study.yaml")
    folds = world.facts("hand").folds
    for judged in nested["folds"]:
        inner = set(world.facts(judged["study"]).folds)
        assert {subject for subject, fold in folds.items() if fold != judged["fold"]} == inner


def test_what_takes_days_cannot_be_previewed_as_a_day(world):
    assert "--nested goes with neither" in world.ptune("sweep", "study.yaml", "--nested", "--dry-run", code=2)


def test_metrics_are_finite(nested):
    assert np.isfinite(list(nested["metrics"].values())).all()
