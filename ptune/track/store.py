"""The door to MLflow's runs: finds before it creates, writes in batches, and says the same thing twice harmlessly.

Knows runs, keys and metrics; knows nothing of trials, folds or the ledger.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ptune.cluster import stay_quiet
from ptune.home import Home
from ptune.track.team import in_team

stay_quiet()
# A retry inside MLflow sends a request again that the server may have committed: a second run of one trial.
# What failed is looked up and sent again by whoever called, so MLflow itself tries once.
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow.entities import DatasetInput, Metric, Param, Run, RunTag  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.ERROR)

BATCH = 1000
PARAMS_PER_BATCH = 100
#: The run of the study itself, among runs that are called by their trial's number.
STUDY_RUN = ""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Runs the body while no other process of this machine holds the lock file `path`."""
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def connect(home: Home) -> MlflowClient:
    """Returns a client of the home's tracking store, whose tables exist.

    A client makes the tables of an empty database. Two processes that do so at once fail, so that here it is one at a
    time; and one that dies meanwhile leaves a database that no client can use, so that it is made under another name.
    """
    if not home.tracking_uri.startswith("sqlite:"):
        return MlflowClient(tracking_uri=home.tracking_uri)
    path = Path(home.tracking_uri.removeprefix("sqlite:///"))
    with locked(home.root / ".mlflow.lock"):
        if not path.exists():
            for left in path.parent.glob(f".{path.name}.*part*"):
                left.unlink(missing_ok=True)
            # A name of its own, because MLflow goes on with what it has connected to once in this process.
            part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
            MlflowClient(tracking_uri=f"sqlite:///{part}")
            os.replace(part, path)
        return MlflowClient(tracking_uri=home.tracking_uri)


@dataclass
class KnownRun:
    """What MLflow has of a run, as of the last look or write.

    Args:
        steps: latest step of each metric.
    """

    run_id: str
    started: int
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    steps: dict[str, int]

    @classmethod
    def of(cls, run: Run) -> KnownRun:
        """Returns what matters of an MLflow run."""
        info, data = run.info, run.data
        steps = {metric.key: int(metric.step) for metric in data.to_proto().metrics}
        return cls(info.run_id, info.start_time, info.status, dict(data.tags), dict(data.params), steps)


class RunStore:
    """The runs of one study in its own experiment, each under a key: "" for the study, else a trial's number."""

    def __init__(self, home: Home, study: str) -> None:
        self.home, self.study = home, study
        self.client = connect(home)
        self.experiment = self._experiment()
        self.known = self._search()

    def _experiment(self) -> str:
        name = in_team(self.study)
        found = self.client.get_experiment_by_name(name)
        if found is None:
            embedded = self.home.tracking_uri == f"sqlite:///{self.home.root / 'mlflow.db'}"
            location = (self.home.artifacts / self.study).as_uri() if embedded else None
            return str(self.client.create_experiment(name, artifact_location=location))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _search(self) -> dict[str, KnownRun]:
        """Returns the study's runs by key; of doubles the oldest."""
        runs: dict[str, KnownRun] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment],
                f"tags.`ptune.study` = '{self.study}'",
                max_results=BATCH,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            for run in page:
                runs.setdefault(run.data.tags.get("ptune.trial", STUDY_RUN), KnownRun.of(run))
            token = page.token
            if not token:
                return runs

    def ensure(self, keys: Iterable[str]) -> list[str]:
        """Looks again when a key has no known run, and returns the keys that really have none."""
        if all(key in self.known for key in keys):
            return []
        self.known = self._search()
        return [key for key in keys if key not in self.known]

    def create(self, key: str, name: str, tags: Mapping[str, str], started: int) -> KnownRun:
        """Makes the run of `key`; the tags that find it again are part of the same request."""
        own = {"ptune.study": self.study, **({"ptune.trial": key} if key != STUDY_RUN else {}), **tags}
        run = KnownRun.of(self.client.create_run(self.experiment, start_time=started, tags=own, run_name=name))
        self.known[key] = run
        return run

    def log_dataset(self, run: KnownRun, dataset: DatasetInput) -> None:
        """Says which data a run used."""
        self.client.log_inputs(run.run_id, datasets=[dataset])

    def log_params(self, run: KnownRun, params: Mapping[str, object]) -> bool:
        """Logs the parameters that a run lacks and returns whether there were any."""
        fresh = {name: str(value) for name, value in params.items() if name not in run.params}
        rows = [Param(name, value) for name, value in fresh.items()]
        for start in range(0, len(rows), PARAMS_PER_BATCH):
            self.client.log_batch(run.run_id, params=rows[start : start + PARAMS_PER_BATCH])
        run.params |= fresh
        return bool(fresh)

    def log_metrics(self, run: KnownRun, points: Sequence[tuple[str, float, int]]) -> None:
        """Logs (name, value, step) in batches, finite values only.

        A step that a metric has got to is not logged again: a request that failed may have been carried out.
        """
        rows = [
            Metric(key, float(value), run.started + step, step)
            for name, value, step in points
            if math.isfinite(value) and step > run.steps.get(key := _key(name), -1)
        ]
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            self.client.log_batch(run.run_id, metrics=batch)
            run.steps |= {row.key: row.step for row in batch}

    def set_tags(self, run: KnownRun, tags: Mapping[str, str]) -> bool:
        """Sets the tags that differ and returns whether any did."""
        fresh = {name: value for name, value in tags.items() if run.tags.get(name, "") != value}
        if fresh:
            self.client.log_batch(run.run_id, tags=[RunTag(name, value) for name, value in fresh.items()])
            run.tags |= fresh
        return bool(fresh)

    def set_status(self, run: KnownRun, status: str, seconds: float) -> bool:
        """Sets a run's state, and its end `seconds` after its start; returns whether the state differed."""
        if run.status == status:
            return False
        if status == "RUNNING":
            self.client.update_run(run.run_id, status=status)
        else:
            self.client.set_terminated(run.run_id, status=status, end_time=run.started + int(seconds * 1000))
        run.status = status
        return True

    def put_files(self, run: KnownRun, files: Mapping[str, bytes]) -> None:
        """Stores artifacts by name, over those of the same name."""
        if not files:
            return
        with tempfile.TemporaryDirectory(prefix="ptune-") as scratch:
            for name, content in files.items():
                path = Path(scratch) / name
                path.write_bytes(content)
                self.client.log_artifact(run.run_id, str(path))


def _key(name: str) -> str:
    """Returns a metric's name with what MLflow refuses replaced by underscores."""
    return re.sub(r"[^\w\-./ ]", "_", name)
