"""Fused streams become a version in MLflow's model registry, the candidate; registered versions are found and loaded.

A version is made of files that were read back from the registry and loaded. Who may be champion is `promotion.py`'s.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptune.cluster import stay_quiet
from ptune.config import signature_of
from ptune.errors import RegistryError
from ptune.home import Home, sha256_file, write_json
from ptune.ledger import Ledger
from ptune.track.bundle import Bundle, BundleSpec, write_bundle
from ptune.track.evidence import Evidence
from ptune.track.history import CANDIDATE, CHAMPION, IDENTITY, ModelHistory
from ptune.track.model_card import model_card
from ptune.track.model_signature import input_example, model_signature
from ptune.track.store import connect

stay_quiet()

import mlflow  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from ptune.ledger import FitRecord

#: What a model may be called: the names of studies, which are its names by default.
MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
#: What an upload is called under its run.
UPLOAD = "fused"
#: Tag of a version: one checksum over all its files.
FILES = "ptune.files"
#: How often artifacts are read before an error is one, and the time between.
READS = 4
PAUSE_SECONDS = 1.0
#: What MLflow and Python put beside the files of a model that is loaded from where it lies.
LEFT_BY_READERS = {"__pycache__", "registered_model_meta"}
#: What databases that MLflow supports hold of a description.
DESCRIPTION_LENGTH = 5000
#: The packages that a registered model imports; ptune's own code travels inside it.
REQUIREMENTS = (
    "av",
    "numba",
    "numpy",
    "opencv-contrib-python",
    "pandas",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "torch",
)


class Registry:
    """The model registry of a home's tracking store."""

    def __init__(self, home: Home) -> None:
        connect(home)
        self.uri, self.ledger = home.tracking_uri, Ledger(home.ledger)
        self.client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def register(
        self, name: str, run_id: str, spec: BundleSpec, fits: list[FitRecord], evidence: Evidence
    ) -> ModelVersion:
        """Makes fused streams the candidate, as a new version under a study's run or as the version that they are.

        A version is made once all its files lie in the registry and were read back from there; what an interrupted
        registration has left under the run is removed.

        Raises:
            RegistryError: what the registry serves is not what was sent, or no longer.
        """
        identity = signature_of({"bundle": spec.model_dump(mode="json"), "fits": [fit.signature for fit in fits]})
        version = self._find(name, identity)
        if version is None:
            self._remove_orphans(run_id)
            model_uri = self._upload(name, run_id, spec, fits, evidence)
            tags = evidence.tags() | {IDENTITY: identity, FILES: self._digest(model_uri)}
            version = self.add_version(name, model_uri, run_id, tags, model_card(name, evidence, DESCRIPTION_LENGTH))
        else:
            self.verify(version)
        history = self.history(name)
        with history.changing():
            if history.is_candidate(version):
                self.client.set_registered_model_alias(name, CANDIDATE, version.version)
            else:
                history.record("registered", version, study=spec.study, evidence=evidence.table)
        return self.version(name, CANDIDATE)

    def add_version(
        self, name: str, source: str, run_id: str, tags: dict[str, str], description: str = ""
    ) -> ModelVersion:
        """Makes a version, and the model where there is none, of files that are there; no alias names it yet."""
        if name not in self.names():
            self.client.create_registered_model(name)
        with mlflow_at(self.uri):
            # A server wants to be told of which of its models the version is.
            model_id = source.removeprefix("models:/")
            return self.client.create_model_version(
                name, source, run_id, tags, description=description, model_id=model_id
            )

    def _upload(self, name: str, run_id: str, spec: BundleSpec, fits: list[FitRecord], evidence: Evidence) -> str:
        """Sends a bundle and its model card, and returns where the registry serves them."""
        with tempfile.TemporaryDirectory(prefix="ptune-") as scratch:
            folder = Path(scratch) / "bundle"
            write_bundle(folder, spec, fits)
            with mlflow_at(self.uri), mlflow.start_run(run_id=run_id, log_system_metrics=False):
                info = mlflow.pyfunc.log_model(
                    name=UPLOAD,
                    python_model=str(Path(__file__).with_name("bundle_model.py")),
                    artifacts={"bundle": str(folder)},
                    code_paths=[str(Path(__file__).parents[1])],
                    signature=model_signature(spec),
                    input_example=input_example(Path(scratch) / "example", spec.task),
                    pip_requirements=[f"{package}=={installed(package)}" for package in ("mlflow", *REQUIREMENTS)],
                )
            beside = Path(scratch) / "beside"
            beside.mkdir()
            (beside / "model_card.md").write_text(model_card(name, evidence))
            write_json(beside / "evidence.json", evidence.facts())
            self.client.log_model_artifacts(info.model_id, str(beside))
        return str(info.model_uri)

    def _remove_orphans(self, run_id: str) -> None:
        """Removes models under a run that no version refers to: uploads that were cut."""
        used = {version.source for version in self.client.search_model_versions(f"run_id = '{run_id}'")}
        experiment = self.client.get_run(run_id).info.experiment_id
        for model in self.client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
            if model.name == UPLOAD and model.model_uri not in used:
                self.client.delete_logged_model(model.model_id)

    def verify(self, version: ModelVersion) -> None:
        """Makes sure that the registry serves the files that were registered, and that they load.

        Raises:
            RegistryError: they are not there, differ or do not load.
        """
        where = f"model {version.name!r}, version {version.version}"
        if FILES not in version.tags:
            raise RegistryError(where, f"has no tag {FILES!r}", "one registered by ptune")
        if self._digest(version.source, where) != version.tags[FILES]:
            raise RegistryError(
                where,
                "its files are not those that were registered",
                "the same names and bytes",
                "Restore them from a backup, or delete the version in MLflow and register it again.",
            )

    def _digest(self, source: str, where: str = "upload") -> str:
        """Returns one checksum over the files of a model as the registry serves them, having loaded its bundle."""
        with mlflow_at(self.uri), tempfile.TemporaryDirectory(prefix="ptune-") as scratch:
            folder = Path(_read(where, lambda: mlflow.artifacts.download_artifacts(source, dst_path=scratch)))
            Bundle(folder / "artifacts" / "bundle", device="cpu")
            files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
            kept = sorted(path for path in files if not LEFT_BY_READERS & set(path.parts))
            return signature_of({path.as_posix(): sha256_file(folder / path) for path in kept})

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

    def numbered(self, name: str, number: int) -> ModelVersion:
        """Returns a version by its number.

        Raises:
            RegistryError: there is no such version any more.
        """
        try:
            return self.client.get_model_version(name, str(number))
        except MlflowException:
            raise RegistryError(f"model {name!r}", f"has no version {number}", "one that is in the registry") from None

    def history(self, name: str) -> ModelHistory:
        """Returns what became of a model."""
        return ModelHistory(self.ledger.model(name), self.client, name)

    def load(self, name: str, alias: str = CHAMPION) -> Any:
        """Returns the pyfunc model that an alias names."""
        return load_version(self.uri, name, self.version(name, alias).version)

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


