"""The systems that the paper compares, as named streams. Every other setting is the paper's default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptune.config.base import nearest
from ptune.config.stream import Modality, StreamConfig
from ptune.errors import ConfigError

Settings = dict[str, Any]


@dataclass(frozen=True)
class System:
    """One architecture with its training scheme.

    Args:
        streams: the settings of each modality that it takes.
        table_3: the modalities that are fused in each of its rows of table 3; none where it has no row.
    """

    streams: Mapping[Modality, Settings]
    table_3: tuple[tuple[Modality, ...], ...]


def _stacked(frames: int) -> Settings:
    """Returns a 2-D network on `frames` frames, tested on 25 of them as its authors do."""
    return {
        "backbone": "inception2d",
        "attention": False,
        "snippet_frames": frames,
        "validation": {"snippets": 4, "frames": frames},
        "test": {"snippets": 25, "frames": frames},
    }


def _streams(rgb: Settings, motion: Settings) -> dict[Modality, Settings]:
    return {"rgb": rgb, "flow": motion, "mb": motion}


def _alike(settings: Settings) -> dict[Modality, Settings]:
    return _streams(settings, settings)


_PAIR: tuple[Modality, ...] = ("flow", "mb")
_SLOWFAST: Settings = {
    "backbone": "slowfast_4x16",
    "attention": False,
    "snippet_frames": 32,
    "frame_stride": 2,
    "dropout": 0.5,
    "init": "random",
    "validation": {"snippets": 4, "frames": 32},
    "test": {"snippets": 10, "frames": 32},
}
_TSN: Settings = {"segments": 3, "frozen_norm": "partial"}

#: Source: table 3; section 4.3, "Performance of Other Architectures": all are trained with the proposed method's
#: augmentation and focal loss, and all but SlowFast start from Kinetics-400 weights.
SYSTEMS: dict[str, System] = {
    # Source: Simonyan and Zisserman 2014: one RGB frame, ten flow fields, one draw per video, no consensus.
    # Differs: Inception-V1 with batch norm in place of CNN-M, because the paper starts it from Kinetics-400 weights.
    #     The ticks of its row are lost in the text: the original pair is taken. Dropout is the paper's.
    "two_stream": System(
        _streams(rgb={**_stacked(1), "segments": 1}, motion={**_stacked(10), "segments": 1}),
        table_3=(("rgb", "flow"),),
    ),
    # Source: Wang et al. 2016 and its public code: three segments, one RGB frame or five flow fields, average
    #     consensus before the softmax, dropout 0.8 and 0.7, partial batch norm, 25 frames at test time.
    # Differs: Inception-V1 in place of BN-Inception; one centre crop in place of ten. The ticks of its row are lost in
    #     the text: the original pair is taken.
    "tsn": System(
        _streams(rgb={**_stacked(1), **_TSN, "dropout": 0.8}, motion={**_stacked(5), **_TSN}),
        table_3=(("rgb", "flow"),),
    ),
    # Source: Carreira and Zisserman 2017: one random clip of 64 frames; section 4.3 names flow and boundaries.
    # Differs: tested as the proposed method is, section 4.2, not on the whole video.
    "i3d": System(
        _alike({"segments": 1, "snippet_frames": 64, "attention": False}),
        table_3=(_PAIR,),
    ),
    # Source: Feichtenhofer et al. 2019: 32 frames at stride 2, dropout 0.5, ten clips at test time, from scratch.
    # Differs: one centre crop in place of three; the paper's optimiser and 120 epochs, a schedule that it does not
    #     state otherwise. The paper has RGB only; flow and boundaries are possible.
    "slowfast": System(_alike({**_SLOWFAST, "segments": 1}), table_3=(("rgb",),)),
    # Source: table 3 alone. It ticks one modality and its gait score lies far below TSN's, which averaging the scores
    #     of two systems would hardly do: SlowFast is read as the network inside TSN's sampling.
    # Differs: nothing is known of it; segments are TSN's three. Fusing both systems' scores stays possible.
    "tsn_slowfast": System(_alike({**_SLOWFAST, "segments": 3}), table_3=(("rgb",),)),
    # Source: section 4.1 and 4.2; figure 4 for the pair.
    "proposed": System(_alike({}), table_3=(_PAIR, ("mb",))),
    # Source: table 2, the columns without attention.
    # Differs: none known; all weights are 1, which is TSN's average.
    "proposed_without_attention": System(_alike({"attention": False}), table_3=()),
    # Source: section 4.3, "Effect of Focal Loss": cross-entropy, which is focal loss with alpha 1 and gamma 0.
    "proposed_without_focal": System(
        _alike({"focal": {"alpha": 1.0, "gamma": 0.0}}),
        table_3=(("mb",),),
    ),
}


def settings_of(system: str, modality: str) -> Settings:
    """Returns the settings in which a system's stream on one modality differs from the defaults.

    Raises:
        ConfigError: there is no such system, or it does not take the modality.
    """
    if system not in SYSTEMS:
        raise ConfigError("system", f"{system!r}{nearest(system, list(SYSTEMS))}", f"one of {', '.join(SYSTEMS)}")
    streams: Mapping[str, Settings] = {str(name): values for name, values in SYSTEMS[system].streams.items()}
    if modality not in streams:
        raise ConfigError(f"system {system}", f"modality {modality!r}", f"one of {', '.join(streams)}")
    return dict(streams[modality])


def stream_of(system: str, modality: str, **overrides: Any) -> StreamConfig:
    """Returns the stream of a system on one modality.

    Args:
        overrides: fields of `StreamConfig` that replace the system's.

    Raises:
        ConfigError: as `settings_of`, or the settings do not go together.
    """
    return StreamConfig.parse({"modality": modality} | settings_of(system, modality) | overrides, f"system {system}")
