"""`mlflow models serve` answers as `ptune predict` does, and says in words what it cannot use."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ptune.home import Home
from ptune.track.answers import as_data_uri
from ptune.track.predict import predict_videos, wanted_videos
from ptune.track.publish import register_study
from ptune.track.registry import CANDIDATE
from tests.example_registry import add_study
from tests.extract.test_decode import SHARED
from tests.track.example_bundles import pan
from tests.track.live import free_port


class Served:
    """A scoring server of its own process group."""

    def __init__(self, home, folder):
        self.port = free_port()
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/hand@{CANDIDATE}"]
        self.log = open(folder / "server.log", "w+")  # noqa: SIM115 (closed in `close`)
        self.process = subprocess.Popen(
            [*command, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"],
            env=os.environ
            | {
                "MLFLOW_TRACKING_URI": home.tracking_uri,
                "PTUNE_SERVED_FOLDER": str(folder / "served"),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            cwd=folder,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, self.printed()
                assert time.monotonic() < until, self.printed()
                time.sleep(0.2)

    def printed(self):
        self.log.seek(0)
        return self.log.read()

    def ask(self, content):
        """Returns the status and the answer."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/invocations", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def close(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(timeout=30)
        self.log.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home.open(tmp_path_factory.mktemp("home"))
    add_study(home, "hand", skill=0.8)
    register_study(home, "hand")
    return home


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    (folder / "served").mkdir()
    pan(folder / "served" / "inside.mp4")
    pan(folder / "outside.mp4")
    return folder


@pytest.fixture(scope="module")
def served(home, folder):
    served = Served(home, folder)
    yield served
    served.close()


def probabilities(row):
    return {name: value for name, value in row.items() if "probability." in name}


def test_a_clip_has_the_same_probabilities_over_http_as_on_the_command_line(home, folder, served):
    real = SHARED / "hand_open_close.gif"
    clip = real if real.exists() else folder / "outside.mp4"
    print(f"scored: {clip.name}")
    status, answer = served.ask({"dataframe_records": [{"video": as_data_uri(clip)}]})
    assert status == 200, answer
    (row,) = answer["predictions"]
    (expected,) = predict_videos(home, "hand", CANDIDATE, wanted_videos([clip])).facts()
    assert probabilities(row) == pytest.approx(probabilities(expected), abs=1e-5)
    assert (row["score_group"], row["flags"]) == (expected["score_group"], expected["flags"])


def test_parameters_travel_and_unknown_values_are_refused(folder, served):
    videos = {"dataframe_records": [{"video": as_data_uri(folder / "outside.mp4")}]}
    status, answer = served.ask(videos | {"params": {"protocol": "fast"}})
    assert status == 200, answer
    assert len(answer["predictions"][0]["flow.snippet_start"]) == 1
    for params, told in (
        ({"protocol": "slow"}, "protocol: 'slow'; expected paper or fast"),
        ({"device": "cuda:77"}, "device: 'cuda:77'"),
    ):
        status, answer = served.ask(videos | {"params": params})
        assert status == 400
        assert told in json.dumps(answer)


def test_a_video_that_cannot_be_used_has_a_problem_and_no_score(served):
    status, answer = served.ask({"dataframe_records": [{"video": "data:video/mp4;base64,bm8gdmlkZW8="}]})
    (row,) = answer["predictions"]
    assert (status, row["score_group"], row["probability.mild"]) == (200, "", None)
    assert row["problem"].startswith("unreadable: ")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"dataframe_records": [{"film": "x"}]}, "video"),
        ({"dataframe_records": [{"video": 7}]}, "video"),
        ({"dataframe_records": [{"video": ""}]}, "expected a path or a data URI"),
        ({"dataframe_split": {"columns": ["video"], "data": []}}, "0 rows; expected 1 to 1000 videos"),
        ({"dataframe_records": [{"video": "data:video/mp4;base64,@@@"}]}, "a data URI that holds no base64"),
        ({"video": "x"}, "dataframe"),
        (b"no json", "JSON"),
    ],
    ids=["another column", "a number", "nothing", "no row", "no base64", "no table", "no JSON"],
)
def test_bad_input_is_answered_with_400_and_what_was_expected(served, content, told):
    status, answer = served.ask(content)
    assert status == 400, answer
    assert told in json.dumps(answer), answer


def test_only_files_of_the_served_folder_are_read(folder, served):
    status, answer = served.ask({"dataframe_records": [{"video": "inside.mp4"}]})
    assert status == 200, answer
    assert answer["predictions"][0]["score_group"]
    (folder / "served" / "link.mp4").symlink_to(folder / "outside.mp4")
    for video in (
        str(folder / "outside.mp4"),
        "../outside.mp4",
        "link.mp4",
        "/etc/passwd",
        "gone.mp4",
        "a" * 5000,
        "a\0b",
    ):
        status, answer = served.ask({"dataframe_records": [{"video": video}]})
        assert status == 400, video
        assert "a path to no file of the served folder" in answer["message"]
        assert "stack_trace" not in answer
