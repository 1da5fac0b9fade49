"""A candidate becomes champion when its evidence allows it, on the same videos of the same subjects; and back.

Both versions' predictions are read from the ledger and compared by resampling subjects. Knows nothing of how a
version came about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptune.errors import BadInput, PromotionRefused, RegistryError
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.metrics import majority, majority_class
from ptune.results.stats import Difference, paired_bootstrap, why_not_comparable
from ptune.track.evidence import Recorded
from ptune.track.history import CANDIDATE, CHAMPION
from ptune.track.registry import Registry
from ptune.track.team import in_team

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities.model_registry import ModelVersion

#: By how much a candidate may be worse than the champion, in units of the metric, as far as its evidence can tell.
MARGIN = 0.05


@dataclass(frozen=True)
class Promotion:
    """A promotion that was made.

    Args:
        former: the champion before, where there was one.
        judged: what the evidence says, "" where it was overridden.
        override: why the candidate was promoted though its evidence does not allow it; "" where it does.
    """

    name: str
    version: int
    former: int | None
    judged: str
    override: str

    @property
    def reason(self) -> str:
        """What the promotion rests on."""
        return self.judged or f"overridden: {self.override}"

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "model": self.name,
            "version": self.version,
            "former": self.former,
            "reason": self.reason,
            "override": self.override,
        }

    def text(self) -> str:
        """Returns a sentence."""
        return f"{self.name} version {self.version} is the champion: {self.reason}"


def promote(home: Home, name: str, margin: float = MARGIN, override: str | None = None) -> Promotion:
    """Makes the candidate of a model champion, if it beats the majority class or is not inferior to the champion.

    Args:
        margin: by how much of the metric the interval of the difference from the champion may reach below zero.
        override: promote whatever the evidence says, for this reason, which is recorded with who and when.

    Raises:
        PromotionRefused: the evidence does not allow it or does not compare; nothing was changed.
        RegistryError: there is no such model or candidate, or the candidate's files are not what was registered.
        StudyBusy: another process keeps changing the model.
    """
    if not 0 <= margin < 1:
        raise BadInput("--margin", f"is {margin:g}", "0 or more, and less than 1", "The default is 0.05.")
    if override is not None and not override.strip():
        raise BadInput("--override", "has no reason", "why the evidence may be passed over", "Say it in a sentence.")
    registry, name = Registry(home), in_team(name)
    registry.version(name, CANDIDATE)
    history = registry.history(name)
    with history.changing() as completed:
        candidate, champion = registry.version(name, CANDIDATE), registry.champion(name)
        number = int(candidate.version)
        if completed is not None and completed["kind"] == "promoted" and completed["version"] == number:
            return _promotion(name, completed)
        if champion is not None and champion.version == candidate.version:
            raise PromotionRefused(
                f"model {name!r}", f"version {number} is champion already", "", "`ptune register` makes a candidate."
            )
        registry.verify(candidate)
        judged, refused = "", ""
        try:
            judged = _judge(name, Ledger(home.ledger), candidate, champion, margin)
        except PromotionRefused as refusal:
            if override is None:
                raise
            refused = f"{refusal.found}"
        event = history.record(
            "promoted",
            candidate,
            former=int(champion.version) if champion else None,
            judged=judged,
            override=override.strip() if override and refused else "",
            refused=refused,
            margin=margin,
        )
    return _promotion(name, event)


def rollback(home: Home, name: str) -> int:
    """Makes the champion before the present one champion again and returns its version; again, the one before that.

    Raises:
        RegistryError: there is none before, or its files are not what was registered.
        StudyBusy: another process keeps changing the model.
    """
    registry, name = Registry(home), in_team(name)
    registry.version(name, CHAMPION)
    history = registry.history(name)
    with history.changing() as completed:
        if completed is not None and completed["kind"] == "rolled_back":
            return int(completed["version"])
        present = int(registry.version(name, CHAMPION).version)
        known = history.champions()
        if known[-1:] != [present]:
            raise RegistryError(
                f"model {name!r}",
                f"version {present} was not made champion by ptune, so that nobody knows which was before",
                "a champion that `ptune promote` made",
                "Move the alias where you moved it before.",
            )
        if len(known) < 2:
            raise RegistryError(
                f"model {name!r}", f"version {present} is its first champion", "one that was promoted after another"
            )
        former = registry.numbered(name, known[-2])
        registry.verify(former)
        history.record("rolled_back", former, former=present)
    return int(former.version)


def _promotion(name: str, event: dict[str, Any]) -> Promotion:
    return Promotion(name, event["version"], event["former"], event["judged"], event["override"])


def _judge(name: str, ledger: Ledger, candidate: ModelVersion, champion: ModelVersion | None, margin: float) -> str:
    """Returns why the candidate may be champion, or refuses."""
    own = Recorded.of(candidate.tags)
    frame = own.frame(ledger, _called(name, candidate))
    if champion is None:
        return _against_majority(name, own, frame)
    return _against_champion(name, ledger, own, frame, champion, margin)


def _against_majority(name: str, own: Recorded, frame: pd.DataFrame) -> str:
    labels, classes = frame["label"].to_numpy(), len(own.classes)
    constant = frame.assign(probabilities=list(majority(labels, classes)))
    found = paired_bootstrap(frame, constant, own.metric, own.classes)
    answer = f"always answering {own.classes[majority_class(labels, classes)]} ({found.other:.3f})"
    said = f"{own.metric} {found.one:.3f} against {answer}: {_told(found)}"
    if not found.interval[0] > 0:
        raise PromotionRefused(
            f"model {name!r}",
            f"the candidate is not shown to be better than the majority class. {said}",
            "an interval above 0",
            "Extend the study or look at the data; --override REASON promotes it all the same.",
        )
    return said


def _against_champion(
    name: str, ledger: Ledger, own: Recorded, frame: pd.DataFrame, champion: ModelVersion, margin: float
) -> str:
    other = Recorded.of(champion.tags)
    if (other.metric, other.classes) != (own.metric, own.classes):
        raise _incomparable(
            name,
            f"the champion was chosen by {other.metric} over {', '.join(other.classes)}, the candidate by {own.metric} "
            f"over {', '.join(own.classes)}",
        )
    theirs = other.frame(ledger, _called(name, champion))
    problem = why_not_comparable(frame, theirs, ("the candidate", "the champion"))
    if problem:
        raise _incomparable(name, problem)
    found = paired_bootstrap(frame, theirs, own.metric, own.classes)
    said = (
        f"{own.metric} {found.one:.3f} against the champion's {found.other:.3f} on the same videos: {_told(found)}, "
        f"margin {margin:g}"
    )
    if not found.interval[0] > -margin:
        raise PromotionRefused(
            f"model {name!r}",
            f"the candidate may be worse than the champion. {said}",
            f"an interval above {0 - margin:g}",
            "Extend the study; --override REASON promotes it all the same.",
        )
    return said


def _incomparable(name: str, found: str) -> PromotionRefused:
    return PromotionRefused(
        f"model {name!r}",
        f"the evidence of candidate and champion does not compare: {found}",
        "the same videos, subjects, folds, labels and metric",
        "Run the candidate's study on the champion's cohort and folds; --override REASON promotes it all the same.",
    )


def _told(found: Difference) -> str:
    low, high = found.interval
    return (
        f"difference {found.difference:+.3f} (95 % interval {low:+.3f} to {high:+.3f}, resampling "
        f"{found.subjects} subjects)"
    )


def _called(name: str, version: ModelVersion) -> str:
    return f"model {name!r}, version {version.version}"
