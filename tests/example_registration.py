"""Registration, promotion and rollback on real files and real SQLite, each ended by SIGKILL at any of its steps.

A step is a change that MLflow is about to make to its database, a change of ptune to the ledger, or a file that MLflow
copies into its artifacts, which is then cut in the middle. (Before a mere look nothing is other than before the next
step.) Run as a program it ends each operation at some or all of its steps, every time in a process of its own, looks at
what is left and runs the operation again in another, and prints a line of JSON for each; or it lets two processes make
and promote a candidate of their own, so many times each, and prints how aliases moved and what the log has of it:

    python -m tests.example_registration FOLDER some|all|NUMBER
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import mlflow.models.utils
import torch
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryTables
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingTables

from ptune.errors import PromotionRefused, PtuneError, RegistryError
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.track.project import Projector
from ptune.track.promotion import promote, rollback
from ptune.track.publish import register_study
from ptune.track.registry import Registry
from tests.example_registry import add_study, offer_judged

MODEL = "hand"
#: What MLflow calls a change of its tables.
CHANGES = ("create_", "set_", "update_", "delete_", "log_", "finalize_", "record_")
#: Everything by which ptune changes the ledger's folder, but for what only a loss of power could tell.
CALLS = ("open", "write", "replace", "link", "unlink", "mkdir")
#: Where MLflow's database has absolute paths, which are to be those of the copy.
PATHS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}


class Steps:
    """Counts the steps of this process from now on, and kills it at one of them.

    Args:
        at: number of the step, from 1; 0 for none.
    """

    def __init__(self, root: Path, at: int) -> None:
        self.ledger, self.artifacts = f"{root}/ledger/", f"{root}/artifacts/"
        self.at, self.names = at, list[str]()
        for tables in (TrackingTables, RegistryTables):
            for name in dir(tables):
                if name.startswith(CHANGES):
                    setattr(tables, name, self._table(name, getattr(tables, name)))
        for name in CALLS:
            setattr(os, name, self._disk(name, getattr(os, name)))
        shutil.copyfile = self._copy(shutil.copyfile)

    def _step(self, name: str, cut: Callable[[], object] = lambda: None) -> None:
        self.names.append(name)
        if len(self.names) == self.at:
            cut()
            os.kill(os.getpid(), signal.SIGKILL)

    def _table(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self._step(name)
            return original(*arguments, **options)

        return wrapped

    def _disk(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            reads = name == "open" and not arguments[1] & os.O_CREAT
            if not reads and any(_path(item).startswith(self.ledger) for item in arguments):
                self._step(f"{name} in the ledger")
            return original(*arguments, **options)

        return wrapped

    def _copy(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def cut(source: Any, target: Any) -> None:
            content = Path(source).read_bytes()
            Path(target).write_bytes(content[: len(content) // 2])

        def wrapped(source: Any, target: Any, **options: Any) -> Any:
            if str(target).startswith(self.artifacts):
                self._step("copy", partial(cut, source, target))
            return original(source, target, **options)

        return wrapped


def _path(item: Any) -> str:
    if isinstance(item, int) and not isinstance(item, bool):
        with suppress(OSError):
            return os.readlink(f"/proc/self/fd/{item}")
    return str(item) if isinstance(item, str | Path) else ""


@dataclass(frozen=True)
class Operation:
    """What is ended at each of its steps.

    Args:
        run: on a home that is as `prepare` leaves it.
        done: what it says, run again, when it had got to its end.
        after: what is to be, when it has run again.
    """

    run: Callable[[Home], object]
    done: str
    after: dict[str, Any]


PROMOTED = ["registered", "promoted", "registered", "promoted"]
OPERATIONS = {
    "register": Operation(
        lambda home: register_study(home, MODEL),
        "",
        {"versions": [1], "candidate": 1, "champion": None, "events": ["registered"], "uploads": 1, "decided": 1},
    ),
    "promote": Operation(
        lambda home: promote(home, MODEL),
        "is champion already",
        {"versions": [1, 2], "candidate": 2, "champion": 2, "events": PROMOTED, "former": "1"},
    ),
    "rollback": Operation(
        lambda home: rollback(home, MODEL),
        "is its first champion",
        {"versions": [1, 2], "candidate": 2, "champion": 1, "events": [*PROMOTED, "rolled_back"]},
    ),
}


def prepare(folder: Path) -> None:
    """Makes a home for each operation: a study; two versions, the first champion; the second champion, too."""
    home = Home.open(folder / "register")
    add_study(home, MODEL, 0.8)
    add_study(home, "other", 0.97)
    Projector(home, MODEL).sync()
    promoting = copy_home(home.root, folder / "promote")
    register_study(promoting, MODEL)
    promote(promoting, MODEL)
    offer_judged(promoting, MODEL, "other", Registry(promoting).version(MODEL, "champion"))
    promote(copy_home(promoting.root, folder / "rollback"), MODEL)


def copy_home(source: Path, target: Path) -> Home:
    """Copies a home, with its paths in MLflow's database."""
    shutil.copytree(source, target)
    with closing(sqlite3.connect(target / "mlflow.db")) as database, database:
        for table, column in PATHS.items():
            change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
            database.execute(change, (f"{source}/", f"{target}/"))
    return Home.open(target)


