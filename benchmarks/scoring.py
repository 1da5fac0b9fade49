"""Scoring a video with three fused streams, against scoring it snippet by snippet and stream by stream.

    python benchmarks/scoring.py [SNIPPETS]

A clip of 200 frames at 340x256 and full-size I3Ds on RGB, flow and motion boundaries, with random weights. Ours is what
`ptune predict` does: decode once, solve the flow once, then score each stream's snippets in batches with batch norms
folded; it computes quality figures as well. Baselines, with the same solver, threads, snippets and device:

- snippet by snippet: each stream decodes the file, then takes one snippet after the other: solves its flow, scores it;
- stream by stream: each stream decodes the file, solves the whole flow if it needs any, then scores one snippet after
  the other;
- scoring alone: the networks of the latter, without decoding and flow.

All must agree. The limit on a CPU is the convolutions, which all must do: 27.8 G multiply-adds a snippet.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ptune.cohort.synthetic import SyntheticConfig, render_cohort
from ptune.config import ClassGrouping, ExtractConfig, Protocol, StreamConfig
from ptune.extract.decode import decode
from ptune.extract.flow import quantize, to_gray, tvl1
from ptune.extract.store import VideoFeatures
from ptune.model.scorer import build_scorer
from ptune.sample.dataset import protocol_batches
from ptune.sample.snippets import protocol_frames
from ptune.track.bundle import Bundle, BundleSpec, BundleStream, write_bundle
from ptune.track.seen import Seen

FRAMES, FPS = 200, 25.0
NAMES = ("rgb", "flow", "mb")
EXTRACTION = ExtractConfig()


def stream(name: str, snippets: int) -> StreamConfig:
    """Returns a full-size stream with as many test snippets."""
    return StreamConfig(modality=name, init="random", test=Protocol(snippets=snippets, frames=16))  # type: ignore[arg-type]


class Baseline(NamedTuple):
    """One stream by itself: probabilities, and the seconds of each part."""

    probabilities: np.ndarray
    decoding: float
    whole_flow: float
    flow_by_snippet: float
    scoring: float


def one_by_one(clip: Path, weights: Path, settings: StreamConfig, device: torch.device) -> Baseline:
    """Scores a clip with one stream, one snippet after the other."""
    clock = time.perf_counter()
    rgb = decode(clip, EXTRACTION).frames
    decoding = time.perf_counter() - clock
    flow = np.zeros((len(rgb) - 1, *rgb.shape[1:3], 2), np.int16)
    whole_flow = flow_by_snippet = 0.0
    if settings.modality != "rgb":
        clock = time.perf_counter()
        flow = quantize(tvl1(to_gray(rgb)))
        whole_flow = time.perf_counter() - clock
        clock = time.perf_counter()
        for frames_T in protocol_frames(len(flow), settings.test, settings.frame_stride):
            snippet = quantize(tvl1(to_gray(rgb[frames_T[0] : frames_T[-1] + 2])))
            assert np.array_equal(snippet, flow[frames_T])
        flow_by_snippet = time.perf_counter() - clock
    clock = time.perf_counter()
    scorer = build_scorer(settings, 3).to(device).eval()
    scorer.load_state_dict(load_file(weights))
    found = []
    with torch.inference_mode():
        for batch in protocol_batches([VideoFeatures(rgb, flow, FPS)], settings, settings.test, 1):
            logits, _ = scorer.snippet_scores(batch.network_input(settings).to(device))
            found.append(torch.softmax(logits.float(), 1).cpu().numpy())
    scoring = time.perf_counter() - clock
    return Baseline(np.concatenate(found).mean(0), decoding, whole_flow, flow_by_snippet, scoring)


def main(snippets: int = 64) -> None:
    """Prints both times, their parts and their ratio."""
    with tempfile.TemporaryDirectory(prefix="ptune-") as scratch:
        root = Path(scratch)
        size = SyntheticConfig(
            subjects=1, clips_per_subject=1, fps=FPS, seconds=(FRAMES / FPS, FRAMES / FPS), width=340, height=256
        )
        clip = render_cohort(root / "cohort", size).parent.glob("*.mp4").__next__()
        streams = {name: stream(name, snippets) for name in NAMES}
        weights = {name: root / f"{name}.safetensors" for name in NAMES}
        for seed, name in enumerate(NAMES):
            torch.manual_seed(seed)
            save_file(build_scorer(streams[name], 3).state_dict(), weights[name])
        spec = BundleSpec(
            study="bench",
            task="hand",
            grouping=ClassGrouping(),
            extraction=EXTRACTION,
            streams=tuple(BundleStream(name=name, weight=1 / 3, stream=streams[name]) for name in NAMES),
            seen=Seen(),
        )
        write_bundle(root / "bundle", spec, [SimpleNamespace(weights=weights[name]) for name in NAMES])  # type: ignore[misc]
        tvl1(np.zeros((2, 32, 32), np.uint8))  # Compiled code is loaded before the clock runs.

        clock = time.perf_counter()
        bundle = Bundle(root / "bundle")
        features, _ = bundle.features(clip)
        extracted = time.perf_counter()
        ours = bundle.score_features(features)
        seconds = time.perf_counter() - clock

        parts = [one_by_one(clip, weights[name], streams[name], bundle.acceleration.device) for name in NAMES]
        decoding, whole, by_snippet, scoring = (sum(column) for column in list(zip(*parts, strict=True))[1:])
        device, threads = bundle.acceleration.device, torch.get_num_threads()
        print(f"{len(features.rgb)} frames, {snippets} snippets, {device}, {threads} threads")
        print(f"ours: {seconds:.1f} s, of which {extracted - clock:.1f} s loading and extraction")
        for name, theirs, own in (
            ("snippet by snippet", decoding + by_snippet + scoring, seconds),
            ("stream by stream", decoding + whole + scoring, seconds),
            ("scoring alone", scoring, seconds - (extracted - clock)),
        ):
            print(f"{name + ':':20}{theirs:7.1f} s, ratio {theirs / own:.2f}")
        off = max(
            float(np.abs(ours.streams[name].probabilities - part.probabilities).max())
            for name, part in zip(NAMES, parts, strict=True)
        )
        print(f"largest difference of a probability: {off:.1e}")
        if off > 1e-5:
            sys.exit("the two ways differ")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
