"""A version is made of files that were read back, with all that a reviewer asks; on a real SQLite registry."""

import json
import os
from pathlib import Path

import mlflow
import pytest

from ptune.errors import RegistryError, StudyBusy
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.track.publish import register_study
from ptune.track.registry import CANDIDATE, Registry, mlflow_at
from ptune.track.server import ask_server
from ptune.upkeep.check import check
from ptune.upkeep.collect import find_garbage
from tests.example_registry import SUBJECT, add_study
from tests.track.live import Server


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home.open(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def registered(home):
    """A study that `ptune register` made a candidate of."""
    add_study(home, "hand", 0.9)
    register_study(home, "hand")
    return Registry(home)


def models_under(registry, study):
    """Returns the uploads that lie under a study's run, whether a version refers to them or not."""
    (experiment,) = registry.client.search_experiments(filter_string=f"name = '{study}'")
    return registry.client.search_logged_models([experiment.experiment_id])


def test_a_version_says_what_it_was_judged_by(home, registered):
    tags = registered.version("hand", CANDIDATE).tags
    assert (tags["ptune.study"], tags["ptune.metric"], tags["ptune.subjects"]) == ("hand", "f1_weighted", "12")
    low, high = map(float, tags["ptune.interval"].split(" to "))
    assert low < float(tags["ptune.value"]) <= high
    assert float(tags["ptune.majority"]) < low
    least, most = map(float, tags["ptune.corrected_interval"].split(" to "))
    assert least <= float(tags["ptune.corrected"]) <= most
    decision = Ledger(home.ledger).study("hand").events()[-1]
    assert (decision["what"], decision["version"]) == ("registered", 1)
    assert decision["evidence"] == tags["ptune.evidence"]
    frame = Ledger(home.ledger).study("hand").table(tags["ptune.evidence"]).to_pandas()
    assert list(frame) == ["video_id", "subject", "fold", "score", "label", "probabilities"]
    assert (len(frame), frame["subject"].nunique()) == (48, 12)


def test_the_model_card_is_shown_with_the_version_and_travels_with_the_model(registered, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered.uri)
    version = registered.version("hand", CANDIDATE)
    served = Path(mlflow.artifacts.download_artifacts(version.source, dst_path=str(tmp_path)))
    card = (served / "model_card.md").read_text()
    assert version.description == card
    for part in (
        "Not a medical device",
        "videos of the task **hand**",
        "| mild | 24 | 12 |",
        "| weighted F1 |",
        "Corrected for that: **",
        "Leave-one-out ablation of this fusion: none",
        "## Limits",
        "Study `hand`, signature",
    ):
        assert part in card
    evidence = json.loads((served / "evidence.json").read_text())
    assert evidence["data"]["videos_by_class"] == {"normal": 12, "mild": 24, "severe": 12}
    assert evidence["metrics"]["accuracy"]["interval"][0] < evidence["metrics"]["accuracy"]["value"]
    assert evidence["code"]["ptune"]


def test_no_subject_is_named_outside_the_ledger(home, registered):
    places = [home.root / "mlflow.db", *home.artifacts.rglob("*")]
    contents = [path.read_bytes() for path in places if path.is_file()]
    assert len(contents) > 100
    assert not any(SUBJECT.encode() in content for content in contents)
    assert any(SUBJECT.encode() in path.read_bytes() for path in home.ledger.rglob("*.arrow"))


def test_the_same_streams_are_the_same_version(home, registered):
    version, _ = register_study(home, "hand")
    assert version.version == 1
    assert len(models_under(registered, "hand")) == 1
    assert [event["kind"] for event in Ledger(home.ledger).model("hand").events()] == ["registered"]


def test_the_ledger_knows_the_model_and_keeps_its_evidence(home, registered, monkeypatch):
    ledger = Ledger(home.ledger)
    assert check(ledger).problems == []
    assert [note for note in check(ledger).notes if "registry" in note.where] == []
    monkeypatch.setattr("ptune.upkeep.collect.YOUNG_SECONDS", -1.0)
    assert [item for item in find_garbage(ledger).items if "tables" in item.what] == []
    table = registered.version("hand", CANDIDATE).tags["ptune.evidence"]
    path = home.ledger / "studies" / "hand" / "tables" / f"{table}.arrow"
    hidden = path.rename(path.with_suffix(".hidden"))
    assert [problem.where for problem in check(ledger).problems] == [f"study hand, table {table[:16]}"]
    hidden.rename(path)


def test_what_does_not_arrive_whole_never_becomes_a_version(home, registered, monkeypatch):
    send = mlflow.MlflowClient.log_model_artifacts

    def cut(client, model_id, folder):
        for path in Path(folder).rglob("*.safetensors"):
            path.write_bytes(path.read_bytes()[:-100])
        send(client, model_id, folder)

    add_study(home, "cut", 0.95)
    monkeypatch.setattr(mlflow.MlflowClient, "log_model_artifacts", cut)
    with pytest.raises(RegistryError, match="differs from its checksum"):
        register_study(home, "cut")
    assert "cut" not in registered.names()
    (orphan,) = models_under(registered, "cut")
    monkeypatch.undo()
    assert register_study(home, "cut")[0].version == 1
    (model,) = models_under(registered, "cut")
    assert model.model_id != orphan.model_id


def test_a_server_takes_a_version_and_serves_it(tmp_path, monkeypatch):
    server = Server(tmp_path)
    server.start()
    try:
        assert ask_server(server.uri).version == mlflow.__version__
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        home = Home.open(tmp_path / "home")
        add_study(home, "hand", 0.9)
        assert register_study(home, "hand")[0].version == "1"
        registry = Registry(home)
        registry.verify(registry.version("hand", CANDIDATE))
        assert register_study(home, "hand")[0].version == "1"
        (model,) = models_under(registry, "hand")
        assert registry.version("hand", CANDIDATE).source == model.model_uri
    finally:
        server.kill()


def test_models_and_aliases_that_are_not_there_are_named(registered):
    with pytest.raises(RegistryError, match=r"model 'nobody': has no champion.*Known models: .*ptune register"):
        registered.version("nobody", "champion")
    with pytest.raises(RegistryError, match="has no version 7"):
        registered.numbered("hand", 7)


def test_nothing_is_registered_while_the_study_is_run(home, registered):
    with Ledger(home.ledger).study("hand").lease(), pytest.raises(StudyBusy, match="study 'hand': is being run by"):
        register_study(home, "hand")


@pytest.mark.parametrize("given", [None, "sqlite:////somewhere/else.db"])
def test_what_child_processes_are_told_of_mlflow_is_put_back(given, tmp_path, monkeypatch):
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    for name in names:
        monkeypatch.setenv(name, given) if given else monkeypatch.delenv(name, raising=False)
    with mlflow_at(f"sqlite:///{tmp_path / 'mlflow.db'}"):
        assert all("mlflow.db" in os.environ[name] for name in names)
    assert [os.environ.get(name) for name in names] == [given, given]
