"""What a terminal shows of a study, at 80 columns and at others."""

import json
import time
from dataclasses import replace

import pytest
from rich.console import Console

from ptune.errors import BadInput
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.replay import TrialFacts, read_study
from ptune.results import watch
from ptune.results.live import short_names, shown_first, study_view
from ptune.results.stats import cluster_interval
from ptune.results.status import duration, plain_line, require_study, standing
from ptune.results.watch import Watched, live, show_studies
from tests.example_study import SUBJECT, example_study


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return read_study(example_study(tmp_path_factory.mktemp("ledger")), "hand")


def printed(renderable, width=80):
    console = Console(record=True, width=width, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


def rows_of(text):
    """Returns the cells of the lines under the table's headings."""
    lines = [line.split() for line in text.splitlines()]
    first = next(index for index, line in enumerate(lines) if line[:1] == ["#"])
    return [line for line in lines[first:] if line and line[0].isdigit() and line[1:2] != ["more"]]


def with_budget(facts, **budget):
    config = facts.config.model_copy(update={"budget": facts.config.budget.model_copy(update=budget)})
    return replace(facts, config=config)


@pytest.mark.parametrize("width", [80, 120])
def test_a_view_has_every_trial_with_its_state_and_no_line_is_too_long(facts, width):
    text = printed(study_view(facts, intervals={3: (0.641, 0.822)}), width)
    assert all(len(line) <= width for line in text.splitlines())
    rows = rows_of(text)
    assert [row[0] for row in rows[:2]] == ["7", "3"], "running first, then the best"
    assert {row[0] for row in rows} == {str(number) for number in range(9)}
    assert rows[1][-3:] == ["3/3", f"{facts.trials[3].value:.3f}", "0.64–0.82"]
    assert rows[0][-2:] == ["0/12", f"{facts.trials[7].reports[-1].value:.3f}"], "one fold is done, the next begins"
    assert "1 running, 5 finished, 2 stopped, 1 failed" in text
    assert f"best f1_weighted {facts.trials[3].value:.3f} (95 % interval 0.64–0.82), trial 3 flow" in text


def test_only_rows_that_fit_are_shown_and_the_others_counted(facts):
    text = printed(study_view(facts, rows=2))
    assert "7 more trials" in text
    assert len(rows_of(text)) == 2


def test_a_reason_that_names_a_subject_is_withheld(facts):
    assert SUBJECT in facts.trials[6].reason
    assert SUBJECT not in printed(study_view(facts), 200)
    assert SUBJECT not in json.dumps(standing(facts).last_reasons)


def test_running_trials_come_first_then_the_best_then_those_that_wait():
    trials = [
        TrialFacts(0, "rgb", {}, state="failed"),
        TrialFacts(1, "rgb", {}, state="finished", value=0.4),
        TrialFacts(2, "rgb", {}, waiting=True),
        TrialFacts(3, "rgb", {}, state="finished", value=0.6),
        TrialFacts(4, "rgb", {}),
        TrialFacts(5, "rgb", {}, state="stopped"),
    ]
    assert [trial.number for trial in shown_first(trials)] == [4, 3, 1, 2, 5, 0]


def test_time_left_is_that_of_the_budget_that_ends_first(facts):
    seconds = {number: trial.seconds for number, trial in facts.trials.items()}
    ended = [number for number, trial in facts.trials.items() if trial.state != "running"]
    mean = sum(seconds[number] for number in ended) / len(ended)
    by_trials = (1 * mean - seconds[7]) / 3600
    assert standing(facts).hours_left == pytest.approx(by_trials)
    used = sum(seconds.values()) / 3600
    plenty = with_budget(facts, trials=1000)
    assert standing(with_budget(plenty, gpu_hours=used + 0.5)).hours_left == pytest.approx(0.5)
    assert standing(with_budget(plenty, hours=3.0), launch_seconds=7200).hours_left == pytest.approx(1.0)
    assert standing(with_budget(plenty, gpu_hours=0.001)).hours_left == 0, "never less than nothing"


def test_budgets_are_counted_in_their_units(facts):
    line = plain_line(with_budget(facts, gpu_hours=48.0), launch_seconds=5400)
    assert "8 of 9 trials" in line
    assert "of 48 GPU-hours" in line
    assert "1.5 hours since start" in line


@pytest.mark.parametrize(("hours", "text"), [(0.5, "30 min"), (3.0, "3.0 hours"), (96.0, "4.0 days")])
def test_durations_have_the_unit_that_suits_them(hours, text):
    assert duration(hours) == text


def test_short_names_differ():
    names = ["segments", "seg", "snippet_frames", "sampling_form", "focal.alpha", "learning_rate"]
    short = short_names(names)
    assert short["seg"] == "seg"
    assert short["learning_rate"] == "lr"
    assert len(set(short.values())) == len(names)


def test_intervals_are_those_of_subjects_and_computed_once(tmp_path, monkeypatch):
    ledger = example_study(tmp_path)
    watched = Watched(ledger, "hand")
    watched.update()
    watched.measure(1)
    best = watched.facts.finished()[0]
    frame = watch.out_of_fold(ledger, best)
    assert watched.intervals == {best.number: cluster_interval(frame, "f1_weighted", ("normal", "mild", "severe"))}
    low, high = watched.intervals[best.number]
    assert low < best.value < high
    watched.measure(9)
    assert watched.intervals.keys() == {trial.number for trial in watched.facts.finished()}
    monkeypatch.setattr(watch, "cluster_interval", lambda *_: pytest.fail("computed again"))
    watched.measure(9)


def test_a_study_is_shown_as_a_table_and_all_as_lines(tmp_path, capsys):
    home = Home.open(tmp_path)
    show_studies(home, None)
    assert capsys.readouterr().out == "no study in this home yet\n"
    example_study(home.ledger)
    show_studies(home, None)
    assert capsys.readouterr().out.startswith("hand: 1 failed, 5 finished, 1 running, 2 stopped; best f1_weighted 0.7")
    show_studies(home, "hand")
    assert "95 % interval" in capsys.readouterr().out
    show_studies(home, "hand", as_json=True)
    (values,) = json.loads(capsys.readouterr().out)
    assert values["trials"] == {"finished": 5, "stopped": 2, "failed": 1, "running": 1}
    with pytest.raises(BadInput, match=r"did you mean 'hand'"):
        show_studies(home, "hnad")
    assert require_study(home, "hand").trials.keys() == set(range(9))


def test_where_there_is_no_terminal_a_line_is_printed_now_and_then_and_at_the_end(tmp_path, capsys, monkeypatch):
    ledger = example_study(tmp_path)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with live(ledger, "hand") as shown:
        for _ in range(30):
            now[0] += 1.0
            shown()
        assert len(capsys.readouterr().err.splitlines()) == 3
    assert capsys.readouterr().err.startswith("hand: ")


def test_watching_prints_a_json_line_at_first_and_per_change(tmp_path, capsys, monkeypatch):
    home = Home.open(tmp_path)
    log = example_study(home.ledger).study("hand")
    rounds = []

    def sleep(seconds):
        rounds.append(seconds)
        if len(rounds) == 3:
            log.append("stopped", trial=7, reason="stopped by hand")
        if len(rounds) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        watch.watch_studies(home, "hand", as_json=True)
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["trials"]["running"] == 1
    assert second["trials"]["stopped"] == 3
    assert second["last_reasons"]["stopped"] == "stopped by hand"


def test_an_empty_ledger_shows_that_there_is_nothing_yet(tmp_path):
    watched = Watched(Ledger(tmp_path), "hand")
    assert not watched.update()
    assert watched.line() == printed(watched.view(5)).strip() == "hand: no trial yet"
