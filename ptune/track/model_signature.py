"""What a registered model takes and answers, as MLflow states it, and a synthetic clip as its example."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ptune.cluster import stay_quiet
from ptune.cohort.manifest import load_manifest
from ptune.cohort.synthetic import SyntheticConfig, render_cohort
from ptune.track.answers import as_data_uri
from ptune.track.bundle import BundleSpec

stay_quiet()

from mlflow.models import ModelSignature  # noqa: E402
from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema  # noqa: E402


def model_signature(spec: BundleSpec) -> ModelSignature:
    """Returns the columns that go in and come out, and the parameters with their defaults."""
    names = spec.grouping.names
    columns = [
        ColSpec(DataType.string, "score_group"),
        ColSpec(DataType.double, "expected_score"),
        ColSpec(DataType.string, "problem"),
        ColSpec(Array(DataType.string), "flags"),
    ]
    columns += [ColSpec(DataType.double, f"probability.{name}") for name in names]
    for member in spec.streams:
        columns += [ColSpec(DataType.double, f"{member.name}.probability.{name}") for name in names]
        columns.append(ColSpec(Array(DataType.double), f"{member.name}.attention"))
        columns.append(ColSpec(Array(DataType.long), f"{member.name}.snippet_start"))
    params = [ParamSpec("protocol", DataType.string, "paper"), ParamSpec("device", DataType.string, "")]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "video")]), outputs=Schema(columns), params=ParamSchema(params)
    )


def input_example(folder: Path, task: str) -> pd.DataFrame:
    """Returns one synthetic clip, rendered into `folder`, as the model takes it."""
    config = SyntheticConfig(
        task="gait" if task == "gait" else "hand",
        subjects=1,
        clips_per_subject=1,
        seconds=(1.2, 1.2),
        width=96,
        height=72,
    )
    manifest = load_manifest(render_cohort(folder, config))
    return pd.DataFrame({"video": [as_data_uri(manifest.videos[0].path)]})
