"""Fused streams in MLflow's model registry: register as candidate, promote to champion, roll back, load.

The alias moves only to a version whose files are complete; what a promotion decides on is in the version's tags.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ptune.cluster import stay_quiet
from ptune.cohort.manifest import load_manifest
from ptune.cohort.synthetic import SyntheticConfig, render_cohort
from ptune.config import signature_of
from ptune.errors import PromotionRefused, RegistryError
from ptune.home import Home
from ptune.track.bundle import Bundle, BundleSpec, as_data_uri, write_bundle

stay_quiet()

import mlflow  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import ModelSignature  # noqa: E402
from mlflow.types.schema import Array, ColSpec, DataType, Schema  # noqa: E402

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from ptune.ledger import FitRecord

CANDIDATE = "candidate"
CHAMPION = "champion"
IDENTITY = "ptune.identity"
#: The packages that a registered model imports; ptune's own code travels inside it.
REQUIREMENTS = (
    "av",
    "numpy",
    "opencv-contrib-python",
    "pandas",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "torch",
)


@dataclass(frozen=True)
class Evidence:
    """What a promotion decides on; all of it is about unseen subjects.

    Args:
        metric: name of the objective.
        value: pooled out-of-fold value of the fused streams.
        majority: value of always answering with the most frequent class.
        p_value: of the sign-flip test over subjects against that answer.
        cohort: digest of the manifest, to compare like with like.
    """

    metric: str
    value: float
    majority: float
    p_value: float
    cohort: str

    def tags(self) -> dict[str, str]:
        """Returns the evidence as tags of a model version."""
        return {f"ptune.{name}": str(value) for name, value in vars(self).items()}

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> Evidence:
        """Reads the evidence of a version.

        Raises:
            RegistryError: the version was not registered by ptune.
        """
        try:
            numbers = {name: float(tags[f"ptune.{name}"]) for name in ("value", "majority", "p_value")}
            return cls(metric=tags["ptune.metric"], cohort=tags["ptune.cohort"], **numbers)
        except KeyError as missing:
            raise RegistryError("model version", f"has no tag {missing}", "one registered by ptune") from None


class Registry:
    """The model registry of a home's tracking store."""

    def __init__(self, home: Home) -> None:
        self.uri = home.tracking_uri
        self.client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def register(
        self, name: str, run_id: str, spec: BundleSpec, fits: list[FitRecord], evidence: Evidence
    ) -> ModelVersion:
        """Makes fused streams the candidate, as a new version under a study's run or as the version that they are."""
        identity = signature_of({"bundle": spec.model_dump(mode="json"), "fits": [fit.signature for fit in fits]})
        found = self._find(name, identity)
        if found is not None:
            self.client.set_registered_model_alias(name, CANDIDATE, found.version)
            return self.version(name, CANDIDATE)
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        with tempfile.TemporaryDirectory(prefix="ptune-") as scratch:
            folder = Path(scratch) / "bundle"
            write_bundle(folder, spec, fits)
            with mlflow.start_run(run_id=run_id, log_system_metrics=False):
                info = mlflow.pyfunc.log_model(
                    name="fused",
                    python_model=str(Path(__file__).with_name("bundle_model.py")),
                    artifacts={"bundle": str(folder)},
                    code_paths=[str(Path(__file__).parents[1])],
                    signature=_signature(spec),
                    input_example=_example(Path(scratch) / "example", spec.task),
                    pip_requirements=[f"{package}=={installed(package)}" for package in ("mlflow", *REQUIREMENTS)],
                )
        if name not in self.names():
            self.client.create_registered_model(name)
        tags = evidence.tags() | {IDENTITY: identity}
        version = self.client.create_model_version(name, info.model_uri, run_id=run_id, tags=tags)
        self.client.set_registered_model_alias(name, CANDIDATE, version.version)
        return version

    def version(self, name: str, alias: str) -> ModelVersion:
        """Returns the version that an alias names.

        Raises:
            RegistryError: there is no such model or alias.
        """
        try:
            return self.client.get_model_version_by_alias(name, alias)
        except MlflowException:
            raise RegistryError(
                f"model {name!r}",
                f"has no {alias}",
                "a registered model with that alias",
                f"Known models: {', '.join(self.names()) or 'none'}. `ptune register STUDY` makes a candidate.",
            ) from None

    def names(self) -> list[str]:
        """Returns the names of all registered models."""
        return sorted(model.name for model in self.client.search_registered_models())

    def promote(self, name: str) -> tuple[ModelVersion, str]:
        """Makes the candidate champion when its evidence allows it.

        Returns:
            The version and the reason in words.

        Raises:
            PromotionRefused: it is not better than the majority class, or than the champion on the same cohort.
        """
        candidate = self.version(name, CANDIDATE)
        champion = self.champion(name)
        if champion is not None and champion.version == candidate.version:
            raise PromotionRefused(f"model {name!r}", f"version {candidate.version} is champion already")
        reason = _judge(name, Evidence.of(candidate.tags), Evidence.of(champion.tags) if champion else None)
        former = champion.version if champion else ""
        self.client.set_model_version_tag(name, candidate.version, "ptune.former_champion", former)
        self.client.set_registered_model_alias(name, CHAMPION, candidate.version)
        return candidate, reason

    def rollback(self, name: str) -> ModelVersion:
        """Makes the champion before the present one champion again.

        Raises:
            RegistryError: there was none.
        """
        former = self.version(name, CHAMPION).tags.get("ptune.former_champion", "")
        if not former:
            raise RegistryError(f"model {name!r}", "has no former champion", "one that was promoted after another")
        self.client.set_registered_model_alias(name, CHAMPION, former)
        return self.version(name, CHAMPION)

    def load(self, name: str, alias: str = CHAMPION) -> Any:
        """Returns the pyfunc model that an alias names."""
        self.version(name, alias)
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        return mlflow.pyfunc.load_model(f"models:/{name}@{alias}")

    def bundle(self, name: str, alias: str = CHAMPION) -> Bundle:
        """Returns the bundle inside a registered version, without MLflow's wrapping."""
        return self.load(name, alias).unwrap_python_model().bundle  # type: ignore[no-any-return]

    def _find(self, name: str, identity: str) -> ModelVersion | None:
        versions = self.client.search_model_versions(f"name = '{name}'")
        return next((version for version in versions if version.tags.get(IDENTITY) == identity), None)

    def champion(self, name: str) -> ModelVersion | None:
        """Returns the champion, where there is one."""
        try:
            return self.version(name, CHAMPION)
        except RegistryError:
            return None


