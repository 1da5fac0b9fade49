"""The score of one video becomes the flat row that the registered model answers with; knows which columns it has."""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.config import ClassGrouping
from ptune.errors import BadInput, VideoError
from ptune.extract.decode import WHOLE, Part
from ptune.extract.store import VideoFeatures
from ptune.track.bundle import Bundle, BundleSpec, FusedScore, ProtocolName
from ptune.track.seen import flags

DATA_URI = "data:"
BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
#: Of a video that travels with its request: more than a minute of what a good telephone films.
MOST_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Scored:
    """A video that was scored: its features, its scores and what makes them doubtful."""

    features: VideoFeatures
    score: FusedScore
    flags: list[str]


def score_video(bundle: Bundle, video: Path, protocol: ProtocolName = "paper", part: Part = WHOLE) -> Scored:
    """Returns the scores of a video file.

    Raises:
        VideoError: the video cannot be used.
    """
    features, facts = bundle.features(video, part)
    doubts = flags(bundle.spec.seen, features, facts, bundle.streams(protocol).values())
    return Scored(features, bundle.score_features(features, protocol), doubts)


def row_of(bundle: Bundle, video: str, protocol: ProtocolName = "paper") -> dict[str, Any]:
    """Returns the answer for one video; one that cannot be used has a problem and no scores.

    Args:
        video: a path, or the video itself as `data:video/mp4;base64,...`.

    Raises:
        BadInput: it begins as a data URI and is none.
    """
    try:
        with as_file(video) as path:
            return answer(bundle.spec, score_video(bundle, path, protocol))
    except VideoError as error:
        return refusal(bundle.spec, error)


def answer(spec: BundleSpec, scored: Scored) -> dict[str, Any]:
    """Returns a video's scores as one row."""
    names, fused = spec.grouping.names, scored.score.probabilities
    row: dict[str, Any] = {
        "score_group": names[int(fused.argmax())],
        "expected_score": expected_score(fused, spec.grouping),
        "problem": "",
        "flags": scored.flags,
    }
    row |= _named("probability", names, fused)
    for name, stream in scored.score.streams.items():
        row |= _named(f"{name}.probability", names, stream.probabilities)
        row[f"{name}.attention"] = [float(value) for value in stream.attention]
        row[f"{name}.snippet_start"] = list(stream.starts)
    return row


def refusal(spec: BundleSpec, error: VideoError) -> dict[str, Any]:
    """Returns the row of a video that cannot be used: every column, the problem, and no scores."""
    names = spec.grouping.names
    nothing = np.full(len(names), np.nan)
    row: dict[str, Any] = {
        "score_group": "",
        "expected_score": np.nan,
        "problem": f"{error.reason}: {error.detail}",
        "flags": [],
    }
    row |= _named("probability", names, nothing)
    for member in spec.streams:
        row |= _named(f"{member.name}.probability", names, nothing)
        row |= {f"{member.name}.attention": [], f"{member.name}.snippet_start": []}
    return row


def expected_score(probabilities: NDArray[np.float64], grouping: ClassGrouping) -> float:
    """Returns the mean of the clinicians' scale under the probabilities of classes; a class counts as the mean of its
    scores, since the model cannot tell those apart.
    """
    middles = [float(np.mean(scores)) for scores in grouping.scores]
    return float(np.dot(probabilities, middles))


@contextmanager
def as_file(video: str) -> Iterator[Path]:
    """Yields the path of a video; one that came as a data URI lies in a temporary file without a telling name.

    Raises:
        BadInput: a data URI that is not base64.
    """
    if not video.startswith(DATA_URI):
        yield Path(video)
        return
    check_data_uri(video)
    with tempfile.NamedTemporaryFile(prefix="ptune-", suffix=".video") as handle:
        handle.write(base64.b64decode(_encoded(video)))
        handle.flush()
        yield Path(handle.name)


def check_data_uri(video: str) -> None:
    """Makes sure that a data URI holds a file that is not too large.

    Raises:
        BadInput: it does not.
    """
    encoded = _encoded(video)
    if len(encoded) * 3 // 4 > MOST_BYTES:
        raise BadInput("video", f"{len(encoded) * 3 // 4 >> 20} MB", f"at most {MOST_BYTES >> 20} MB")
    if not encoded or len(encoded) % 4 or not BASE64.fullmatch(encoded):
        raise BadInput("video", "a data URI that holds no base64", "data:video/mp4;base64,... with a whole video file")


def _encoded(video: str) -> str:
    return video.partition(";base64,")[2]


def as_data_uri(video: Path) -> str:
    """Returns a video file as a data URI, to send it where its path means nothing."""
    return "data:video/mp4;base64," + base64.b64encode(video.read_bytes()).decode()


def _named(prefix: str, names: Sequence[str], values: NDArray[Any]) -> dict[str, float]:
    return {f"{prefix}.{name}": float(value) for name, value in zip(names, values, strict=True)}
