"""A bundle scores videos on its own, says when a score is doubtful, and refuses to load with a byte changed."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ptune.cohort.manifest import load_manifest
from ptune.cohort.synthetic import SyntheticConfig, render_cohort
from ptune.config import ClassGrouping
from ptune.errors import BadInput, RegistryError, VideoError
from ptune.extract.pipeline import extract
from ptune.extract.store import open_store
from ptune.home import Home
from ptune.track.answers import as_data_uri, check_data_uri, expected_score, row_of, score_video
from ptune.track.bundle import Bundle
from ptune.track.registry import REQUIREMENTS
from ptune.track.seen import Seen
from ptune.train.protocol import score_video as stream_score
from tests.example_features import EXTRACTION
from tests.track.example_bundles import make_bundle, pan, stream

BAD = Path(__file__).parents[2].parent / "shared" / "videos" / "bad"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    return make_bundle(root / "bundle", stream("rgb", 0.5), stream("flow", 0.3), stream("flow 2", 0.2, segments=3))


@pytest.fixture(scope="module")
def bundle(folder):
    return Bundle(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return pan(tmp_path_factory.mktemp("clips") / "pan.mp4")


def test_probabilities_are_the_weighted_average_of_streams_also_of_one_modality(bundle, clip):
    score = score_video(bundle, clip).score
    assert list(score.streams) == ["rgb", "flow", "flow 2"]
    by_hand = sum(
        weight * score.streams[name].probabilities.astype(float)
        for name, weight in (("rgb", 0.5), ("flow", 0.3), ("flow 2", 0.2))
    )
    np.testing.assert_allclose(score.probabilities, by_hand, rtol=1e-12)
    assert score.probabilities.sum() == pytest.approx(1)
    assert not np.allclose(score.streams["flow"].probabilities, score.streams["flow 2"].probabilities)


def test_a_stream_of_fold_models_answers_with_their_mean(tmp_path, clip):
    folds = Bundle(make_bundle(tmp_path / "folds", stream("flow", models=3)))
    features, _ = folds.features(clip)
    score = folds.score_features(features).streams["flow"]
    settings = folds.streams()["flow"]
    alone = [
        stream_score(scorer, features, settings, settings.test, folds.acceleration) for scorer in folds._scorers["flow"]
    ]
    mean = np.mean([one.probabilities for one in alone], axis=0)
    np.testing.assert_allclose(score.probabilities, mean, atol=1e-6)
    assert np.ptp([one.probabilities[0] for one in alone]) > 1e-3
    np.testing.assert_allclose(score.attention, np.mean([one.attention for one in alone], axis=0))


def test_the_fast_protocol_scores_the_snippets_of_validation(bundle, clip):
    features, _ = bundle.features(clip)
    assert len(bundle.score_features(features).streams["rgb"].starts) == 4
    assert len(bundle.score_features(features, "fast").streams["rgb"].starts) == 1


def test_features_are_those_of_training_to_the_byte(tmp_path, bundle):
    config = SyntheticConfig(subjects=1, clips_per_subject=2, fps=12.5, seconds=(1.2, 1.6), width=64, height=48)
    manifest = load_manifest(render_cohort(tmp_path / "cohort", config))
    home = Home.open(tmp_path / "home")
    extract(manifest.videos, EXTRACTION, home, workers=1)
    store = open_store(home.features, EXTRACTION)
    for video in manifest.videos:
        features, facts = bundle.features(video.path)
        stored = store.video(video.id)
        np.testing.assert_array_equal(features.rgb, stored.rgb)
        np.testing.assert_array_equal(features.flow, stored.flow)
        assert features.fps == stored.fps
        assert facts == store.metadata(video.id)["extra"]


def test_what_training_saw_is_the_range_over_its_videos(tmp_path):
    store = open_store(tmp_path, EXTRACTION)
    rgb, flow = np.zeros((50, 32, 40, 3), np.uint8), np.zeros((49, 32, 40, 2), np.int16)
    for name, fps, shake in (("a", 25.0, 0.5), ("b", 12.5, 0.25)):
        quality = {"camera_speed_p95": 1.0, "camera_shake": shake}
        store.write(name, rgb, flow, fps, {"quality": quality, "video": {"source_fps": fps}})
    seen = Seen.of(store, ["a", "b"])
    assert seen == Seen(seconds=(2.0, 4.0), source_fps=(12.5, 25.0), camera_speed=(1.0, 1.0), camera_shake=(0.25, 0.5))


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, []),
        ({"frames": 8}, ["too_short"]),
        ({"frames": 16}, ["too_short"]),
        ({"fps": 12}, ["frame_rate"]),
        ({"step": 6}, ["camera_motion"]),
    ],
    ids=["like training", "shorter than a snippet", "shorter than training", "slower", "panned faster"],
)
def test_a_video_unlike_those_of_training_is_flagged(bundle, tmp_path, changes, flags):
    assert score_video(bundle, pan(tmp_path / "clip.mp4", **changes)).flags == flags


def test_a_video_of_a_few_frames_is_refused(bundle, tmp_path):
    row = row_of(bundle, str(pan(tmp_path / "clip.mp4", frames=6)))
    assert row["problem"] == "too_short: 6 frames, at least 8 are needed"


def test_where_training_states_nothing_only_the_length_of_snippets_is_judged(tmp_path):
    bundle = Bundle(make_bundle(tmp_path / "bundle", stream("flow"), seen=Seen()))
    assert score_video(bundle, pan(tmp_path / "fast.mp4", fps=90, step=6)).flags == []
    assert score_video(bundle, pan(tmp_path / "short.mp4", frames=8)).flags == ["too_short"]


@pytest.mark.skipif(not BAD.exists(), reason="the malformed clips are not here")
@pytest.mark.parametrize("name", ["damaged_200_bytes.mp4", "corrupted_packets.mp4", "cut_in_half.mp4", "noise.mp4"])
def test_a_damaged_video_is_refused_and_never_scored(bundle, name):
    with pytest.raises(VideoError):
        score_video(bundle, BAD / name)
    row = row_of(bundle, str(BAD / name))
    assert row["problem"]
    assert row["score_group"] == ""
    assert all(np.isnan(value) for key, value in row.items() if "probability." in key or key == "expected_score")


def test_the_expected_score_counts_a_class_as_the_mean_of_its_scores():
    assert expected_score(np.array([0.2, 0.5, 0.3]), ClassGrouping()) == pytest.approx(0.5 * 1.5 + 0.3 * 3.5)


def test_a_video_that_comes_as_bytes_is_scored_as_its_file(bundle, clip):
    assert row_of(bundle, as_data_uri(clip)) == row_of(bundle, str(clip))
    for broken in ("data:video/mp4;base64,@@@", "data:video/mp4,AAAA", "data:video/mp4;base64,"):
        with pytest.raises(BadInput, match="a data URI that holds no base64"):
            row_of(bundle, broken)


def test_a_video_that_comes_as_bytes_may_not_be_huge():
    with pytest.raises(BadInput, match="video: 270 MB; expected at most 256 MB"):
        check_data_uri("data:video/mp4;base64," + "A" * (360 << 20))


def test_a_device_that_is_not_there_is_refused(bundle):
    with pytest.raises(BadInput, match="device: 'cuda:77'"):
        bundle.move("cuda:77")
    bundle.move("cpu")


@pytest.mark.parametrize("name", ["bundle.json", *(f"stream-{index}-0.safetensors" for index in range(3))])
def test_a_changed_or_missing_file_is_refused(folder, name):
    path = folder / name
    content = path.read_bytes()
    try:
        for broken in (content[:-1], bytes([content[0] ^ 1]) + content[1:], None):
            path.unlink()
            if broken is not None:
                path.write_bytes(broken)
            with pytest.raises(RegistryError, match=f"{name} is missing or differs"):
                Bundle(folder)
            path.write_bytes(content)
    finally:
        path.write_bytes(content)


def test_a_changed_list_of_checksums_is_refused(folder):
    path = folder / "sha256.json"
    content = path.read_text()
    lists = json.loads(content)
    try:
        for broken in ("{", "{}", json.dumps(lists | {"bundle.json": "0" * 64}), json.dumps(lists | {"other": "0"})):
            path.write_text(broken)
            with pytest.raises(RegistryError):
                Bundle(folder)
    finally:
        path.write_text(content)


def with_what_they_require(names):
    """Returns packages and, as far as installed, all that they depend on."""
    found, waiting = set(), [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needs = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
        waiting += [canonicalize_name(need.name) for need in needs if not need.marker or need.marker.evaluate()]
    return found


def test_it_needs_no_home_and_only_the_packages_that_a_model_lists(folder, clip, tmp_path):
    listed = with_what_they_require(REQUIREMENTS)
    assert not {"ray", "mlflow", "optuna"} & listed
    absent = [
        module
        for module, packages in packages_distributions().items()
        if not {canonicalize_name(name) for name in packages} & {*listed, "ptune"}
    ]
    script = (
        "import sys; from pathlib import Path\n"
        f"sys.modules.update(dict.fromkeys({absent!r}))\n"  # None: as if it were not installed.
        "from ptune.track.bundle import Bundle\n"
        "from ptune.track.answers import row_of\n"
        f"row = row_of(Bundle(Path({str(folder)!r}), device='cpu'), {str(clip)!r})\n"
        "assert row['score_group'], row\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PTUNE_")}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, timeout=120)
    assert list(tmp_path.iterdir()) == []
