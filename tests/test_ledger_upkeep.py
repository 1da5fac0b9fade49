"""`ptune ledger check` finds what is wrong, `ptune ledger gc` what may go; neither touches what is in use."""

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from ptune.cli import cli
from ptune.errors import StorageError
from ptune.ledger import Ledger, predictions_table
from ptune.ledger.layout import CHECKPOINT, COMPLETE, SPEC, WEIGHTS, fit_folder
from ptune.replay import read_study
from ptune.upkeep.check import check
from ptune.upkeep.collect import find_garbage, remove_garbage
from tests.example_features import example_spec, example_videos
from tests.example_places import folder_or_prefix, s3_server
from tests.example_study import example_config, example_study
from tests.test_ledger import ROWS

FIXTURES = Path(__file__).parent / "fixtures"
SPEC_OF_NOBODY = example_spec(example_videos(), {"S06"})


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return example_study(tmp_path_factory.mktemp("example")).store.root


@pytest.fixture
def ledger(tmp_path, example):
    """Nine trials: five finished, two stopped, one failed, one running that has one of its fits."""
    shutil.copytree(example, tmp_path / "ledger")
    return Ledger(tmp_path / "ledger")


def age(ledger, hours=2.0):
    """Makes all files look as if they had been there for a while."""
    for path in ledger.store.root.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 3600 * hours,) * 2)


def add(ledger, spec=SPEC_OF_NOBODY):
    return ledger.add_fit(spec, [{"loss": 0.5}], predictions_table(ROWS), b"weights", {"seconds": 2.0})


def half_way(path):
    path.write_bytes(b"half way")


def stream_of(ledger, state, epochs=12):
    trial = next(trial for trial in read_study(ledger, "hand").trials.values() if trial.state == state)
    return example_config("hand", epochs).stream(trial.params)


def problems(ledger):
    return {str(finding) for finding in check(ledger).problems}


def test_a_sound_ledger_has_no_problems(ledger):
    health = check(ledger)
    assert (health.fits, health.studies, health.problems, health.notes) == (16, 1, [], [])
    assert health.text() == "16 finished fits, 1 studies, 0 problems"
    shutil.rmtree(ledger.store.root)
    assert check(ledger).text() == "0 finished fits, 0 studies, 0 problems"


@pytest.mark.parametrize("version", [1, 2])
def test_a_ledger_of_every_layout_is_sound(tmp_path, version):
    shutil.copytree(FIXTURES / f"ledger-{version}", tmp_path / "ledger")
    health = check(Ledger(tmp_path / "ledger"))
    assert (health.fits, health.studies, health.problems, health.notes) == (2, 1, [], [])


def test_damage_to_any_file_of_a_fit_is_a_problem_with_a_remedy(ledger):
    record = ledger.find_fit(ledger.fits()[0])
    folder = fit_folder(record.signature)
    for role in (SPEC, WEIGHTS):
        kept = record.read(role)
        ledger.store.put(record.name(role), kept[:-1] + b"x")
        assert problems(ledger) == {
            f"fit {record.signature}: {role} is missing or differs from its checksum. "
            f"Remove {folder} from the ledger to train this fit again."
        }
        ledger.store.put(record.name(role), kept)
    ledger.store.put(f"{folder}/{COMPLETE}", b"{")
    assert any("complete.json is not a completion record" in problem for problem in problems(ledger))


def test_a_fit_in_anothers_place_is_a_problem(ledger):
    one, other = ledger.fits()[:2]
    shutil.rmtree(ledger.store.root / fit_folder(other))
    shutil.copytree(ledger.store.root / fit_folder(one), ledger.store.root / fit_folder(other))
    assert any(f"fit {other}: is the result of another specification" in problem for problem in problems(ledger))


def test_a_finished_trial_without_its_fit_is_a_problem(ledger):
    signature = read_study(ledger, "hand").trials[0].fits[1]
    shutil.rmtree(ledger.store.root / fit_folder(signature))
    assert len(problems(ledger)) == 1
    assert f"study hand: trial 0 has lost 1 of its 3 fits: {signature}" in problems(ledger).pop()


def test_altered_and_contradicting_events_are_problems(ledger):
    path = ledger.store.root / "studies/hand/events.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"trial":3', b'"trial":4', 1))
    assert any("does not match its checksum" in problem for problem in problems(ledger))
    path.write_bytes(whole)
    ledger.study("hand").append("finished", trial=77, value=0.5, metrics={})
    assert any("study hand: its events contradict each other" in problem for problem in problems(ledger))