def load_version(uri: str, name: str, number: str) -> Any:
    """Returns the pyfunc model that a registered version is.

    Raises:
        RegistryError: its files cannot be read.
    """
    with mlflow_at(uri):
        where = f"model {name!r}, version {number}"
        return _read(where, lambda: mlflow.pyfunc.load_model(f"models:/{name}/{number}"))


def _read(where: str, reader: Callable[[], Any]) -> Any:
    """Returns what a reader of artifacts finds, who reads again where a connection dropped: MLflow does not.

    Raises:
        RegistryError: it cannot be read.
    """
    left = READS
    while True:
        try:
            return reader()
        except (MlflowException, OSError) as error:
            left -= 1
            if not left:
                found = f"its files cannot be read ({type(error).__name__})"
                remedy = "Look at MLflow's artifact store, then run the same command again."
                raise RegistryError(where, found, "a complete model", remedy) from error
            time.sleep(PAUSE_SECONDS)


@contextmanager
def mlflow_at(uri: str) -> Iterator[None]:
    """Points those parts of MLflow that know of no client to a store, and back: to them it is a global variable."""
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before["MLFLOW_TRACKING_URI"])
        mlflow.set_registry_uri(before["MLFLOW_REGISTRY_URI"])
        if before["MLFLOW_REGISTRY_URI"] is None:  # MLflow forgets it itself, but not what it told child processes
            os.environ.pop("MLFLOW_REGISTRY_URI", None)
