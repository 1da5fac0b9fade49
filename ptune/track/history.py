"""The events of a registered model in the ledger; aliases and tags in MLflow follow them.

An event is durable before MLflow hears of it. Whoever changes the model next completes what a crash has left undone, so
that aliases move in the order of the events.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ptune.ledger import ModelLog

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE = "candidate"
CHAMPION = "champion"
#: The alias that an event moves.
ALIASES = {"registered": CANDIDATE, "promoted": CHAMPION, "rolled_back": CHAMPION}
#: Tags of a version: what it is made of, and the last event of it that MLflow has heard of.
IDENTITY = "ptune.identity"
EVENT = "ptune.event"
#: What of an event its version is tagged with.
TAGGED = ("at", "by", "former", "judged", "override")
#: How long a change waits for another to end; moving an alias takes a moment, checking a version's files some seconds.
PATIENCE_SECONDS = 60.0


class ModelHistory:
    """What became of one model; changed by one process at a time.

    Args:
        log: the model's events.
    """

    def __init__(self, log: ModelLog, client: MlflowClient, name: str) -> None:
        self.log, self.client, self.name = log, client, name
        self.events = log.events()

    @contextmanager
    def changing(self) -> Iterator[dict[str, Any] | None]:
        """Makes this process the only one to change the model, once another has ended.

        Yields:
            The event that a process which died had begun to carry out, and which is now; None where there is none.

        Raises:
            StudyBusy: the other does not end.
        """
        with self.log.lease(patience_seconds=PATIENCE_SECONDS):
            self.events = self.log.events()
            yield self._complete()

    def record(self, kind: str, version: ModelVersion, **content: Any) -> dict[str, Any]:
        """Adds an event with who and when, then moves the alias and tags the version; within `changing`.

        Args:
            kind: one of `ALIASES`.
            content: plain values, none of them about a subject.
        """
        event = self.log.append(
            kind,
            version=int(version.version),
            identity=version.tags[IDENTITY],
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            by=_user(),
            **content,
        )
        self.events.append(event)
        self._carry_out(event)
        return event

    def is_candidate(self, version: ModelVersion) -> bool:
        """Returns whether a version is the one that was registered last."""
        last: dict[str, Any] = next((item for item in reversed(self.events) if item["kind"] == "registered"), {})
        return (last.get("version"), last.get("identity")) == (int(version.version), version.tags[IDENTITY])

    def champions(self) -> list[int]:
        """Returns the champions that a rollback leads back to, the present one last."""
        found: list[int] = []
        for event in self.events:
            if event["kind"] == "promoted":
                former = event["former"]
                # An alias that was moved by other means than ptune's counts as it was found.
                found = [] if former is None else found if found[-1:] == [former] else [*found, former]
                found.append(int(event["version"]))
            elif event["kind"] == "rolled_back":
                found.pop()
        return found

    def _complete(self) -> dict[str, Any] | None:
        if not self.events:
            return None
        event = self.events[-1]
        tags = self._tags(int(event["version"]))
        # A tracking store that was lost has other versions under the same numbers.
        if tags.get(IDENTITY) != event["identity"] or tags.get(EVENT) == str(len(self.events)):
            return None
        self._carry_out(event)
        return event

    def _carry_out(self, event: Mapping[str, Any]) -> None:
        kind, version = event["kind"], str(event["version"])
        for field in TAGGED:
            if field in event:
                value = "" if event[field] is None else str(event[field])
                self.client.set_model_version_tag(self.name, version, f"ptune.{kind}.{field}", value)
        self.client.set_registered_model_alias(self.name, ALIASES[kind], version)
        self.client.set_model_version_tag(self.name, version, EVENT, str(len(self.events)))

    def _tags(self, version: int) -> Mapping[str, str]:
        found = self.client.search_model_versions(f"name = '{self.name}'")
        return next((dict(item.tags) for item in found if int(item.version) == version), {})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
