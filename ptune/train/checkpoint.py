"""The state of an unfinished fit as safetensors in the ledger, where whoever goes on with the fit finds it.

Random state is not part of it: every draw of a fit derives from seed, epoch and step.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ptune.config import FitSpec
from ptune.ledger import Ledger


@dataclass
class Progress:
    """How far a fit is: `epoch` complete epochs and `batch` batches of the next one.

    Args:
        loss_sum: losses of the next epoch's videos so far, added up.
        seconds: spent altogether; `stepping` in training steps, `waited` of those for data.
    """

    epoch: int
    batch: int
    loss_sum: float
    history: list[dict[str, float]]
    seconds: float
    stepping: float = 0.0
    waited: float = 0.0


def save(
    ledger: Ledger, spec: FitSpec, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Replaces the checkpoint of a fit, whole or not at all."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    metadata = {"progress": json.dumps(vars(progress), allow_nan=False)}
    ledger.save_checkpoint(spec, lambda path: _write(path, tensors, metadata))


def load(ledger: Ledger, signature: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
    """Restores model and optimizer in place; None when there is no usable checkpoint."""
    with ledger.checkpoint(signature) as path:
        if path is None:
            return None
        try:
            with safe_open(path, "pt") as handle:
                metadata = handle.metadata()
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        except SafetensorError:
            return None
    model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**json.loads(metadata["progress"]))


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Writes safetensors, whose own errors hide what the system said."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
