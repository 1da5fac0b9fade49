"""The script that MLflow runs to rebuild a registered model: models from code, nothing pickled."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from ptune.errors import BadInput
from ptune.track.answers import DATA_URI, check_data_uri, row_of
from ptune.track.bundle import Bundle, ProtocolName

#: MLflow sets it in the processes of `mlflow models serve`.
SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
#: Where a server may read videos that a request names by path; unset, requests carry their videos.
SERVED_FOLDER = "PTUNE_SERVED_FOLDER"
MOST_VIDEOS = 1000


class FusedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Scores videos with fused streams."""

    def load_context(self, context: Any) -> None:
        """Loads and verifies the bundle that came with the model."""
        self.bundle = Bundle(Path(context.artifacts["bundle"]))
        # A server answers several requests at once, and each may name a device.
        self.turn = threading.Lock()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Returns one row per row of `model_input`, whose column `video` holds paths or data URIs.

        Args:
            params: `protocol`, paper or fast; `device` as torch names it, "" for the best there is.

        Raises:
            MlflowException: the input or a parameter cannot be used; a server answers 400.
        """
        asked = {"protocol": "paper", "device": ""} | (params or {})
        try:
            videos, protocol = list(_videos(model_input)), _protocol(asked["protocol"])
            with self.turn:
                self.bundle.move(asked["device"])
                rows = pd.DataFrame([row_of(self.bundle, video, protocol) for video in videos])
        except BadInput as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        # JSON has no NaN, and the server would write it.
        return rows.astype(object).where(rows.notna(), None) if _serving() else rows


def _videos(model_input: pd.DataFrame) -> Iterator[str]:
    if not 0 < len(model_input) <= MOST_VIDEOS:
        raise BadInput("input", f"{len(model_input)} rows", f"1 to {MOST_VIDEOS} videos")
    for video in model_input["video"]:
        if not isinstance(video, str) or not video:
            raise BadInput("video", f"a value of type {type(video).__name__}", "a path or a data URI, as text")
        if video.startswith(DATA_URI):
            check_data_uri(video)
            yield video
        else:
            yield _served(video) if _serving() else video


def _serving() -> bool:
    return os.environ.get(SERVING) == "true"


def _served(video: str) -> str:
    """Returns the path of a video in the folder that may be served; no request reads any other file."""
    folder = os.environ.get(SERVED_FOLDER)
    if not folder:
        raise BadInput(
            "video",
            "a path",
            "data:video/mp4;base64,...",
            f"This server reads no files by their path; {SERVED_FOLDER} may name a folder of videos that it does read.",
        )
    try:
        path = (Path(folder) / video).resolve()
        there = path.is_relative_to(Path(folder).resolve()) and path.is_file()
    except (OSError, ValueError):  # Longer than a path can be, or with a character that none has.
        there = False
    if not there:
        raise BadInput("video", "a path to no file of the served folder", f"a file below {SERVED_FOLDER}")
    return str(path)


def _protocol(name: Any) -> ProtocolName:
    for known in get_args(ProtocolName):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise BadInput("protocol", repr(name), " or ".join(get_args(ProtocolName)))


mlflow.models.set_model(FusedModel())