def state(home: Home) -> dict[str, Any]:
    """Returns what is there, having verified and loaded every version."""
    registry, ledger = Registry(home), Ledger(home.ledger)
    versions = sorted(registry.client.search_model_versions(f"name = '{MODEL}'"), key=lambda item: int(item.version))
    for version in versions:
        registry.verify(version)
    aliases = {}
    for alias in ("candidate", "champion"):
        try:
            aliases[alias] = int(registry.version(MODEL, alias).version)
        except RegistryError:
            aliases[alias] = None
    experiment = registry.client.get_experiment_by_name(MODEL).experiment_id
    return aliases | {
        "versions": [int(version.version) for version in versions],
        "former": versions[-1].tags.get("ptune.promoted.former") if versions else None,
        "events": [event["kind"] for event in ledger.model(MODEL).events()],
        "uploads": len(registry.client.search_logged_models([experiment])),
        "decided": sum(event.get("what") == "registered" for event in ledger.study(MODEL).events()),
    }


def look_and_run_again(home: Home, operation: Operation) -> list[str]:
    """Returns what is wrong: an alias that names no whole version before, and whatever is not as it should be after."""
    found = state(home)
    problems = [
        f"{alias} names version {found[alias]} of {found['versions']}"
        for alias in ("candidate", "champion")
        if found[alias] not in (None, *found["versions"])
    ]
    try:
        operation.run(home)
    except (PromotionRefused, RegistryError) as error:
        if not operation.done or operation.done not in str(error):
            problems.append(f"run again: {error}")
    now = state(home)
    return problems + [
        f"{key} is {now[key]}, not {value}" for key, value in operation.after.items() if now[key] != value
    ]


def in_child(work: Callable[[], object]) -> tuple[int, Any]:
    """Returns how a forked process ended (0, or minus a signal's number) and what `work` gave it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        # What a process leaves that dies does not depend on it, and much time does.
        os.fsync = lambda descriptor: None  # type: ignore[assignment]
        # MLflow tries the model on its example; this takes long and changes nothing.
        mlflow.models.utils._validate_serving_input = lambda **_: None
        torch.set_num_threads(1)
        try:
            result = work()
        except PtuneError as error:
            result = [str(error)]
        with os.fdopen(writing, "w") as pipe:
            json.dump(result, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        content = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, json.loads(content) if content else None


def crash(folder: Path, name: str, at: int) -> list[str]:
    """Runs an operation in a process that dies at step `at` (0: nowhere, and its steps are returned)."""
    home = copy_home(folder / name, folder / f"{name}-{at}")
    steps = Steps(home.root, at)
    OPERATIONS[name].run(home)
    return steps.names


def chosen(names: list[str], everything: bool) -> list[int]:
    """Returns numbers of steps, from 1: all; or every fourth, a copy and each that makes or names a version."""
    if everything:
        return list(range(1, len(names) + 1))
    changes = [number for number, name in enumerate(names, 1) if name != "copy"]
    copies = [number for number, name in enumerate(names, 1) if name == "copy"]
    named = [
        number for number in changes if names[number - 1] in ("create_model_version", "set_registered_model_alias")
    ]
    return sorted({*changes[::4], *named, *copies[len(copies) // 2 :][:1]})


def battery(folder: Path, everything: bool) -> Iterator[dict[str, Any]]:
    """Yields for each operation its steps, at how many it was ended, and what was wrong."""
    status, _ = in_child(partial(prepare, folder))
    assert status == 0
    for name, operation in OPERATIONS.items():
        _, names = in_child(partial(crash, folder, name, 0))
        problems, numbers = {}, chosen(names, everything)
        for number in numbers:
            status, _ = in_child(partial(crash, folder, name, number))
            home = Home(folder / f"{name}-{number}", folder / f"{name}-{number}" / "features")
            _, wrong = in_child(partial(look_and_run_again, home, operation))
            if status != -signal.SIGKILL or wrong != []:
                problems[f"{number}: {names[number - 1]}"] = wrong or f"ended with {status}"
            shutil.rmtree(home.root)
        yield {"operation": name, "steps": len(names), "ended": len(numbers), "problems": problems}


def promoter(home: Home, number: int, rounds: int, moves: Path, turn: Barrier) -> None:
    """Makes a version the candidate and promotes whatever is the candidate then, so many times and at odd moments."""
    original = RegistryTables.set_registered_model_alias

    def noted(tables: Any, name: str, alias: str, version: str) -> None:
        original(tables, name, alias, version)
        with open(moves, "a") as lines:
            lines.write(f"{alias} {version}\n")

    RegistryTables.set_registered_model_alias = noted
    registry = Registry(home)
    version = registry.numbered(MODEL, number)
    for _ in range(rounds):
        turn.wait()
        time.sleep(random.uniform(0, 0.2))
        history = registry.history(MODEL)
        with history.changing():
            history.record("registered", version)
        with suppress(PromotionRefused):
            promote(home, MODEL, margin=0.9)


def race(folder: Path, rounds: int) -> dict[str, Any]:
    """Lets two promoters race and returns what the log has, how aliases moved and where they ended."""
    assert in_child(partial(prepare, folder))[0] == 0
    home, moves = Home(folder / "promote", folder / "promote" / "features"), folder / "moves"
    context = get_context("fork")
    turn = context.Barrier(2)
    racers = [
        context.Process(target=in_child, args=(partial(promoter, home, number, rounds, moves, turn),))
        for number in (1, 2)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0]
    _, found = in_child(partial(state, home))
    events = Ledger(home.ledger).model(MODEL).events()
    return found | {"log": events, "moves": moves.read_text().splitlines()}


if __name__ == "__main__":
    if sys.argv[2].isdigit():
        print(json.dumps(race(Path(sys.argv[1]), int(sys.argv[2]))))
    else:
        for line in battery(Path(sys.argv[1]), sys.argv[2] == "all"):
            print(json.dumps(line), flush=True)
