"""Everything that determines a result, as frozen strict models with signatures."""

from ptune.config.base import STAGE_VERSIONS, Strict, dump_yaml, load_yaml, nearest, signature_of
from ptune.config.extraction import ExtractConfig, TVL1Config
from ptune.config.stream import (
    AugmentConfig,
    Boundary,
    ClassGrouping,
    FitSpec,
    FitVideo,
    FocalConfig,
    Modality,
    Protocol,
    StreamConfig,
)
from ptune.config.study import Budget, Finalists, FoldsConfig, Objective, StudyConfig

__all__ = [
    "STAGE_VERSIONS",
    "AugmentConfig",
    "Boundary",
    "Budget",
    "ClassGrouping",
    "ExtractConfig",
    "Finalists",
    "FitSpec",
    "FitVideo",
    "FocalConfig",
    "FoldsConfig",
    "Modality",
    "Objective",
    "Protocol",
    "StreamConfig",
    "Strict",
    "StudyConfig",
    "TVL1Config",
    "dump_yaml",
    "load_yaml",
    "nearest",
    "signature_of",
]
