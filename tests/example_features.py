"""Small made-up features whose class shows in the motion: faster drift in flow for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ptune.config import ExtractConfig, FitSpec, FitVideo, StreamConfig
from ptune.extract.store import FeatureStore, open_store

EXTRACTION = ExtractConfig(width=40, height=32)
CLASSES = ("normal", "mild", "severe")


def example_videos(subjects: int = 6, clips: int = 2) -> tuple[FitVideo, ...]:
    """Returns videos of all three classes; subject S01 has classes 0 and 1, S02 has 1 and 2, and so on."""
    videos = []
    for subject in range(subjects):
        for clip in range(clips):
            label = (subject + clip) % 3
            identity = f"{subject * clips + clip:016x}"
            videos.append(
                FitVideo(video_id=identity, subject=f"S{subject + 1:02d}", score=(0, 1, 3)[label], label=label)
            )
    return tuple(videos)


def write_features(root: Path, videos: tuple[FitVideo, ...], frames: int = 20, seed: int = 0) -> FeatureStore:
    """Fills the store below `root`: flow of class c drifts by 1 + 2c px/frame, RGB says nothing."""
    store = open_store(root, EXTRACTION)
    generator = np.random.default_rng(seed)
    shape = (EXTRACTION.height, EXTRACTION.width)
    for video in videos:
        rgb = generator.integers(0, 256, (frames, *shape, 3), np.uint8)
        noise = generator.normal(0, 0.3, (frames - 1, *shape, 2))
        flow = (noise + 1 + 2 * video.label) * 1024
        store.write(video.video_id, rgb, np.rint(flow).astype(np.int16), 25.0)
    return store


def example_stream(**settings: object) -> StreamConfig:
    """Returns a stream that trains in seconds on one core."""
    small = {
        "modality": "flow",
        "segments": 2,
        "snippet_frames": 8,
        "attention_width": 8,
        "epochs": 3,
        "batch_size": 4,
        "learning_rate": 2e-3,
        "dropout": 0.3,
        "width": 0.125,
        "crop": 24,
        "flow_bound": 8.0,
        "validation": {"snippets": 1, "frames": 8},
        "test": {"snippets": 2, "frames": 8},
        "init": "random",
    }
    return StreamConfig.parse(small | settings, "test")


def example_spec(videos: tuple[FitVideo, ...], held_out: set[str], **settings: object) -> FitSpec:
    """Returns a fit that holds out the named subjects."""
    return FitSpec(
        stream=example_stream(**settings),
        classes=CLASSES,
        fold=0,
        train=tuple(video for video in videos if video.subject not in held_out),
        held_out=tuple(video for video in videos if video.subject in held_out),
        extraction=EXTRACTION.signature(),
    )
