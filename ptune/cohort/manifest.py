"""A manifest file becomes checked videos: every problem of every row is reported at once.

Knows nothing of folds, and of a video only its bytes: whether they decode is for extraction to find out.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ptune.cohort.rows import read_rows
from ptune.cohort.truth import rendered_files
from ptune.config.base import nearest
from ptune.config.stream import ClassGrouping
from ptune.errors import ConfigError, ManifestError
from ptune.home import sha256_file
from ptune.progress import progress

REQUIRED = ("video", "subject", "task", "score")
#: What a clinician notes; no part of a video's id or of a manifest's digest.
NOTED = ("side", "visit")
PART = ("start_seconds", "end_seconds")
#: Accepted only while empty: ignoring their values would change results behind the reader's back.
RESERVED = ("rater", "fold", "sha256")
COLUMNS = REQUIRED + NOTED + PART + RESERVED
MANY_FILES = 200


@dataclass(frozen=True)
class Video:
    """One scored video.

    Args:
        id: first 16 hex digits of the content's sha256; never derived from the file name.
        path: where the file is.
        subject: pseudonym of the person, the unit of splitting.
        task: what the person does, free text.
        score: the clinician's integer.
        line: where the manifest names it; row number for Parquet.
        start_seconds, end_seconds: the part of the file that is meant; None is the file's end.
        side, visit: plain text, "" where the manifest says nothing; a visit's date is as private as the subject.

    Raises:
        ValueError: a field that no checked manifest can hold.
    """

    id: str
    path: Path
    subject: str
    task: str
    score: int
    line: int
    start_seconds: float = 0.0
    end_seconds: float | None = None
    side: str = ""
    visit: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{16}", self.id):
            raise ValueError(f"video id {self.id!r} is not 16 hex digits")
        if not self.subject.strip() or not self.task.strip():
            raise ValueError(f"video {self.id} has no {'task' if self.subject.strip() else 'subject'}")
        if type(self.score) is not int or self.score < 0:
            raise ValueError(f"video {self.id} has score {self.score!r}, not an integer from 0")
        if self.line < 1:
            raise ValueError(f"video {self.id} is on line {self.line}; lines count from 1")
        if not 0 <= self.start_seconds < (math.inf if self.end_seconds is None else self.end_seconds):
            raise ValueError(f"video {self.id} goes from {self.start_seconds} to {self.end_seconds} seconds")


@dataclass(frozen=True)
class Manifest:
    """The checked videos of a cohort and how their scores become classes.

    Args:
        synthetic: every video was rendered by `ptune cohort synth`, as the truth beside the manifest shows.
    """

    path: Path
    videos: tuple[Video, ...]
    grouping: ClassGrouping
    synthetic: bool = False

    def __post_init__(self) -> None:
        if not self.videos:
            raise ValueError("a manifest holds at least one video")
        if len({video.id for video in self.videos}) != len(self.videos):
            raise ValueError("video ids differ within a manifest")
        off = sorted({video.score for video in self.videos} - set(self.grouping.scale))
        if off:
            raise ValueError(f"scores {off} are off the scale {self.grouping.scale}")

    @property
    def digest(self) -> str:
        """Returns the sha256 over the sorted (id, subject, task, score): equal for equal cohorts, wherever they lie."""
        rows = sorted((video.id, video.subject, video.task, video.score) for video in self.videos)
        text = json.dumps(rows, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def tasks(self) -> list[str]:
        """Returns the tasks by name."""
        return sorted({video.task for video in self.videos})

    def subjects(self) -> list[str]:
        """Returns the subjects by name."""
        return sorted({video.subject for video in self.videos})

    def label(self, video: Video) -> int:
        """Returns the index of the video's class."""
        return self.grouping.class_of(video.score)

    def labels(self) -> dict[str, list[int]]:
        """Returns the class indices of each subject's videos, as `assign_folds` takes them."""
        found: dict[str, list[int]] = {subject: [] for subject in self.subjects()}
        for video in self.videos:
            found[video.subject].append(self.label(video))
        return found

    def class_counts(self) -> dict[str, int]:
        """Returns the number of videos of every class, also of those that have none, mild to severe."""
        counts = Counter(self.label(video) for video in self.videos)
        return {name: counts[index] for index, name in enumerate(self.grouping.names)}

    def for_task(self, task: str) -> Manifest:
        """Returns the part of the manifest that shows one task.

        Raises:
            ConfigError: no video shows it.
        """
        videos = tuple(video for video in self.videos if video.task == task)
        if not videos:
            known = self.tasks()
            raise ConfigError(
                "task",
                f"{task!r} is not in the manifest{nearest(task, known)}",
                f"one of {', '.join(known)}",
                "Correct the task, or the column `task` of the manifest.",
            )
        return replace(self, videos=videos)


