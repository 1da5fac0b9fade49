"""The candidate becomes champion when its predictions allow it; on a real SQLite registry and a real ledger."""

import itertools
import json
import shutil

import pytest
from click.testing import CliRunner

from ptune.cli import cli
from ptune.errors import BadInput, PromotionRefused, RegistryError
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.track.promotion import promote, rollback
from ptune.track.publish import register_study
from ptune.track.registry import Registry
from tests.example_registry import SUBJECT, add_study, offer_judged

#: Skill of each study's only trial, and what else it differs in.
STUDIES = {
    "guessing": (0.4, {}),
    "fair": (0.8, {}),
    "worse": (0.6, {}),
    "better": (0.97, {}),
    "elsewhere": (0.97, {"first": 100}),
    "refolded": (0.97, {"folds": 4}),
}
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home.open(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def files(home):
    """A registered version of the first study; those of the others have its files."""
    for name, (skill, others) in STUDIES.items():
        add_study(home, name, skill, **others)
    return Registry(home).numbered("files", register_study(home, "guessing", model="files")[0].version)


class Model:
    """A model of its own for one test."""

    def __init__(self, home, files, name):
        self.home, self.files, self.name = home, files, name
        self.registry = Registry(home)

    def offer(self, study):
        return offer_judged(self.home, self.name, study, self.files)

    def promote(self, **options):
        return promote(self.home, self.name, **options)

    def rollback(self):
        return rollback(self.home, self.name)

    def refused(self, **options):
        """Promotes in vain and returns why, having seen that nothing has changed."""
        before = self.champion, self.events
        with pytest.raises(PromotionRefused) as refusal:
            self.promote(**options)
        assert (self.champion, self.events) == before
        assert SUBJECT not in str(refusal.value)
        return str(refusal.value)

    @property
    def champion(self):
        found = self.registry.champion(self.name)
        return None if found is None else int(found.version)

    @property
    def events(self):
        return Ledger(self.home.ledger).model(self.name).events()

    def tags(self, version):
        return self.registry.numbered(self.name, version).tags


@pytest.fixture
def model(home, files):
    return Model(home, files, f"model-{next(NUMBERS)}")


def test_the_first_champion_must_beat_the_majority_class(model):
    model.offer("guessing")
    message = model.refused()
    assert "the candidate is not shown to be better than the majority class" in message
    assert "against always answering mild (0.333)" in message
    assert "resampling 12 subjects" in message
    better = model.offer("fair")
    done = model.promote()
    assert (done.version, done.former, model.champion) == (better, None, better)
    assert "f1_weighted" in done.reason


def test_a_better_candidate_replaces_the_champion(model):
    first = model.offer("fair")
    model.promote()
    better = model.offer("better")
    done = model.promote()
    assert (done.version, done.former, model.champion) == (better, first, better)
    assert "against the champion's" in done.reason
    assert "is champion already" in model.refused()


def test_a_worse_candidate_is_refused_with_the_difference_its_interval_the_subjects_and_the_margin(model):
    model.offer("better")
    model.promote()
    model.offer("worse")
    message = model.refused()
    for part in ("may be worse than the champion", "difference -0.", "95 % interval -0.", "12 subjects", "margin 0.05"):
        assert part in message


def test_the_margin_is_how_much_worse_a_candidate_may_be(model):
    model.offer("better")
    model.promote()
    worse = model.offer("fair")
    assert "margin 0; expected an interval above 0" in model.refused(margin=0.0)
    assert model.promote(margin=0.9).version == worse


@pytest.mark.parametrize(
    ("study", "problem"),
    [("elsewhere", "the candidate lacks"), ("refolded", "the candidate and the champion have another fold")],
)
def test_evidence_on_other_subjects_or_folds_does_not_compare(model, study, problem):
    model.offer("fair")
    model.promote()
    model.offer(study)
    message = model.refused()
    assert "does not compare" in message
    assert problem in message


def test_a_champion_whose_predictions_are_in_another_ledger_cannot_be_compared_with(model):
    evidence = model.tags(model.offer("elsewhere"))["ptune.evidence"]
    model.promote()
    table = model.home.ledger / "studies" / "elsewhere" / "tables" / f"{evidence}.arrow"
    hidden = table.rename(table.with_suffix(".hidden"))
    model.offer("better")
    assert "version 1: its evidence, table" in model.refused()
    hidden.rename(table)


def test_an_override_promotes_all_the_same_and_is_recorded_with_who_and_when(model, monkeypatch):
    monkeypatch.setenv("LOGNAME", "marie")
    first = model.offer("better")
    model.promote()
    worse = model.offer("worse")
    done = model.promote(override=" the other camera is gone ")
    assert (done.version, done.former, model.champion) == (worse, first, worse)
    assert done.reason == "overridden: the other camera is gone"
    event = model.events[-1]
    assert (event["kind"], event["by"], event["override"]) == ("promoted", "marie", "the other camera is gone")
    assert "may be worse than the champion" in event["refused"]
    tags = model.tags(worse)
    assert (tags["ptune.promoted.by"], tags["ptune.promoted.override"]) == ("marie", "the other camera is gone")
    assert tags["ptune.promoted.at"] == event["at"]
    assert event["at"].endswith("+00:00")


def test_a_reason_for_what_the_evidence_allows_overrides_nothing(model):
    model.offer("fair")
    assert model.promote(override="to be sure").override == ""


@pytest.mark.parametrize("options", [{"override": "  "}, {"margin": -0.1}, {"margin": 1.0}, {"margin": float("nan")}])
def test_an_empty_reason_and_an_impossible_margin_are_bad_input(model, options):
    model.offer("better")
    before = model.events
    with pytest.raises(BadInput):
        model.promote(**options)
    assert (model.champion, model.events) == (None, before)


def test_rollbacks_walk_back_to_the_first_champion_and_no_further(model, monkeypatch):
    monkeypatch.setenv("LOGNAME", "pierre")
    versions = []
    for study in ("worse", "fair", "better"):
        versions.append(model.offer(study))
        model.promote()
    assert [model.rollback(), model.rollback()] == [versions[1], versions[0]]
    assert model.champion == versions[0]
    with pytest.raises(RegistryError, match="is its first champion"):
        model.rollback()
    tags = model.tags(versions[0])
    assert (tags["ptune.rolled_back.by"], tags["ptune.rolled_back.former"]) == ("pierre", str(versions[1]))
    assert [event["kind"] for event in model.events[-2:]] == ["rolled_back"] * 2


def test_after_a_rollback_the_same_candidate_can_be_promoted_again(model):
    first = model.offer("fair")
    model.promote()
    second = model.offer("better")
    model.promote()
    model.rollback()
    assert model.promote().former == first
    assert model.champion == second
    assert model.rollback() == first


def test_an_alias_that_was_moved_by_hand_is_what_the_next_promotion_replaces(model):
    by_hand = model.offer("worse")
    model.offer("fair")
    model.promote()
    model.registry.client.set_registered_model_alias(model.name, "champion", str(by_hand))
    with pytest.raises(RegistryError, match="was not made champion by ptune"):
        model.rollback()
    model.offer("better")
    assert model.promote().former == by_hand
    assert model.rollback() == by_hand


def test_what_a_process_that_died_has_begun_is_completed_by_the_next(model):
    number = model.offer("fair")
    event = {"version": number, "identity": model.tags(number)["ptune.identity"], "at": "2026", "by": "x"}
    event |= {"former": None, "judged": "well", "override": ""}
    Ledger(model.home.ledger).model(model.name).append("promoted", **event)
    assert model.champion is None
    done = model.promote()
    assert (done.version, done.reason, model.champion) == (number, "well", number)
    assert len(model.events) == 2


def test_events_of_a_registry_that_was_lost_move_no_alias(model):
    number = model.offer("fair")
    event = {"version": number, "identity": "of another model", "former": None, "judged": "", "override": ""}
    Ledger(model.home.ledger).model(model.name).append("promoted", **event)
    assert model.promote().former is None
    with pytest.raises(RegistryError, match="is its first champion"):
        model.rollback()


def test_a_candidate_or_former_champion_whose_files_have_changed_is_refused(model, home, tmp_path):
    add_study(home, "damaged", 0.9)
    good = model.offer("fair")
    model.promote()
    bad = register_study(home, "damaged", model=model.name)[0].version
    (weights,) = _files_of(home, model.registry.numbered(model.name, bad), "*.safetensors")
    kept = shutil.copy(weights, tmp_path)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(RegistryError, match="differs from its checksum"):
        model.promote(override="whatever")
    shutil.copy(kept, weights)
    assert model.promote().version == bad
    model.offer("better")
    model.promote()
    (code,) = _files_of(home, model.registry.numbered(model.name, bad), "bundle.py")
    code.write_text(code.read_text() + "\n")
    with pytest.raises(RegistryError, match="its files are not those that were registered"):
        model.rollback()
    assert model.champion not in (good, bad)


def _files_of(home, version, pattern):
    identity = version.source.rpartition("/")[2]
    return [path for path in home.artifacts.rglob(pattern) if identity in path.parts]


@pytest.mark.parametrize("name", ["", "../hand", "a/b", "hand:1", "Otto's"])
def test_a_model_is_called_as_a_study_could_be(home, files, name):
    with pytest.raises(BadInput, match="--model: is"):
        register_study(home, "fair", model=name)


def test_a_version_that_ptune_did_not_register_is_never_promoted(model):
    version = model.registry.add_version(model.name, model.files.source, model.files.run_id, {})
    model.registry.client.set_registered_model_alias(model.name, "candidate", version.version)
    with pytest.raises(RegistryError, match="expected one registered by ptune"):
        model.promote(override="whatever")


def test_on_the_command_line_refusals_and_promotions_are_told_in_words_or_json(model):
    def run(*arguments):
        return CliRunner().invoke(cli, [*arguments, "--home", str(model.home.root)])

    model.offer("better")
    assert "version 1 is the champion: f1_weighted" in run("promote", model.name).output
    model.offer("worse")
    done = json.loads(run("promote", model.name, "--override", "a trial", "--json").output)
    assert (done["version"], done["former"], done["override"]) == (2, 1, "a trial")
    assert json.loads(run("rollback", model.name, "--json").output)["version"] == 1
