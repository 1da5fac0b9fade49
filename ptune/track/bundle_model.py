"""The script that MLflow runs to rebuild a registered model: models from code, nothing pickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from ptune.track.bundle import Bundle


class FusedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Scores videos with fused streams."""

    def load_context(self, context: Any) -> None:
        """Loads and verifies the bundle that came with the model."""
        self.bundle = Bundle(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Returns one row per row of `model_input`, whose column `video` holds paths or data URIs."""
        return pd.DataFrame([self.bundle.row(video) for video in model_input["video"]])


mlflow.models.set_model(FusedModel())