@dataclass(frozen=True)
class _Row:
    line: int
    subject: str
    task: str
    score: int
    name: str
    path: Path
    start: float
    end: float
    side: str
    visit: str

    @property
    def is_part(self) -> bool:
        return self.start > 0 or self.end < math.inf

    def overlaps(self, other: _Row) -> bool:
        return self.start < other.end and other.start < self.end


def load_manifest(path: Path, grouping: ClassGrouping = ClassGrouping()) -> Manifest:  # noqa: B008 (frozen)
    """Reads and checks a manifest; files are hashed, not decoded.

    Args:
        path: CSV (UTF-8, commas) or Parquet (`.parquet`, `.pq`) with the columns video (path, relative to the
            manifest), subject, task, score; side, visit, start_seconds and end_seconds (a part of a longer recording)
            may be there.
        grouping: the score scale and its classes.

    Raises:
        ManifestError: all problems of columns, rows and files, each with its line, what was found, what was expected.
            A file of zero bytes is none: extraction quarantines it.
    """
    unit, header, records = read_rows(path, REQUIRED)
    problems = _column_problems(header)
    if problems:
        raise ManifestError(path.name, problems)
    if not records:
        raise ManifestError(path.name, ["no videos: found a header only, expected a row for each video"])
    checked = [_check_row(record, header, line, path.parent, grouping, unit, problems) for line, record in records]
    rows = [row for row in checked if row]
    _subjects_spelled_once(rows, unit, problems)
    videos, contents = _identify(rows, unit, problems)
    if problems:
        raise ManifestError(path.name, sorted(problems, key=_position))
    return Manifest(path, tuple(videos), grouping, contents <= rendered_files(path.parent))


def _position(problem: str) -> int:
    match = re.match(r"\w+ (\d+):", problem)
    return int(match[1]) if match else 0


def _column_problems(header: Sequence[str]) -> list[str]:
    problems = [f"column {name!r} is missing; found {', '.join(header)}" for name in REQUIRED if name not in header]
    for name, times in Counter(header).items():
        if name not in COLUMNS:
            known = f"expected only {', '.join(COLUMNS)}"
            problems.append(f"column {name!r} is unknown{nearest(name, list(COLUMNS))}; {known}")
        elif times > 1:
            problems.append(f"column {name!r} is there {times} times; expected once")
    return problems


def _check_row(
    cells: Sequence[str],
    header: Sequence[str],
    line: int,
    folder: Path,
    grouping: ClassGrouping,
    unit: str,
    problems: list[str],
) -> _Row | None:
    place = f"{unit} {line}:"
    if len(cells) != len(header):
        problems.append(f"{place} found {len(cells)} cells, expected {len(header)} as in the header")
        return None
    values = dict(zip(header, cells, strict=True))
    before = len(problems)
    for column in RESERVED:
        if values.get(column):
            found = f"found {values[column]!r}, expected nothing"
            problems.append(f"{place} {column}, {found}: the column is reserved, not supported yet")
    for column in ("subject", "task"):
        if not values[column]:
            problems.append(f"{place} {column}, found nothing, expected text")
    score = _score(values["score"], grouping)
    if score is None:
        scale = ", ".join(map(str, grouping.scale))
        problems.append(f"{place} score, found {values['score']!r}, expected one of {scale}")
    path = folder / values["video"]
    trouble = _file_trouble(values["video"], path)
    if trouble:
        problems.append(f"{place} video, {trouble}")
    start = _seconds(values.get("start_seconds", ""), 0.0)
    end = _seconds(values.get("end_seconds", ""), math.inf)
    for column, seconds in zip(PART, (start, end), strict=True):
        if seconds is None:
            problems.append(f"{place} {column}, found {values[column]!r}, expected seconds from the file's begin")
    if start is not None and end is not None and start >= end:
        problems.append(f"{place} end_seconds, found {end:g}, expected more than start_seconds, {start:g}")
    if len(problems) > before or score is None or start is None or end is None:
        return None
    subject = unicodedata.normalize("NFC", values["subject"])
    task = unicodedata.normalize("NFC", values["task"])
    side, visit = (unicodedata.normalize("NFC", values.get(column, "")) for column in NOTED)
    return _Row(line, subject, task, score, values["video"], path, start, end, side, visit)


