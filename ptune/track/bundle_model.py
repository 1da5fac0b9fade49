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

    def predict(self, context: Any, model_input, params=None):  # type: ignore[no-untyped-def]
        """Returns one row per row of `model_input`, whose column `video` holds paths."""
        rows = [self.bundle.row(Path(video)) for video in model_input["video"]]
        return pd.DataFrame(rows)


mlflow.models.set_model(FusedModel())
