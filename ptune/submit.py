"""A ptune command becomes a Ray Job on a cluster, is watched and stopped there. The only door to Ray Jobs.

What travels is the command line and one YAML file. Knows nothing of how commands are parsed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import re
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from ptune import __version__
from ptune.cluster import QUIET
from ptune.config import signature_of
from ptune.errors import BadInput, ClusterError

#: To connect, and to be answered.
TIMEOUT_SECONDS = (5.0, 60.0)
#: A job that was asked to end may take so long to leave; Ray's own 3 seconds are less than an epoch.
GRACE_SECONDS = 60
#: Someone who follows a job waits so long for a head that does not answer.
PATIENCE_SECONDS = 60.0
#: A log that is silent for so long may be one whose end got lost.
SILENCE_SECONDS = 10.0
#: Whose chatter of uploads and connections nobody needs.
CHATTER = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Errand:
    """A command for a cluster.

    Args:
        command: its name, `sweep` or `ledger gc`.
        study: what it is about: at most one job at a time runs the same command on the same study of the same home.
        arguments: what follows the command, in a folder that holds `files` and nothing else.
        home: where the cluster finds the study; "" where only the cluster knows.
        files: text of each file that travels, by its name.
    """

    command: str
    study: str
    arguments: tuple[str, ...]
    home: str = ""
    files: dict[str, str] = field(default_factory=dict)

    @property
    def entrypoint(self) -> str:
        """What the cluster runs: the installed ptune."""
        return shlex.join(["python", "-m", "ptune.cli", *self.command.split(), *self.arguments])

    @property
    def metadata(self) -> dict[str, str]:
        """What is stored with the job, by which it is found again."""
        own = {"ptune": __version__, "command": self.command, "study": self.study, "home": self.home}
        return own | {"content": signature_of([self.entrypoint, self.files])}


@dataclass(frozen=True)
class Job:
    """A ptune command as a cluster knows it; times are seconds since 1970.

    Args:
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        content: equal for errands that are equal in all.
    """

    id: str
    command: str
    study: str
    status: str
    started: float
    ended: float | None
    home: str
    content: str

    @property
    def over(self) -> bool:
        """Whether it has ended, however."""
        return self.status in ENDED

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        started = datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds")
        seconds = round((self.ended or time.time()) - self.started, 1)
        own = {name: getattr(self, name) for name in ("id", "command", "study", "status")}
        return own | {"started": started, "seconds": seconds}


@dataclass(frozen=True)
class Submitted:
    """What became of an errand: a new job, or one that does the same already; `same` is False where details differ."""

    job: Job
    address: str
    new: bool
    same: bool = True

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return self.job.facts() | {"new": self.new, "same": self.same}

    def text(self) -> str:
        """Returns how to watch it and how to stop it."""
        named = f"{self.job.id} --address {self.address}"
        stop = f"ptune stop {named}"
        watch = f"Watch: ptune logs {named} -f\nStop:  {stop}"
        if self.new:
            return f"{self.job.id} is submitted.\n{watch}"
        found = f"{self.job.id} does this already ({self.job.status.lower()}); nothing was submitted."
        if not self.same:
            found += f"\nIts settings are others than those given now: to have these, `{stop}` and submit again."
        return f"{found}\n{watch}"


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client, whose requests all end in bounded time."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": TIMEOUT_SECONDS} | options)

    def python_version(self) -> str:
        answer = self._do_request("GET", "/api/v0/cluster_metadata")
        answer.raise_for_status()
        return str(answer.json()["data"]["pythonVersion"])

    def ray_version(self) -> str:
        return str(self._server_ray_version)


class Cluster:
    """The jobs of one cluster.

    Args:
        address: of its dashboard; else RAY_API_SERVER_ADDRESS, else RAY_ADDRESS where that begins with http.

    Raises:
        BadInput: no address, or the cluster wants another token.
        ClusterError: nothing answers there, or no Ray.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = _address(address)
        for name in CHATTER:
            logging.getLogger(name).setLevel(logging.ERROR)
        # Ray lets the environment overrule the address that is given to its client.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        with self._explained():
            self._client = _Client(self.address, headers=_credentials())

    def submit(self, errand: Errand) -> Submitted:
        """Makes a job of an errand, or finds the one that is at it.

        Raises:
            BadInput: the cluster's Ray or Python is another; nothing was uploaded.
        """
        self._require_same_versions()
        for _ in range(10):
            jobs = self.jobs()
            alike = [job for job in jobs if (job.command, job.study) == (errand.command, errand.study)]
            for job in alike:
                if not job.over and job.home == errand.home:
                    return Submitted(job, self.address, new=False, same=job.content == errand.metadata["content"])
            stem = f"ptune-{errand.command.replace(' ', '-')}-{errand.study}"
            numbers = [re.fullmatch(rf"{re.escape(stem)}-(\d+)", job.id) for job in jobs]
            name = f"{stem}-{max((int(found[1]) for found in numbers if found), default=0) + 1}"
            if self._begin(errand, name):
                return Submitted(self.job(name), self.address, new=True)
        raise ClusterError(self.address, "others submit the same study again and again", "", "Try again.")

    def jobs(self) -> list[Job]:
        """Returns the jobs that ptune submitted, the oldest first."""
        with self._explained():
            found = self._client.list_jobs()
        return sorted((_job(each) for each in found if "ptune" in (each.metadata or {})), key=lambda job: job.started)

    def job(self, name: str) -> Job:
        """Returns a job by its id, or the last one of a study.

        Raises:
            BadInput: there is none.
        """
        jobs = self.jobs()
        found = [job for job in jobs if job.id == name] or [job for job in jobs if job.study == name]
        if not found:
            known = ", ".join(dict.fromkeys(job.id for job in jobs)) or "it has none"
            raise BadInput(f"job or study {name!r}", "is not on this cluster", f"one of its jobs: {known}")
        return found[-1]

    def running(self, name: str) -> list[Job]:
        """Returns the jobs that have not ended, of a study or with an id."""
        return [job for job in self.jobs() if name in (job.id, job.study) and not job.over]

    def stop(self, job: Job) -> Job:
        """Asks a job to end as Ctrl-C does, and returns it when it has; what does not leave in time is killed."""
        with self._explained():
            self._client.stop_job(job.id)
        until = time.monotonic() + GRACE_SECONDS + 10
        while not (job := self.job(job.id)).over and time.monotonic() < until:
            time.sleep(0.3)
        return job

    def logs(self, job: Job) -> str:
        """Returns what a job has printed so far."""
        with self._explained():
            return str(self._client.get_job_logs(job.id))

    def follow(self, job: Job, write: Callable[[str], object]) -> Job:
        """Writes what a job prints, each character once, until it has ended; returns it as it ended.

        Raises:
            ClusterError: the head does not answer any more.
        """
        shown, lost_at = 0, None
        while True:
            try:
                shown = asyncio.run(self._tail(job.id, shown, write))
                job = self.job(job.id)
                if job.over:
                    write(self.logs(job)[shown:])
                    return job
                lost_at = None
            except ClusterError:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > PATIENCE_SECONDS:
                    raise
            time.sleep(1.0)

    async def _tail(self, name: str, shown: int, write: Callable[[str], object]) -> int:
        """Writes what comes after the first `shown` characters until Ray ends the stream, or it is silent for long.

        Returns:
            How many characters were shown then.
        """
        seen = 0
        async for text in _until_silent(self._client.tail_job_logs(name)):
            new = text[max(shown - seen, 0) :]
            seen += len(text)
            if new:
                write(new)
                shown = seen
        return shown

    def _begin(self, errand: Errand, name: str) -> bool:
        """Returns whether the job is new: False where another has this id, taken a moment ago."""
        own = {name: os.environ[name] for name in ("PTUNE_TEAM",) if os.environ.get(name)}
        variables = QUIET | own | {"PTUNE_SUBMITTER": __version__, "RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_SECONDS)}
        with tempfile.TemporaryDirectory(prefix="ptune-submit-") as folder, self._explained():
            for file, text in errand.files.items():
                (Path(folder) / file).write_text(text, encoding="utf-8")
            environment: dict[str, Any] = {"env_vars": variables}
            if errand.files:
                environment["working_dir"] = folder
            try:
                self._client.submit_job(
                    entrypoint=errand.entrypoint,
                    submission_id=name,
                    runtime_env=environment,
                    metadata=errand.metadata,
                )
            except RuntimeError:
                if name in [job.id for job in self.jobs()]:
                    return False
                raise
        return True

    def _require_same_versions(self) -> None:
        with self._explained():
            there = {"Ray": self._client.ray_version(), "Python": _minor(self._client.python_version())}
        here = {"Ray": ray.__version__, "Python": _minor(platform.python_version())}
        if here != there:
            raise BadInput(
                self.address,
                " and ".join(f"{name} {version}" for name, version in there.items()),
                " and ".join(f"{name} {version}, as here" for name, version in here.items()),
                "Nothing was uploaded. Submit from an environment with the cluster's versions.",
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Says in ptune's words what Ray's client raises."""
        try:
            yield
        except AuthenticationError as error:
            found = "wants a token" if "required" in str(error) else "refuses this token"
            remedy = (
                "Put it into RAY_AUTH_TOKEN, or the path of its file into RAY_AUTH_TOKEN_PATH, or at ~/.ray/auth_token."
            )
            raise BadInput(self.address, found, "the token of this cluster", remedy) from None
        except OSError as error:
            raise ClusterError(
                self.address,
                f"does not answer ({type(error).__name__})",
                "the dashboard of a Ray cluster",
                "Check the address, and the tunnel to the head: ssh -L 8265:127.0.0.1:8265 HEAD.",
            ) from None
        except (RuntimeError, ValueError, KeyError) as error:
            found = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise ClusterError(self.address, found, "a Ray cluster that does as asked", "See its dashboard.") from None


async def _until_silent(stream: AsyncIterator[str]) -> AsyncIterator[str]:
    """Passes a log on; ends with it, when it breaks off, or when nothing comes for long."""
    while True:
        coming = asyncio.ensure_future(anext(stream))
        done, _ = await asyncio.wait({coming}, timeout=SILENCE_SECONDS)
        if not done:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            return
        try:
            text = coming.result()
        except (StopAsyncIteration, RuntimeError, OSError):
            return
        yield text


def _address(given: str | None) -> str:
    named = given or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS", "")
    if not re.match(r"https?://", named):
        raise BadInput(
            "address of the cluster",
            repr(named) if named else "is not given",
            "that of its dashboard, such as http://127.0.0.1:8265",
            "Give --address, or set RAY_API_SERVER_ADDRESS.",
        )
    return named.rstrip("/")


def _credentials() -> dict[str, str]:
    """Returns the header that shows the token, from where Ray looks for it, but not only once when it is imported."""
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not token and path.is_file():
        token = path.read_text(encoding="utf-8")
    return {"Authorization": f"Bearer {token.strip()}"} if token.strip() else {}


def _job(details: Any) -> Job:
    about = details.metadata
    return Job(
        details.submission_id,
        about["command"],
        about["study"],
        str(details.status.value),
        (details.start_time or 0) / 1000,
        details.end_time / 1000 if details.end_time else None,
        about["home"],
        about["content"],
    )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