def test_what_a_crash_leaves_is_noted_and_no_problem(ledger):
    root = ledger.store.root
    with open(root / "studies/hand/events.jsonl", "ab") as handle:
        handle.write(b'0123 {"kind":"rep')
    (root / "fits/.spec.json.0123.part").write_text("half")
    (root / "fits/notes.txt").write_text("mine")
    ledger.save_checkpoint(SPEC_OF_NOBODY, half_way)
    signature = SPEC_OF_NOBODY.signature()
    assert problems(ledger) == set()
    notes = {finding.where: finding.found for finding in check(ledger).notes}
    assert notes == {
        "study hand": "a crash tore 1 lines of its events; they never were",
        "fits/.spec.json.0123.part": "was left by a writer that was killed",
        "fits/notes.txt": "was not written by ptune",
        f"fit {signature}": "unfinished, with a checkpoint of 8 bytes",
    }
    with ledger.claim(signature), ledger.study("hand").lease():
        notes = {finding.where: finding.found for finding in check(ledger).notes}
    assert f"being trained by process {os.getpid()} on" in notes[f"fit {signature}"]
    assert f"is being run by process {os.getpid()} on" in notes["study hand"]


def test_all_that_studies_refer_to_is_kept(ledger):
    age(ledger)
    assert find_garbage(ledger).items == []


def test_a_fit_that_nothing_names_may_go_unless_it_is_young(ledger):
    record = add(ledger)
    assert find_garbage(ledger).items == []
    age(ledger)
    (item,) = find_garbage(ledger).items
    assert item.what == f"fit {record.signature}"
    assert len(item.names) == 5
    assert item.bytes > 7
    assert ledger.find_fit(record.signature) is not None, "a dry run removes nothing"
    assert remove_garbage(ledger).items == [item]
    assert record.signature not in ledger.fits()
    assert problems(ledger) == set()


def test_fits_of_registered_models_are_kept_and_those_of_older_events_too(ledger):
    stream = stream_of(ledger, "finished")
    refit = SPEC_OF_NOBODY.model_copy(update={"stream": stream, "held_out": (), "fold": -1})
    record = add(ledger, refit)
    age(ledger)
    assert len(find_garbage(ledger).items) == 1
    log = ledger.study("hand")
    log.append("decided", what="registered", version="1", members={}, fits=[record.signature])
    assert find_garbage(ledger).items == []
    shutil.rmtree(ledger.store.root / fit_folder(record.signature))
    assert any("version 1 has lost 1 of its 1 fits" in problem for problem in problems(ledger))


def test_a_model_registered_before_events_named_its_fits_keeps_them(ledger):
    stream = stream_of(ledger, "finished")
    add(ledger, SPEC_OF_NOBODY.model_copy(update={"stream": stream, "held_out": (), "fold": -1}))
    ledger.study("hand").append("decided", what="registered", version="1", members={})
    age(ledger)
    assert find_garbage(ledger).items == []


@pytest.mark.parametrize(("state", "kept"), [("stopped", False), ("failed", False), ("running", True)])
def test_checkpoints_go_with_the_trials_that_were_stopped_or_failed(ledger, state, kept):
    spec = SPEC_OF_NOBODY.model_copy(update={"stream": stream_of(ledger, state)})
    ledger.save_checkpoint(spec, half_way)
    age(ledger)
    items = find_garbage(ledger).items
    assert [item.what for item in items] == ([] if kept else [f"fit {spec.signature()}"])
    with ledger.claim(spec.signature()):
        assert find_garbage(ledger).items == [], "a worker is at it"


def test_a_fit_that_a_running_trial_is_about_to_name_is_kept(ledger):
    add(ledger, SPEC_OF_NOBODY.model_copy(update={"stream": stream_of(ledger, "running")}))
    age(ledger)
    assert find_garbage(ledger).items == []


def test_as_long_as_a_study_is_run_only_leftovers_go(ledger):
    add(ledger)
    (ledger.store.root / "fits/.weights.0123.part").write_text("half")
    age(ledger)
    with ledger.study("hand").lease():
        garbage = remove_garbage(ledger)
    assert [item.what for item in garbage.items] == ["fits/.weights.0123.part"]
    assert "kept while studies are being run: hand" in garbage.text(True)
    assert len(remove_garbage(ledger).items) == 1


