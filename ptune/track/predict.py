"""Video files become scores of a registered model: one after the other in this process, or side by side on Ray.

Both ways are the same function on the same bundle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ptune.cluster import ray_session
from ptune.cohort.rows import read_rows
from ptune.errors import BadInput, ManifestError, VideoError
from ptune.extract.decode import Part
from ptune.extract.pipeline import each_on_workers
from ptune.home import Home
from ptune.progress import progress
from ptune.results.explain import explain, film_strip
from ptune.results.plots import png
from ptune.track.answers import Scored, answer, refusal, score_video
from ptune.track.bundle import Bundle, ProtocolName
from ptune.track.registry import Registry, load_version
from ptune.track.team import in_team

TABLES = (".csv", ".parquet", ".pq")
Row = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """A video file, or a part of one, that is to be scored."""

    path: Path
    part: Part


@dataclass(frozen=True)
class Answer:
    """Scores of videos, one row each."""

    videos: tuple[Wanted, ...]
    rows: pd.DataFrame

    @property
    def problems(self) -> int:
        """How many videos could not be scored."""
        return int((self.rows["problem"] != "").sum())

    def facts(self) -> list[Row]:
        """Returns plain values; probabilities of a video with a problem are null."""
        rows = self.rows.astype(object).where(self.rows.notna(), None).to_dict("records")
        return [
            {"video": str(wanted.path)} | {str(name): value for name, value in row.items()}
            for wanted, row in zip(self.videos, rows, strict=True)
        ]

    def text(self) -> str:
        """Returns one line per video."""
        return "\n".join(
            f"{wanted.path.name}: {_line(row)}"
            for wanted, row in zip(self.videos, self.rows.to_dict("records"), strict=True)
        )


def _line(row: Mapping[Any, Any]) -> str:
    if row["problem"]:
        return f"not scored, {row['problem']}"
    shares = [
        f"{name.removeprefix('probability.')} {value:.2f}"
        for name, value in row.items()
        if name.startswith("probability.")
    ]
    doubt = f"; doubtful: {', '.join(row['flags'])}" if row["flags"] else ""
    return f"{row['score_group']}  ({'  '.join(shares)}; expected score {row['expected_score']:.1f}{doubt})"


def wanted_videos(paths: Iterable[Path]) -> list[Wanted]:
    """Returns the videos that paths name: files, and tables with a column `video` and perhaps the part of each.

    Raises:
        BadInput: a file does not exist, or a table cannot be read.
    """
    found = [wanted for path in paths for wanted in (_of_table(path) if path.suffix.lower() in TABLES else _of(path))]
    for wanted in found:
        if not wanted.path.is_file():
            raise BadInput(f"video {wanted.path.name!r}", "there is no such file", "a video file", "Check the path.")
    if not found:
        raise BadInput("videos", "none", "one at least")
    return found


def predict_videos(
    home: Home,
    name: str,
    alias: str,
    videos: Sequence[Wanted],
    protocol: ProtocolName = "paper",
    device: str | None = None,
    pictures: Path | None = None,
    workers: int | None = None,
) -> Answer:
    """Scores video files with a registered model.

    Args:
        protocol: how many snippets.
        device: where it computes; default the first GPU, else the CPU.
        pictures: folder for a film strip with attention and probabilities of each video, and the same as a table.
        workers: score on so many workers of Ray Data instead of in this process.

    Raises:
        BadInput: a device that is not there.
        RegistryError: no such model, or its files are damaged.
    """
    name = in_team(name)
    version = Registry(home).version(name, alias).version
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    common = {
        "home": str(home.root),
        "name": name,
        "version": str(version),
        "protocol": protocol,
        "device": device or "",
        "pictures": str(pictures.absolute()) if pictures else "",
    }
    requests = [
        common
        | {
            "index": index,
            "path": str(wanted.path.absolute()),
            "start": wanted.part.start_seconds,
            "end": math.inf if wanted.part.end_seconds is None else wanted.part.end_seconds,
            "picture": picture,
        }
        for index, (wanted, picture) in enumerate(zip(videos, _picture_names(videos), strict=True))
    ]
    rows: dict[int, Row] = {}
    with progress("score", len(requests)) as bar:
        for found in _on_ray(home, requests, workers) if workers else map(ScoreWorker(), requests):
            rows[found["index"]] = json.loads(found["row"])
            bar.advance(1, "" if not rows[found["index"]]["problem"] else "not scored")
    return Answer(tuple(videos), pd.DataFrame([rows[index] for index in range(len(requests))]))


class ScoreWorker:
    """Scores the video that a row names, with the model that it names, which is loaded once."""

    def __init__(self) -> None:
        self._bundle: Bundle | None = None

    def __call__(self, request: Row) -> Row:
        """Returns the row's index and the answer as JSON."""
        bundle = self._bundle = self._bundle or _load(Home.open(Path(request["home"])), request)
        end = None if math.isinf(request["end"]) else request["end"]
        try:
            scored = score_video(bundle, Path(request["path"]), request["protocol"], Part(request["start"], end))
        except VideoError as error:
            row = refusal(bundle.spec, error)
        else:
            row = answer(bundle.spec, scored)
            if request["pictures"]:
                _draw(bundle, scored, request["protocol"], Path(request["pictures"]) / request["picture"])
        return {"index": request["index"], "row": json.dumps(row)}


def _on_ray(home: Home, requests: list[Row], workers: int) -> Iterator[Row]:
    with ray_session(home, workers):
        yield from each_on_workers(ScoreWorker, requests, workers, gpu=True)


def _load(home: Home, request: Row) -> Bundle:
    model = load_version(home.tracking_uri, request["name"], request["version"])
    bundle: Bundle = model.unwrap_python_model().bundle
    bundle.move(request["device"])
    return bundle


def _draw(bundle: Bundle, scored: Scored, protocol: ProtocolName, stem: Path) -> None:
    moments = explain(bundle.streams(protocol), scored.score.streams, scored.features, bundle.spec.grouping.names)
    stem.with_name(f"{stem.name}.png").write_bytes(png(film_strip(moments, scored.features)))
    pd.DataFrame([moment.row() for moment in moments]).to_csv(stem.with_name(f"{stem.name}.csv"), index=False)


def _picture_names(videos: Sequence[Wanted]) -> list[str]:
    """Returns a name for each video's pictures: its own, and a number where several have the same."""
    names: list[str] = []
    for wanted in videos:
        name, number = wanted.path.stem, 2
        while name in names:
            name, number = f"{wanted.path.stem}-{number}", number + 1
        names.append(name)
    return names


def _of(path: Path) -> list[Wanted]:
    return [Wanted(path, Part())]


def _of_table(path: Path) -> list[Wanted]:
    unit, header, records = read_rows(path, ["video"])
    if "video" not in header:
        raise ManifestError(path.name, [f"column 'video' is missing; found {', '.join(header)}"])
    found, problems = [], []
    for number, cells in records:
        row = dict(zip(header, cells, strict=False))
        try:
            start, end = (
                float(row.get(f"{edge}_seconds") or missing) for edge, missing in (("start", 0), ("end", "inf"))
            )
            if not 0 <= start < end:
                raise ValueError
        except ValueError:
            problems.append(f"{unit} {number}: found no part of a video, expected start_seconds before end_seconds")
            continue
        found.append(Wanted(path.parent / row["video"], Part(start, None if math.isinf(end) else end)))
    if problems:
        raise ManifestError(path.name, problems)
    return found
