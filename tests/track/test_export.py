"""What `ptune export` writes is what the ledger says, for other tools and for other people."""

from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import read_study
from ptune.track.export import JOURNAL, export_study
from ptune.track.optuna_study import importances
from tests.example_study import MANIFEST, SUBJECT, example_study


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home.open(tmp_path_factory.mktemp("home"))
    example_study(home.ledger)
    export_study(home, "hand", home.root / "out")
    return home


def test_optuna_opens_the_study_with_states_settings_and_curves(home: Home) -> None:
    storage = JournalStorage(JournalFileBackend(str(home.root / "out" / JOURNAL)))
    study, facts = optuna.load_study(study_name="hand", storage=storage), read_study(Ledger(home.ledger), "hand")
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 5
    assert (states[5], states[6], states[7]) == (TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
    best = facts.finished()[0]
    assert (study.best_trial.number, study.best_value) == (best.number, best.value)
    assert study.best_trial.params == best.params
    assert study.best_trial.distributions["learning_rate"] == optuna.distributions.FloatDistribution(
        1e-6, 1e-3, log=True
    )
    assert study.trials[3].intermediate_values == {report.step: report.value for report in facts.trials[3].reports}


def test_tables_agree_with_each_other_and_with_the_ledger(home: Home) -> None:
    for title, rows in (("trials", 9), ("predictions", 5 * 60)):
        parquet = pd.read_parquet(home.root / "out" / f"{title}.parquet")
        csv = pd.read_csv(home.root / "out" / f"{title}.csv")
        assert len(parquet) == len(csv) == rows
        assert list(parquet) == list(csv)
    chances = parquet[["probability.normal", "probability.mild", "probability.severe"]].sum(axis=1)
    assert chances.tolist() == pytest.approx([1.0] * len(parquet))
    assert sorted(parquet["subject"].unique()) == list(range(1, 13))


def test_no_subject_and_no_file_name_is_exported(home: Home) -> None:
    files = list((home.root / "out").iterdir())
    assert len(files) == 5
    for path in files:
        content = path.read_bytes().lower()
        for secret in (SUBJECT, MANIFEST, "visit.mp4"):
            assert secret.lower().encode() not in content, f"{secret} in {path.name}"


def test_a_second_export_replaces_the_first(home: Home) -> None:
    again = export_study(home, "hand", home.root / "out")
    assert (again.trials, again.predictions) == (9, 300)
    assert len(list((home.root / "out").iterdir())) == 5


def test_importances_need_eight_finished_trials(tmp_path: Path) -> None:
    few = read_study(example_study(tmp_path / "few"), "hand")
    many = read_study(example_study(tmp_path / "many", trials=24), "hand")
    assert importances(few) is None
    found = importances(many)
    assert sum(found.values()) == pytest.approx(1.0)
    assert max(found, key=found.get) == "modality"
