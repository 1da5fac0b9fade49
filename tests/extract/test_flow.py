import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ptune.config import TVL1Config
from ptune.errors import ConfigError
from ptune.extract import flow
from ptune.extract.flow import (
    BACKENDS,
    DEFAULT_BACKEND,
    FLOW_LIMIT,
    backend_named,
    default_backend,
    dequantize,
    quantize,
    to_gray,
    tvl1,
)
from tests.extract.clips import panning, texture


def test_a_still_scene_has_no_flow():
    gray = np.repeat(texture(48, 64)[None], 3, axis=0)
    found = tvl1(gray)
    assert found.shape == (2, 48, 64, 2)
    assert found.dtype == np.float32
    assert abs(found).max() == 0


def test_a_disc_moving_two_pixels_a_frame_has_flow_near_two():
    rows, columns = np.mgrid[:48, :64]
    pattern = texture(48, 128, seed=1)
    frames = []
    for index in range(3):
        frame = texture(48, 64, seed=2) // 4
        inside = (rows - 24) ** 2 + (columns - 24 - 2 * index) ** 2 < 14**2
        frame[inside] = pattern[:, 32 - 2 * index :][:, :64][inside]
        frames.append(frame)
    found = tvl1(np.stack(frames))
    core = (rows - 24) ** 2 + (columns - 24) ** 2 < 9**2
    assert np.median(found[0][core][:, 0]) == pytest.approx(2, abs=0.2)
    assert np.median(found[0][core][:, 1]) == pytest.approx(0, abs=0.2)


def test_each_pair_is_solved_by_itself():
    gray = to_gray(panning(frames=4, step=2))
    assert (tvl1(gray)[2] == tvl1(gray[2:])[0]).all()


def test_settings_reach_the_solver():
    gray = to_gray(panning(frames=2, step=2))
    assert (tvl1(gray) != tvl1(gray, config=TVL1Config(lambda_=0.05))).any()


def test_an_unknown_backend_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"did you mean 'opencv'.*one of .*opencv"):
        tvl1(np.zeros((2, 16, 16), np.uint8), backend="openvc")


def test_only_the_gpus_backend_needs_a_gpu(monkeypatch):
    assert {name for name, backend in BACKENDS.items() if backend.needs_gpu} == {"cuda"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    backend_named("cuda").warm_up()
    with pytest.raises(ConfigError, match=r"sees no GPU.*'cpu'"):
        tvl1(np.zeros((2, 16, 16), np.uint8), "cuda")


def test_the_default_is_the_gpu_where_there_is_one(monkeypatch):
    assert default_backend() == ("cuda" if torch.cuda.is_available() else DEFAULT_BACKEND)
    monkeypatch.setattr(flow, "version", lambda package: "2.13.0+cu130")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_backend() == "cuda"
    monkeypatch.setattr(flow, "version", lambda package: "2.13.0+cpu")
    assert default_backend() == DEFAULT_BACKEND


def test_importing_flow_imports_no_solver():
    code = "import sys, ptune.extract.flow; print({'torch', 'numba', 'triton'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_frames_must_be_gray():
    with pytest.raises(ValueError, match=r"expected uint8 \[T,H,W\]"):
        tvl1(np.zeros((2, 16, 16, 3), np.uint8))


@given(arrays(np.float32, (3, 4, 2), elements=st.floats(-31.9375, 31.9375, width=32)))
def test_storing_rounds_by_at_most_half_a_unit(values):
    assert abs(dequantize(quantize(values)) - values).max() <= 1 / 2048


@given(arrays(np.float32, (3, 4, 2), elements=st.floats(-1e6, 1e6, width=32)))
def test_storing_is_odd_so_that_mirroring_is_exact(values):
    assert (quantize(-values) == -quantize(values)).all()


def test_stored_flow_saturates_and_refuses_nan():
    assert quantize(np.float32([-40, 40, np.inf])).tolist() == [-FLOW_LIMIT, FLOW_LIMIT, FLOW_LIMIT]
    with pytest.raises(ValueError, match="not numbers"):
        quantize(np.float32([np.nan]))


def test_every_stored_value_comes_back():
    stored = np.arange(-FLOW_LIMIT, FLOW_LIMIT + 1, dtype=np.int16)
    assert (quantize(dequantize(stored)) == stored).all()
