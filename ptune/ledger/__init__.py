"""Durable facts: fits addressed by the hash of what determines them, and append-only study events.

A fit exists once its completion record does; the record holds a sha256 of every other file and is written last.
Events are single lines, each with its own checksum, so that a torn last line is recognised and dropped.
Lies in a folder, on a file system that machines share, or in an object store. Knows nothing of Ray, Optuna or MLflow,
which are projections of what is here.
"""

from ptune.ledger.fits import FitRecord, predictions_table
from ptune.ledger.layout import SCHEMA_VERSION
from ptune.ledger.lease import Holder, Lease
from ptune.ledger.ledger import Ledger
from ptune.ledger.study import ModelLog, StudyLog

__all__ = ["SCHEMA_VERSION", "FitRecord", "Holder", "Lease", "Ledger", "ModelLog", "StudyLog", "predictions_table"]