def _judge(name: str, candidate: Evidence, champion: Evidence | None) -> str:
    metric = candidate.metric
    if candidate.value <= candidate.majority:
        raise PromotionRefused(
            f"model {name!r}",
            f"{metric} {candidate.value:.3f} is not above the majority class's {candidate.majority:.3f}",
            "better than a constant answer",
            "Extend the study or look at the data.",
        )
    against = f"majority class {candidate.majority:.3f}, p = {candidate.p_value:.4f}"
    if champion is None:
        return f"{metric} {candidate.value:.3f} against {against}"
    if (champion.cohort, champion.metric) != (candidate.cohort, metric):
        raise PromotionRefused(
            f"model {name!r}",
            "candidate and champion were evaluated on different cohorts or metrics",
            "evidence on the same videos",
            "Run the champion's study on this cohort first.",
        )
    if candidate.value < champion.value:
        raise PromotionRefused(
            f"model {name!r}",
            f"{metric} {candidate.value:.3f} is below the champion's {champion.value:.3f} on the same videos",
            "at least the champion's",
            "Extend the study.",
        )
    return f"{metric} {candidate.value:.3f} against the champion's {champion.value:.3f} ({against})"


def _example(folder: Path, task: str) -> pd.DataFrame:
    """Returns one synthetic clip as the model takes it."""
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


def _signature(spec: BundleSpec) -> ModelSignature:
    names = spec.grouping.names
    columns = [ColSpec(DataType.string, "score_group"), ColSpec(DataType.string, "problem")]
    columns += [ColSpec(DataType.double, f"probability.{name}") for name in names]
    for stream in spec.streams:
        columns += [ColSpec(DataType.double, f"{stream.modality}.probability.{name}") for name in names]
        columns.append(ColSpec(Array(DataType.double), f"{stream.modality}.attention"))
        columns.append(ColSpec(Array(DataType.long), f"{stream.modality}.snippet_start"))
    return ModelSignature(inputs=Schema([ColSpec(DataType.string, "video")]), outputs=Schema(columns))
