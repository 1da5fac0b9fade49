"""Promotion reads evidence, aliases move, and a champion can be rolled back; on a real SQLite registry."""

from dataclasses import replace

import pytest

from ptune.errors import PromotionRefused, RegistryError, StudyBusy
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.track.publish import register_study
from ptune.track.registry import CANDIDATE, Evidence, Registry
from tests.example_study import example_study

GOOD = Evidence(metric="f1_weighted", value=0.7, majority=0.5, p_value=0.01, cohort="abc")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home.open(tmp_path_factory.mktemp("home"))


@pytest.fixture
def registry(home, request):
    registry = Registry(home)
    registry.name = request.node.name
    registry.client.create_registered_model(registry.name)
    return registry


def offer(registry, **changes):
    version = registry.client.create_model_version(
        registry.name, str(registry.uri), tags=replace(GOOD, **changes).tags()
    )
    registry.client.set_registered_model_alias(registry.name, CANDIDATE, version.version)
    return version.version


def test_the_first_champion_must_beat_the_majority_class(registry):
    offer(registry, value=0.5)
    with pytest.raises(PromotionRefused, match=r"f1_weighted 0\.500 is not above the majority class's 0\.500"):
        registry.promote(registry.name)
    assert registry.champion(registry.name) is None
    better = offer(registry)
    version, reason = registry.promote(registry.name)
    assert version.version == better
    assert "0.700 against majority class 0.500, p = 0.0100" in reason


def test_a_worse_candidate_is_refused_and_a_better_one_replaces_the_champion_until_rolled_back(registry):
    first = offer(registry)
    registry.promote(registry.name)
    with pytest.raises(PromotionRefused, match="is champion already"):
        registry.promote(registry.name)
    offer(registry, value=0.65)
    with pytest.raises(PromotionRefused, match=r"0\.650 is below the champion's 0\.700"):
        registry.promote(registry.name)
    assert registry.champion(registry.name).version == first
    better = offer(registry, value=0.75)
    registry.promote(registry.name)
    assert registry.champion(registry.name).version == better
    assert registry.rollback(registry.name).version == first
    with pytest.raises(RegistryError, match="has no former champion"):
        registry.rollback(registry.name)


def test_evidence_on_another_cohort_does_not_compare(registry):
    offer(registry)
    registry.promote(registry.name)
    offer(registry, value=0.9, cohort="other")
    with pytest.raises(PromotionRefused, match="different cohorts or metrics"):
        registry.promote(registry.name)


def test_a_version_that_ptune_did_not_register_has_no_evidence(registry):
    version = registry.client.create_model_version(registry.name, str(registry.uri))
    registry.client.set_registered_model_alias(registry.name, CANDIDATE, version.version)
    with pytest.raises(RegistryError, match="has no tag 'ptune"):
        registry.promote(registry.name)


def test_models_and_aliases_that_are_not_there_are_named(registry):
    with pytest.raises(RegistryError, match=r"model 'nobody': has no champion.*Known models: .*ptune register"):
        registry.version("nobody", "champion")


def test_nothing_is_registered_while_the_study_is_run(home):
    example_study(home.ledger)
    with Ledger(home.ledger).study("hand").lease(), pytest.raises(StudyBusy, match="study 'hand': is being run by"):
        register_study(home, "hand")
