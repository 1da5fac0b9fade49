"""A registered model in an environment that is built from the model's own list of packages, by a script that knows only
MLflow: no home, no ptune installed, no Ray.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import mlflow
import pytest

from ptune.home import Home
from ptune.track.predict import predict_videos, wanted_videos
from ptune.track.publish import register_study
from ptune.track.registry import CANDIDATE, Registry, mlflow_at
from tests.example_registry import add_study
from tests.extract.test_decode import SHARED

SCRIPT = """
import json, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model(f"models:/hand@{sys.argv[1]}")
rows = model.predict(pandas.DataFrame({"video": sys.argv[2:]}))
assert "ray" not in sys.modules
print(json.dumps({"ptune": sys.modules["ptune"].__file__, "rows": rows.to_dict("records")}))
"""


@pytest.mark.timeout(1200)
@pytest.mark.skipif("PTUNE_FULL" not in os.environ, reason="installs a gigabyte of packages; PTUNE_FULL=1 runs it")
@pytest.mark.skipif(not SHARED.exists(), reason="the real clips are not here")
def test_a_script_with_mlflow_alone_scores_real_clips_as_ptune_does(tmp_path):
    home = Home.open(tmp_path / "home")
    add_study(home, "hand", skill=0.8)
    register_study(home, "hand")
    clips = [SHARED / name for name in ("hand_open_close.gif", "talking_small.mp4", "bad/damaged_200_bytes.mp4")]
    expected = predict_videos(home, "hand", CANDIDATE, wanted_videos(clips)).facts()
    source = Registry(home).version("hand", CANDIDATE).source
    with mlflow_at(home.tracking_uri):
        files = Path(mlflow.artifacts.download_artifacts(source, dst_path=str(tmp_path / "model")))
    fresh = tmp_path / "fresh"
    venv.create(fresh, with_pip=True)
    python = fresh / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", files / "requirements.txt"], check=True)
    done = subprocess.run(
        [python, "-c", SCRIPT, CANDIDATE, *map(str, clips)],
        env={"PATH": os.environ["PATH"], "MLFLOW_TRACKING_URI": home.tracking_uri, "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "site-packages" not in found["ptune"]
    assert sys.prefix not in found["ptune"]
    for row, known in zip(found["rows"], expected, strict=True):
        assert row["problem"] == known["problem"]
        for name in ("normal", "mild", "severe"):
            if not row["problem"]:
                assert row[f"probability.{name}"] == pytest.approx(known[f"probability.{name}"], abs=1e-5)
    assert [bool(row["problem"]) for row in found["rows"]] == [False, False, True]
