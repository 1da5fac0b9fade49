"""Every way ptune can refuse or fail, as one tree; each class says in a line what happened.

A message has four parts in one order: where, what was found, what was expected, what to do next.
"""

from __future__ import annotations


class PtuneError(Exception):
    """Base of all errors that ptune raises on purpose.

    Args:
        where: the file, line, field or object at fault.
        found: what is there.
        expected: what should be there.
        remedy: what the reader can do next.
    """

    exit_code = 2

    def __init__(self, where: str, found: str, expected: str = "", remedy: str = "") -> None:
        self.where, self.found, self.expected, self.remedy = where, found, expected, remedy
        super().__init__(where, found, expected, remedy)

    def __str__(self) -> str:
        text = f"{self.where}: {self.found}"
        if self.expected:
            text += f"; expected {self.expected}"
        if self.remedy:
            text += f". {self.remedy}"
        return text


class BadInput(PtuneError):
    """What the user gave cannot be used; nothing was changed."""


class ConfigError(BadInput):
    """A setting, search space or YAML file says something ptune does not understand."""


class ManifestError(BadInput):
    """Rows or columns of a manifest are wrong; all of them are listed at once."""

    def __init__(self, where: str, problems: list[str], remedy: str = "Correct them and run again.") -> None:
        self.problems = problems
        count = f"{len(problems)} problem" + ("" if len(problems) == 1 else "s")
        super().__init__(where, count + "\n  " + "\n  ".join(problems) + "\n", "", remedy)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.where, self.problems, self.remedy)

    def __str__(self) -> str:
        return f"{self.where}: {self.found}{self.remedy}"


class FoldError(BadInput):
    """Subjects cannot be split as asked."""


class HomeError(BadInput):
    """The home folder cannot be used."""


class WeightsError(BadInput):
    """Pretrained weights are missing or are not what they claim to be."""


class VideoError(PtuneError):
    """A video cannot be used; `reason` is the word that the quarantine table shows.

    Args:
        reason: what is wrong with the video (unreadable, damaged, truncated, too_short, too_small, too_large) or what
            became of the process that decoded it (timeout, crashed).
        detail: what was seen; carries no path and no subject.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__("video", f"{reason.replace('_', ' ')}: {detail}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason, self.detail)


class FeatureError(PtuneError):
    """The feature store lacks a record or holds a broken one."""


class LedgerError(PtuneError):
    """The ledger holds something that contradicts itself."""


class StorageError(PtuneError):
    """The ledger's disk or object store refused to read or write; what was there before is unchanged."""

    exit_code = 1


class ClusterError(PtuneError):
    """A Ray cluster does not answer, or does not do what it was asked."""

    exit_code = 1


class StudyBusy(BadInput):
    """Another process runs this study."""


class LeaseLost(PtuneError):
    """This process stopped renewing what it held, and another may have taken it over."""

    exit_code = 1


class StudyChanged(BadInput):
    """A study of this name exists with another cohort, folds, task or objective."""


class FitFailed(PtuneError):
    """Training one fit ended without usable weights."""

    exit_code = 1


class RegistryError(BadInput):
    """A model or alias is not in the registry, or is incomplete."""


class PromotionRefused(PtuneError):
    """The candidate's evidence does not allow it to become champion."""

    exit_code = 1
