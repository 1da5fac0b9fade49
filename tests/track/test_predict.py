"""Files, tables of files and parts of recordings are scored by a registered model, here or side by side on Ray."""

import json
import math

import pandas as pd
import pytest
from click.testing import CliRunner

from ptune.cli import cli
from ptune.errors import BadInput, ManifestError
from ptune.extract.decode import Part
from ptune.home import Home
from ptune.track.predict import Wanted, predict_videos, wanted_videos
from ptune.track.publish import register_study
from ptune.track.registry import CANDIDATE
from tests.example_registry import add_study
from tests.track.example_bundles import pan


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home.open(tmp_path_factory.mktemp("home"))
    add_study(home, "hand", skill=0.8)
    register_study(home, "hand")
    return home


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four clips, two of them under the same name and one as short as can be, and something that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "monday").mkdir()
    pan(folder / "one.mp4")
    pan(folder / "two.mp4", frames=40)
    pan(folder / "short.mp4", frames=8)
    pan(folder / "monday" / "one.mp4", step=2)
    (folder / "noise.mp4").write_bytes(b"no video" * 99)
    (folder / "list.csv").write_text("video,start_seconds,end_seconds\ntwo.mp4,,\ntwo.mp4,0.4,\nmonday/one.mp4,0,0.8\n")
    return folder


def predict(home, *videos, **options):
    return predict_videos(home, "hand", CANDIDATE, wanted_videos(videos), **options)


def test_a_table_names_videos_and_parts_of_them_relative_to_itself(folder):
    assert wanted_videos([folder / "list.csv", folder / "one.mp4"]) == [
        Wanted(folder / "two.mp4", Part()),
        Wanted(folder / "two.mp4", Part(0.4, None)),
        Wanted(folder / "monday" / "one.mp4", Part(0.0, 0.8)),
        Wanted(folder / "one.mp4", Part()),
    ]
    pd.DataFrame({"video": ["one.mp4"]}).to_parquet(folder / "list.parquet")
    assert wanted_videos([folder / "list.parquet"]) == [Wanted(folder / "one.mp4", Part())]


def test_what_cannot_be_scored_is_refused_before_a_model_is_loaded(folder):
    with pytest.raises(BadInput, match=r"video 'gone\.mp4': there is no such file"):
        wanted_videos([folder / "gone.mp4"])
    (folder / "other.csv").write_text("file\none.mp4\n")
    with pytest.raises(ManifestError, match="column 'video' is missing; found file"):
        wanted_videos([folder / "other.csv"])
    (folder / "parts.csv").write_text("video,start_seconds,end_seconds\none.mp4,2,1\none.mp4,x,\none.mp4,0,1\n")
    with pytest.raises(ManifestError, match="2 problems") as refused:
        wanted_videos([folder / "parts.csv"])
    assert [problem.partition(":")[0] for problem in refused.value.problems] == ["line 2", "line 3"]


def test_the_answer_has_scores_for_good_videos_and_a_problem_for_bad_ones(home, folder):
    found = predict(home, folder / "one.mp4", folder / "short.mp4", folder / "noise.mp4")
    good, short, bad = found.facts()
    assert found.problems == 1
    assert good["score_group"] in ("normal", "mild", "severe")
    shares = [good[f"probability.{name}"] for name in ("normal", "mild", "severe")]
    assert math.isclose(sum(shares), 1, rel_tol=1e-6)
    assert good["expected_score"] == pytest.approx(1.5 * shares[1] + 3.5 * shares[2])
    assert good["flow.probability.mild"] == pytest.approx(shares[1])
    assert len(good["flow.attention"]) == len(good["flow.snippet_start"]) == 2
    assert (bad["problem"].partition(":")[0], bad["probability.mild"]) == ("unreadable", None)
    assert (good["flags"], short["flags"], bad["flags"]) == ([], ["too_short"], [])
    first, second, third = found.text().splitlines()
    assert first.startswith(f"one.mp4: {good['score_group']}  (normal ")
    assert second.endswith("; doubtful: too_short)")
    assert third.startswith("noise.mp4: not scored, unreadable: ")


def test_workers_of_ray_data_answer_as_this_process_does(home, folder):
    alone = predict(home, folder / "list.csv", folder / "noise.mp4")
    beside = predict(home, folder / "list.csv", folder / "noise.mp4", workers=2)
    pd.testing.assert_frame_equal(alone.rows, beside.rows, rtol=1e-6)


def test_pictures_lie_in_the_folder_asked_for_under_the_names_of_their_videos(home, folder, tmp_path):
    predict(home, folder / "one.mp4", folder / "monday" / "one.mp4", folder / "noise.mp4", pictures=tmp_path / "why")
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == [
        "one-2.csv", "one-2.png", "one.csv", "one.png",
    ]  # fmt: skip
    moments = pd.read_csv(tmp_path / "why" / "one.csv")
    assert moments["stream"].tolist() == ["flow", "flow"]
    assert moments["attention"].between(0, 1).all()


def test_the_command_line_prints_json_and_says_by_its_exit_that_some_failed(home, folder):
    arguments = ["predict", str(folder / "one.mp4"), "--model", "hand", "--alias", CANDIDATE, "--home", str(home.root)]
    done = CliRunner().invoke(cli, [*arguments, "--json", "--protocol", "fast"], standalone_mode=False)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["video"] == str(folder / "one.mp4")
    assert len(row["flow.snippet_start"]) == 1
