"""The report is one page without the network, and without a word about who was filmed."""

import re
from pathlib import Path

import pytest

from ptune.replay import read_study
from ptune.results import plots
from ptune.results.methods import study_methods
from ptune.results.privacy import WITHHELD
from ptune.results.report import write_report
from tests.example_study import MANIFEST, SUBJECT, example_study


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("report")
    ledger = example_study(root / "ledger")
    facts = read_study(ledger, "hand")
    assert facts is not None
    extras = {"Held-out test": {"weighted F1": "70.1 <of 12 subjects>"}}
    return write_report(root / "out", "hand", facts, ledger, extras=extras).read_text()


def test_it_needs_nothing_from_elsewhere(html: str) -> None:
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]{0,80}', html)
    assert "<script" not in html
    assert html.count("<svg") == 7
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)
    assert len(ids) == len(set(ids))


def test_it_names_no_subject_and_no_file(html: str) -> None:
    for secret in (SUBJECT, MANIFEST, "visit.mp4", "/data"):
        assert secret not in html
    assert WITHHELD.split(";")[0] in html


def test_it_says_what_was_found_how_and_what_to_doubt(html: str) -> None:
    for part in (
        "always answering mild gives",
        "one-sided p",
        "always mild",
        "optimistic",
        "1 trial failed.",
        "Methods",
    ):
        assert part in html
    assert "70.1 &lt;of 12 subjects&gt;" in html


def test_a_study_that_just_began_has_a_report(tmp_path: Path) -> None:
    ledger = example_study(tmp_path / "ledger", trials=0)
    facts = read_study(ledger, "hand")
    assert facts is not None
    assert "No trial of 0 has finished yet." in write_report(tmp_path, "hand", facts, ledger).read_text()
    assert "60 videos of 12 subjects (task hand)" in study_methods(facts)


def test_plots_are_deterministic_pngs(tmp_path: Path) -> None:
    facts = read_study(example_study(tmp_path, trials=1), "hand")
    assert facts is not None
    first, second = (plots.png(plots.learning_curves(facts.trials[0], "f1_weighted")) for _ in range(2))
    assert first == second
    assert first.startswith(b"\x89PNG")
