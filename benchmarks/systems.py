"""Shows that every system of the paper's comparison learns: each overfits 8 videos and beats the majority class.

    python benchmarks/systems.py [FOLDER [SYSTEM ...]]

One synthetic cohort of hands, the demo's: 30 people to learn from, 24 others to be tested on, 3 clips each. Every
system has a narrow network from random weights, on flow, where the severity shows; its sampling and its network's shape
are its own, with lengths that fit clips of 3 seconds. Rows appear as they are done; run again in the same FOLDER,
nothing is trained twice and an interrupted fit continues.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from ptune.cohort.manifest import Manifest, load_manifest
from ptune.cohort.synthetic import BALANCED_WEIGHTS, SyntheticConfig, render_cohort
from ptune.config import ClassGrouping, ExtractConfig, FitSpec, FitVideo, StreamConfig
from ptune.config.systems import SYSTEMS, stream_of
from ptune.demo import CLIPS, FPS, FRAME, HELD_OUT_SUBJECTS, SECONDS, SUBJECTS
from ptune.extract.pipeline import extract
from ptune.extract.store import FeatureStore, open_store
from ptune.home import Home
from ptune.ledger import FitRecord, Ledger
from ptune.metrics import majority_class, majority_row, score_frame
from ptune.results.stats import beats_majority
from ptune.train.device import Acceleration
from ptune.train.fit import run_fit
from ptune.train.protocol import load_scorer, score_videos

EXTRACTION = ExtractConfig(width=80, height=60)
CLASSES = ClassGrouping().names
FEW = 8
#: Frames of a snippet and their stride: what a system has at full size, or what fits into a clip of 3 seconds.
LENGTHS: dict[str, tuple[int, int]] = {
    "two_stream": (10, 1),
    "tsn": (5, 1),
    "i3d": (32, 1),
    "slowfast": (16, 2),
    "tsn_slowfast": (16, 1),
    "proposed": (16, 1),
    "proposed_without_attention": (16, 1),
    "proposed_without_focal": (16, 1),
}
SMALL: dict[str, Any] = {
    "init": "random",
    "frozen_norm": "none",
    "width": 0.125,
    "crop": 48,
    "attention_width": 32,
    "flow_bound": 2.0,
    "batch_size": 8,
    "learning_rate": 2e-3,
}
OVERFIT: dict[str, Any] = {"dropout": 0.0, "augment": {"scales": [1.0], "mirror": "none"}}
GENERALISE: dict[str, Any] = {"dropout": 0.3}
#: Epochs by number of segments, to overfit and to generalise: with fewer snippets in an epoch it takes more of them.
EPOCHS = {1: (240, 40), 3: (80, 20), 4: (60, 16)}


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="ptune-systems-"))
    home = Home.open(folder)
    learners = load_manifest(rendered(folder / "cohort", SUBJECTS, 1))
    others = load_manifest(rendered(folder / "held-out", HELD_OUT_SUBJECTS, SUBJECTS + 1))
    extract((*learners.videos, *others.videos), EXTRACTION, home)
    store, ledger = open_store(home.features, EXTRACTION), Ledger(home.ledger)
    learn, test = fit_videos(learners), fit_videos(others)
    print(
        f"| system | network | K x T (stride) | right of {FEW} trained on | people | accuracy | majority | macro F1 "
        "| majority | gain [95 %] | p | minutes |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    lost = [name for name in sys.argv[2:] or SYSTEMS if not shown(name, learn, test, store, ledger)]
    print(f"\n{len(lost)} did not reach both goals" + (f": {', '.join(lost)}" if lost else ""))
    return 1 if lost else 0


def rendered(folder: Path, subjects: int, first: int) -> Path:
    manifest = folder / "cohort.csv"
    if manifest.exists():
        return manifest
    width, height = FRAME
    config = SyntheticConfig(
        subjects=subjects,
        clips_per_subject=CLIPS,
        first_subject=first,
        score_weights=BALANCED_WEIGHTS,
        fps=FPS,
        seconds=SECONDS,
        width=width,
        height=height,
    )
    return render_cohort(folder, config)


def fit_videos(manifest: Manifest) -> tuple[FitVideo, ...]:
    return tuple(
        FitVideo(video_id=video.id, subject=video.subject, score=video.score, label=manifest.label(video))
        for video in sorted(manifest.videos, key=lambda video: video.id)
    )


def small(name: str, **settings: Any) -> StreamConfig:
    frames, stride = LENGTHS[name]
    lengths = {
        "snippet_frames": frames,
        "frame_stride": stride,
        "validation": {"snippets": 1, "frames": frames},
        "test": {"snippets": 6, "frames": frames},
    }
    return stream_of(name, "flow", **SMALL, **lengths, **settings)


def trained(
    stream: StreamConfig, train: tuple[FitVideo, ...], test: tuple[FitVideo, ...], store: FeatureStore, ledger: Ledger
) -> FitRecord:
    spec = FitSpec(
        stream=stream, classes=CLASSES, fold=0, train=train, held_out=test, extraction=EXTRACTION.signature()
    )
    return run_fit(spec, store, ledger, Acceleration.best())


def few_of_each_class(videos: tuple[FitVideo, ...]) -> tuple[FitVideo, ...]:
    """Takes turns between the classes."""
    rank = {label: iter(range(len(videos))) for label in range(len(CLASSES))}
    return tuple(sorted(videos, key=lambda video: (next(rank[video.label]), video.label))[:FEW])


def shown(
    name: str, learn: tuple[FitVideo, ...], test: tuple[FitVideo, ...], store: FeatureStore, ledger: Ledger
) -> bool:
    few = few_of_each_class(learn)
    to_overfit, to_generalise = EPOCHS[stream_of(name, "flow").segments]
    overfit = trained(small(name, epochs=to_overfit, **OVERFIT), few, (), store, ledger)
    stream, acceleration = overfit.spec.stream, Acceleration.best()
    scorer = load_scorer(stream, len(CLASSES), overfit.weights, acceleration)
    known = pd.DataFrame(score_videos(scorer, few, store, stream, stream.test, acceleration, 0))
    right = round(score_frame(known, CLASSES)["accuracy"] * FEW)

    record = trained(small(name, epochs=to_generalise, **GENERALISE), learn, test, store, ledger)
    frame = record.predictions().to_pandas()
    found, majority = score_frame(frame, CLASSES), majority_row(frame["label"].to_numpy(), CLASSES)
    gain = beats_majority(frame, len(CLASSES), majority_class([video.label for video in learn], len(CLASSES)))
    low, high = gain.interval
    minutes = sum(fit.summary["seconds"] for fit in (overfit, record)) / 60
    print(
        f"| {name} | {stream.backbone} | {stream.segments} x {stream.snippet_frames} ({stream.frame_stride}) "
        f"| {right} | {gain.subjects} | {found['accuracy']:.3f} | {majority['accuracy']:.3f} "
        f"| {found['f1_macro']:.3f} | {majority['f1_macro']:.3f} "
        f"| {gain.difference:+.3f} [{low:+.3f}, {high:+.3f}] | {gain.p_value:.4f} | {minutes:.1f} |",
        flush=True,
    )
    return right == FEW and gain.difference > 0 and gain.p_value < 0.05


if __name__ == "__main__":
    sys.exit(main())
