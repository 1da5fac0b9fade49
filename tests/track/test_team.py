"""Two teams with studies of one name in one MLflow: neither touches the other's runs or models. On real SQLite."""

import pytest
from mlflow.exceptions import MlflowException

from ptune.errors import BadInput, RegistryError
from ptune.home import Home
from ptune.track.promotion import promote, rollback
from ptune.track.publish import register_study
from ptune.track.registry import Registry
from ptune.track.team import in_team
from tests.example_registry import add_study


def test_models_and_experiments_of_two_teams_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    homes = {team: Home.open(tmp_path / team) for team in ("neuro", "ortho")}
    for team, home in homes.items():
        monkeypatch.setenv("PTUNE_TEAM", team)
        add_study(home, "hand", 0.9)
        version, _ = register_study(home, "hand")
        assert (version.name, version.version) == (f"{team}.hand", 1)
    registry = Registry(homes["neuro"])
    assert registry.names() == ["neuro.hand", "ortho.hand"]
    for team in homes:
        experiment = registry.client.get_experiment_by_name(f"{team}.hand")
        assert registry.client.search_runs([experiment.experiment_id])

    monkeypatch.setenv("PTUNE_TEAM", "neuro")
    assert promote(homes["neuro"], "hand").name == "neuro.hand"
    with pytest.raises(RegistryError, match=r"'neuro\.hand'"):
        rollback(homes["neuro"], "neuro.hand")
    # Both names lead to the same model.
    for name in ("hand", "neuro.hand"):
        assert registry.version(in_team(name), "champion").version == 1
    with pytest.raises(MlflowException):
        registry.client.get_model_version_by_alias("ortho.hand", "champion")


def test_without_a_team_names_stay():
    assert in_team("hand") == "hand"


@pytest.mark.parametrize("team", ["neuro.hand", "-", "a b", "x" * 33])
def test_a_team_has_a_plain_name(monkeypatch, team):
    monkeypatch.setenv("PTUNE_TEAM", team)
    with pytest.raises(BadInput, match="PTUNE_TEAM"):
        in_team("hand")