def with_table(ledger, named=True):
    """Keeps a table with the study `hand`, named by an event or, as after a crash, by none; returns its path."""
    log = ledger.study("hand")
    digest = log.keep(predictions_table(ROWS))
    if named:
        content = {"row": "nuisance", "name": "nuisance only", "note": "", "signature": "a" * 32, "table": digest}
        log.append("decided", what="baseline", **content)
    assert log.table(digest).to_pylist() == predictions_table(ROWS).to_pylist()
    return ledger.store.root / f"studies/hand/tables/{digest}.arrow"


def test_a_table_that_an_event_names_is_verified_and_kept(ledger):
    path = with_table(ledger)
    age(ledger)
    assert (check(ledger).problems, check(ledger).notes, find_garbage(ledger).items) == ([], [], [])
    for content in (path.read_bytes()[:-1], None):
        path.unlink() if content is None else path.write_bytes(content)
        (problem,) = problems(ledger)
        assert problem.startswith(f"study hand, table {path.stem[:16]}: is missing or differs from its checksum")
        assert "Run its sweep again" in problem


def test_a_table_that_no_event_names_goes_unless_its_study_is_run(ledger):
    path = with_table(ledger, named=False)
    assert find_garbage(ledger).items == [], "an event may be about to name it"
    age(ledger)
    with ledger.study("hand").lease():
        assert find_garbage(ledger).items == []
    (item,) = remove_garbage(ledger).items
    assert item.names == (f"studies/hand/tables/{path.name}",)
    assert not path.exists()


def test_studies_that_cannot_be_listed_are_no_reason_to_remove_their_fits(ledger, monkeypatch):
    age(ledger)
    scandir = os.scandir

    def refuses(path):
        if str(path).endswith("studies"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuses)
    for use in (find_garbage, remove_garbage, check):
        with pytest.raises(StorageError, match="Input/output error"):
            use(ledger)


def test_a_part_of_the_ledger_that_lies_elsewhere_by_a_link_belongs_to_it(ledger, tmp_path):
    age(ledger)
    shutil.move(ledger.store.root / "studies", tmp_path / "elsewhere")
    (ledger.store.root / "studies").symlink_to(tmp_path / "elsewhere")
    assert find_garbage(ledger).items == []
    assert check(ledger).studies == 1


def test_files_that_a_finished_fit_needs_no_more_go(ledger):
    signature = ledger.fits()[0]
    root = ledger.store.root / fit_folder(signature)
    (root / CHECKPOINT).write_bytes(b"left by a crash between the fit's last write and this file's removal")
    ledger.claim(signature).release()
    age(ledger)
    assert remove_garbage(ledger).items[0].what == f"fit {signature}"
    assert not (root / CHECKPOINT).exists()
    assert not (root / "claim").exists()
    assert ledger.find_fit(signature) is not None


def test_both_commands_on_an_object_store(tmp_path, monkeypatch):
    with s3_server() as bucket:
        place = folder_or_prefix("object store", tmp_path, bucket)
        ledger = Ledger(place)
        record = add(ledger)
        ledger.store.put("fits/x~" + "0" * 32, b"candidate")
        monkeypatch.setenv("PTUNE_LEDGER", str(place))
        monkeypatch.setattr("ptune.upkeep.collect.YOUNG_SECONDS", -1.0)
        run = CliRunner(catch_exceptions=False)
        home = ["--home", str(tmp_path / "home")]
        done = run.invoke(cli, ["ledger", "check", "--json", *home], standalone_mode=False)
        found = json.loads(done.stdout)
        assert done.return_value == 0
        assert (found["fits"], found["problems"], len(found["notes"])) == (1, [], 1)
        done = run.invoke(cli, ["ledger", "gc", *home], standalone_mode=False)
        assert "Nothing was removed; `ptune ledger gc --delete` removes it." in done.stdout
        done = run.invoke(cli, ["ledger", "gc", "--delete", *home], standalone_mode=False)
        assert f"fit {record.signature}: no study event and no registered model names it" in done.stdout
        assert [entry.name for entry in ledger.store.entries("")] == ["ledger.json"]
        add(ledger)
        ledger.store.put(record.name(WEIGHTS), b"weightS")
        monkeypatch.delenv("PTUNE_LEDGER")
        done = run.invoke(cli, ["ledger", "check", *home, "--ledger", str(place)], standalone_mode=False)
        assert done.return_value == 1
        assert "problem: fit" in done.stdout