def _score(text: str, grouping: ClassGrouping) -> int | None:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        return None
    return int(text) if int(text) in grouping.scale else None


def _seconds(text: str, missing: float) -> float | None:
    if not text:
        return missing
    return float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", text) else None


def _file_trouble(name: str, path: Path) -> str:
    if not name:
        return "found nothing, expected a path relative to the manifest"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        return f"found the URI {name!r}, expected a path: URIs are not supported yet"
    try:
        if path.is_file():
            with open(path, "rb"):
                return ""
        return f"found {'a folder' if path.is_dir() else 'no file'} at {name!r}, expected a video file"
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        return f"found {name!r}, which cannot be read ({cause}), expected a video file"


def _subjects_spelled_once(rows: Sequence[_Row], unit: str, problems: list[str]) -> None:
    """Two spellings of one pseudonym would be two subjects, one of them in training and one held out."""
    first: dict[str, _Row] = {}
    for row in rows:
        known = first.setdefault(unicodedata.normalize("NFKC", row.subject).casefold(), row)
        if known.subject != row.subject:
            expected = f"expected {known.subject!r} as on {unit} {known.line}"
            problems.append(f"{unit} {row.line}: subject, found {row.subject!r}, {expected}")


def _identify(rows: Sequence[_Row], unit: str, problems: list[str]) -> tuple[list[Video], set[str]]:
    """Gives rows their ids, and returns the sha256 of their files; rows that repeat a file or its content become
    problems.
    """
    digests: dict[Path, str] = {}
    by_content: dict[str, list[_Row]] = {}
    videos = []
    empty = 0
    with _hashing(len({row.path.resolve() for row in rows})) as advance:
        for row in rows:
            real = row.path.resolve()
            if real not in digests:
                digests[real] = sha256_file(row.path)
                advance()
                if row.path.stat().st_size == 0:
                    empty += 1
                    digests[real] = hashlib.sha256(b"" if empty == 1 else f"empty {empty}".encode()).hexdigest()
            others = by_content.setdefault(digests[real], [])
            known = next((other for other in others if other.overlaps(row)), None)
            others.append(row)
            if known is not None:
                problems.append(f"{unit} {row.line}: video, {_repetition(row, known, unit)}")
                continue
            digest = digests[real]
            if row.is_part:
                digest = hashlib.sha256(f"{digest} {row.start!r} {row.end!r}".encode()).hexdigest()
            end = row.end if row.end < math.inf else None
            person = row.subject, row.task, row.score, row.line
            videos.append(Video(digest[:16], row.path, *person, row.start, end, row.side, row.visit))
    return videos, set(digests.values())


def _repetition(row: _Row, known: _Row, unit: str) -> str:
    if row.path.resolve() == known.path.resolve():
        if row.is_part or known.is_part:
            return f"found a part of {row.name!r} that overlaps the one on {unit} {known.line}, expected each once"
        return f"found {row.name!r} again, expected each video once: it is on {unit} {known.line}"
    same = f"found in {row.name!r} the content of {known.name!r} on {unit} {known.line}"
    if row.subject != known.subject:
        return f"{same} under another subject ({row.subject}, {known.subject}), expected one subject per content (leak)"
    return f"{same}, expected each content once"


@contextmanager
def _hashing(count: int) -> Iterator[Callable[[], None]]:
    if count < MANY_FILES:
        yield lambda: None
        return
    with progress("hash", count) as bar:
        yield bar.advance
