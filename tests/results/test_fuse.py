"""`ptune fuse`: fusions of one study or several, from what the ledger holds and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ptune.cli import cli
from ptune.cli.options import fusion_rule
from ptune.errors import BadInput
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.metrics import score_frame
from ptune.replay import read_study
from ptune.results.added import UNITS, added_by_each, added_table
from ptune.results.fusion import choose_fusion, fuse, study_frames, study_fusion
from ptune.results.report import write_report
from ptune.results.stats import RULES, FusionRule
from ptune.results.summary import summarise
from ptune.results.tables import percent
from tests.example_study import CLASSES, SUBJECT, example_study

SEVEN = ["rgb", "flow", "mb", "rgb + flow", "rgb + mb", "flow + mb", "rgb + flow + mb"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home.open(tmp_path_factory.mktemp("home"))
    example_study(home.ledger)
    return home


def refusal(home, *arguments):
    with pytest.raises(BadInput) as refused:
        cli(["fuse", *arguments, "--home", str(home.root)], standalone_mode=False)
    return str(refused.value)


def contents(root: Path):
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_papers_seven_combinations_come_from_three_streams_without_training(home):
    """In a process of its own, so that it is seen what it does not even load."""
    before = contents(home.root)
    program = (
        "import sys\nfrom ptune.cli import cli\n"
        f"cli(['fuse', 'hand', '--json', '--home', {str(home.root)!r}], standalone_mode=False)\n"
        "loaded = {'ray', 'mlflow', 'optuna', 'ptune.train.fit', 'ptune.tune'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [" + ".join(member["name"] for member in item["members"]) for item in found["tried"]] == SEVEN
    assert contents(home.root) == before
    ledger = Ledger(home.ledger)
    frames = study_frames(read_study(ledger, "hand"), ledger)
    for item in found["tried"]:
        average = fuse([frames[member["trial"]] for member in item["members"]])
        assert item["metrics"] == pytest.approx(score_frame(average, CLASSES))
    assert SUBJECT not in done.stdout


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_prints_its_corrected_and_its_nested_estimate(home, rule):
    summary = summarise(home, "hand", rule, 2)
    text, facts = summary.text(), summary.facts()
    assert f"Corrected for having been chosen on the same subjects: {summary.corrected.corrected:.3f} (95 %" in text
    assert f"chosen without each fold and scored on it: {summary.nested.value:.3f} (95 %" in text
    assert facts["fusion"]["rule"] == rule
    assert facts["fusion"]["members"] == facts["corrected"]["members"]
    assert facts["corrected"]["naive"] == pytest.approx(summary.fusion.value)
    assert set(facts["nested"]["chosen"]) == {"0", "1", "2"}
    assert json.loads(json.dumps(facts, default=str))["added"][0]["weight"] > 0


def test_what_a_stream_adds_is_the_score_with_it_minus_the_score_of_the_others(home):
    ledger = Ledger(home.ledger)
    facts = read_study(ledger, "hand")
    frames = study_frames(facts, ledger)
    fusion = study_fusion(facts, frames)
    added = added_by_each(frames, fusion, CLASSES)
    assert [item.member.name for item in added] == ["rgb", "flow", "mb"]
    for item in added:
        others = [frames[member.trial] for member in fusion.members if member != item.member]
        without = score_frame(fuse(others), CLASSES)["f1_weighted"]
        assert (item.difference.one, item.difference.other) == pytest.approx((fusion.value, without))
        low, high = item.difference.interval
        assert low < item.difference.difference < high
    lines = added_table(added).lines
    assert lines[0].cells[:5] == ("rgb", "trial-00 rgb", "0.33", "77.3", "74.4")
    assert percent(fusion.value) == "77.3"
    page = write_report(home.root / "page", "hand", facts, ledger).read_text()
    assert "What each stream adds" in page
    assert lines[2].cells[-1] in page


def test_the_others_keep_their_proportions_when_one_is_left_out(home):
    summary = summarise(home, "hand", "greedy", 2)
    (item,) = [item for item in summary.added if item.member.name == "mb"]
    others = [member for member in summary.fusion.members if member.name != "mb"]
    fused = fuse([summary.streams.frames[member.trial] for member in others], [member.weight for member in others])
    assert item.difference.other == pytest.approx(score_frame(fused, CLASSES)["f1_weighted"])


def test_the_report_shows_whichever_fusion_it_is_given(home):
    ledger = Ledger(home.ledger)
    summary = summarise(home, "hand", "greedy", 2)
    assert summary.fusion.name == "0.14 rgb + 0.14 flow + 0.71 mb"
    path = write_report(home.root / "greedy", "hand", read_study(ledger, "hand"), ledger, summary.fusion)
    page = path.read_text()
    assert "Fusing 0.14 of rgb (trial-00 rgb) and 0.14 of flow (trial-03 flow) and 0.71 of mb (trial-02 mb)" in page
    assert f"chosen on the same subjects {percent(summary.corrected.corrected)} (" in page
    assert "difference from 0.14 rgb + 0.14 flow + 0.71 mb" in page


def test_a_single_stream_leaves_nothing_to_compare_with(home):
    summary = summarise(home, "hand", wanted=["3"])
    assert summary.added == ()
    assert "What each stream adds" not in summary.text()


def test_a_named_set_is_fused_as_it_is_and_said_to_be_uncorrected(home):
    summary = summarise(home, "hand", wanted=["0", "1", "3"])
    assert [(member.name, member.trial) for member in summary.fusion.members] == [
        ("rgb", 0),
        ("flow", 3),
        ("flow 2", 1),
    ]
    assert summary.fusion.combinations == 1
    assert summary.corrected.corrected == pytest.approx(summary.fusion.value, abs=0.02)
    assert summary.nested.value == pytest.approx(summary.fusion.value)
    assert summary.text().count("Named fusion: rgb + flow + flow 2, f1_weighted") == 1
    assert "These streams were named, not chosen" in summary.text()
    assert "No finished trial of mb" not in summary.text()


@pytest.mark.parametrize(
    ("streams", "says"),
    [
        (
            "5",
            "study 'hand': trial-05 rgb was stopped before its last fold; expected a finished trial. Finished are: 0",
        ),
        ("6", "trial-06 flow failed; expected a finished trial"),
        ("7", "trial-07 mb is not finished yet"),
        ("77", "study 'hand': has no trial 77"),
        ("best", "--streams best: names no trial; expected the number of a trial"),
        ("other:3", "--streams other:3: names no trial"),
    ],
)
def test_a_stream_that_cannot_be_fused_is_named_with_its_state(home, streams, says):
    assert says in refusal(home, "hand", "--streams", streams)
    assert "/data" not in refusal(home, "hand", "--streams", streams)


def test_a_modality_without_a_finished_trial_is_named(tmp_path):
    home = Home.open(tmp_path)
    example_study(home.ledger, trials=2)
    summary = summarise(home, "hand", "greedy")
    assert summary.fusion.missing == ("mb",)
    assert "No finished trial of mb: fusions with it were not tried." in summary.text()


def test_a_named_set_goes_without_per_modality(home):
    done = CliRunner().invoke(cli, ["fuse", "hand", "--streams", "3", "--per-modality", "2", "--home", str(home.root)])
    assert done.exit_code == 2
    assert "--per-modality does not go with it" in done.output


def test_options_offer_every_rule():
    command = fusion_rule(lambda **_: None)
    (rule,) = [option for option in command.__click_params__ if option.name == "rule"]
    assert tuple(rule.type.choices) == RULES


class Two:
    """A home with two studies of one cohort; the second has the first trials of the first one, and other ones."""

    def __init__(self, root):
        self.home = Home.open(root)
        example_study(self.home.ledger)
        example_study(self.home.ledger, "again", trials=3)
        example_study(self.home.ledger, "longer", epochs=3)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return Two(tmp_path_factory.mktemp("two"))


def test_streams_of_two_studies_are_fused_like_those_of_one(two):
    summary = summarise(two.home, ["hand", "longer"], "greedy", 3)
    ledger = Ledger(two.home.ledger)
    candidates = {}
    for name in ("hand", "longer"):
        facts = read_study(ledger, name)
        for number, frame in study_frames(facts, ledger).items():
            candidates.setdefault(facts.stream(facts.trials[number]).modality, {})[name, number] = frame
    alone = choose_fusion(candidates, "f1_weighted", CLASSES, FusionRule("greedy", 3))
    assert summary.fusion.members == alone.members
    assert {member.study for member in alone.members} <= {"hand", "longer"}
    assert "With streams of longer, on the same videos and folds." in summary.text()
    assert "longer trial-03 flow" in summary.text()
    assert "Study longer: 1 trial failed." in summary.text()
    assert all(member["study"] in ("hand", "longer") for member in summary.facts()["fusion"]["members"])


def test_a_fit_that_two_studies_share_is_one_stream(two):
    one, both = summarise(two.home, "hand", "average", 2), summarise(two.home, ["hand", "again"], "average", 2)
    assert {study for study, _ in both.streams.frames} == {"hand"}
    assert both.fusion.value == pytest.approx(one.fusion.value)
    assert both.corrected.corrected == pytest.approx(one.corrected.corrected)


def test_streams_of_two_studies_are_named_with_their_study(two):
    arguments = ["hand", "longer", "--streams", "hand:3", "--streams", "longer:0", "--json"]
    done = CliRunner().invoke(cli, ["fuse", *arguments, "--home", str(two.home.root)])
    members = json.loads(done.stdout)["fusion"]["members"]
    assert [(member["study"], member["trial"], member["name"]) for member in members] == [
        ("longer", 0, "rgb"),
        ("hand", 3, "flow"),
    ]
    assert "expected STUDY:NUMBER" in refusal(two.home, "hand", "longer", "--streams", "3")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"subjects": 9}, "study 'other' lacks v0900"),
        ({"turned": 1}, "have another fold for v0000, v0001, v0002 and 57 more (0 and 1)"),
        ({"metric": "accuracy"}, "objective f1_weighted and accuracy"),
    ],
)
def test_studies_that_do_not_compare_are_refused_saying_what_differs(tmp_path, change, says):
    home = Home.open(tmp_path)
    example_study(home.ledger)
    example_study(home.ledger, "other", **change)
    said = refusal(home, "hand", "other")
    assert said.startswith("study 'hand' and study 'other': ")
    assert says in said
    assert SUBJECT not in said


def test_several_studies_are_not_registered_as_one(home):
    done = CliRunner().invoke(cli, ["register", "hand", "again", "--home", str(home.root)])
    assert done.exit_code == 2
    assert "cannot be registered in one" in done.output


def test_differences_are_in_the_units_of_the_tables():
    assert {name for name, unit in UNITS.items() if unit == 1} == {"kappa_quadratic", "mae"}
    assert np.isclose(UNITS["f1_macro"], 100)
