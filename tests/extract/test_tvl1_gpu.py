"""The GPU's flow is the CPU's to the last bit: PyTorch and Triton's interpreter anywhere, Triton itself on a GPU."""

import math
import os
import re
import subprocess
import sys
from fractions import Fraction
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ptune.config import ExtractConfig, TVL1Config
from ptune.extract import tvl1_cpu, tvl1_gpu, tvl1_levels, tvl1_torch
from ptune.extract.decode import decode
from ptune.extract.flow import to_gray
from tests.extract.clips import panning, texture

VIDEOS = Path(__file__).parents[2].parent / "shared" / "videos"
CLIPS = sorted(path.name for path in VIDEOS.glob("*.*") if path.suffix in {".mp4", ".avi", ".gif"})

SETTINGS = [
    TVL1Config(),
    TVL1Config(tau=0.2, lambda_=0.05, theta=0.5, scales=3, warps=2, epsilon=0.02),
    TVL1Config(scale_step=0.5, median_size=3, inner_iterations=7, outer_iterations=4, epsilon=0.001),
    TVL1Config(scales=1, warps=3, median_size=1, lambda_=0.4, tau=0.1, inner_iterations=1),
]

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_same_bytes(gray, config=TVL1Config(), executor="torch", device="cpu"):  # noqa: B008 (frozen)
    ours = tvl1_gpu.solve(gray, config, device, executor)
    reference = tvl1_cpu.solve(gray, config)
    assert ours.shape == reference.shape
    for index in range(len(reference)):
        assert ours[index].tobytes() == reference[index].tobytes(), f"pair {index} differs"


def pictures(batch, height, width, seed=0):
    return np.random.default_rng(seed).normal(0, 100, (batch, height, width)).astype(np.float32)


# The replicas of OpenCV's functions.


@pytest.mark.parametrize("shape", [(1, 20), (3, 3), (17, 31), (33, 47)])
@pytest.mark.parametrize("reach", [0, 1, 10, 1e3, 1e12])
def test_remap_is_opencvs_however_far_outside(shape, reach):
    picture = pictures(1, *shape)
    random = np.random.default_rng(1).normal(0, reach, (2, *shape))
    y, x = (np.mgrid[: shape[0], : shape[1]] + random).astype(np.float32)
    expected = cv2.remap(picture[0], x, y, cv2.INTER_CUBIC)
    found = tvl1_torch.remap(*(torch.from_numpy(array[None]) for array in (picture, x, y)))
    assert found.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("factor", [0.5, 0.7, 0.8, 0.95])
@pytest.mark.parametrize("shape", [(33, 47), (40, 60), (81, 35)])
def test_resizing_down_and_up_is_opencvs(shape, factor):
    levels = tvl1_levels.pyramid_levels(*shape, TVL1Config(scales=4, scale_step=factor))
    image = pictures(1, *shape)
    for finer, level in pairwise(levels):
        smaller = cv2.resize(image[0], None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
        found = tvl1_torch.resize(torch.from_numpy(image), level.rows, level.columns).numpy()
        assert found.tobytes() == smaller.tobytes()
        larger = cv2.resize(smaller, image.shape[:0:-1], interpolation=cv2.INTER_LINEAR)
        assert tvl1_torch.resize(torch.from_numpy(found), *level.enlarged(finer)).numpy().tobytes() == larger.tobytes()
        image = found


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(2, 2), (7, 5), (24, 33)])
def test_the_median_is_opencvs(shape, size):
    picture = pictures(1, *shape)
    found = tvl1_torch.median(torch.from_numpy(picture[None]), size).numpy()
    assert found.tobytes() == cv2.medianBlur(picture[0], size).tobytes()


def test_a_fused_multiply_add_rounds_once():
    random = np.random.default_rng(0)
    a, b, c = (random.normal(0, 1, 500) * 2.0 ** random.integers(-20, 20, 500) for _ in range(3))
    # Sums next to the middle of two floats are where rounding twice goes wrong.
    a[:200] = 1 + np.arange(200) * 2.0**-23
    b[:200] = 1 + 2.0**-23
    c[:200] = [math.ldexp(2 * (i % 3) - 1, -70) for i in range(200)]
    a, b, c = (array.astype(np.float32) for array in (a, b, c))
    found = tvl1_torch.fused(*map(torch.from_numpy, (a, b, c))).numpy()
    for x, y, z, result in zip(*(array.tolist() for array in (a, b, c)), found, strict=True):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        neighbours = [np.nextafter(result, np.float32(side)) for side in (-np.inf, np.inf)]
        assert all(abs(Fraction(float(result)) - exact) <= abs(Fraction(float(n)) - exact) for n in neighbours)


# The whole solver, in PyTorch.


@pytest.mark.parametrize("config", SETTINGS)
def test_a_pan_gives_the_cpus_bytes(config):
    assert_same_bytes(to_gray(panning(frames=3, step=2, height=36, width=50)), config)


@pytest.mark.skipif(not CLIPS, reason="no real clips beside the repository")
def test_a_real_clip_gives_the_cpus_bytes():
    frames = decode(VIDEOS / CLIPS[0], ExtractConfig(width=80, height=60)).frames
    assert_same_bytes(to_gray(frames[10:13]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (20, 1), (2, 2), (15, 40), (16, 17), (33, 21), (41, 71)])
@pytest.mark.parametrize("grain", [1, 255])
def test_noise_of_any_size_gives_the_cpus_bytes(shape, grain):
    frames = np.random.default_rng(2).integers(0, grain, (2, *shape), np.uint8, endpoint=True)
    assert_same_bytes(frames, TVL1Config(warps=2, outer_iterations=2, inner_iterations=9))


def test_constant_frames_have_no_flow():
    frames = np.full((2, 33, 47), 128, np.uint8)
    assert_same_bytes(frames)
    assert not tvl1_gpu.solve(frames, TVL1Config(), "cpu").any()


def test_floats_in_zero_to_one_give_the_same_flow():
    gray = to_gray(panning(frames=2, step=1, height=24, width=33))
    config = TVL1Config(scales=1, warps=1)
    assert_same_bytes(gray.astype(np.float32) / 255, config)
    assert_same_bytes(np.repeat(gray, 2, axis=2)[:, ::-1, ::2], config)


def test_one_frame_has_no_flow():
    assert tvl1_gpu.solve(np.zeros((1, 16, 20), np.uint8), TVL1Config(), "cpu").shape == (0, 16, 20, 2)


def mixed():
    """A slow pan, a still pair, a scene cut, a flash: pairs that stop at different iterations, uint8 [5,36,50]."""
    pan = to_gray(panning(frames=2, step=1, height=36, width=50))
    return np.stack([*pan, pan[1], texture(36, 50, seed=9), np.full((36, 50), 255, np.uint8)])


def test_pairs_of_a_batch_do_not_touch_each_other(monkeypatch):
    gray, config = mixed(), TVL1Config(scales=2, warps=2)
    assert_same_bytes(gray, config)
    together = tvl1_gpu.solve(gray, config, "cpu", "torch")
    monkeypatch.setattr(tvl1_gpu, "MAX_PAIRS", 1)
    assert tvl1_gpu.solve(gray, config, "cpu", "torch").tobytes() == together.tobytes()


def test_changes_are_added_one_by_one_where_their_sum_is_close(monkeypatch):
    """With a slack that all sums lie in, OpenCV's own summation decides every iteration."""
    calls = []
    original = tvl1_torch.added_one_by_one
    monkeypatch.setattr(tvl1_levels.Level, "slack", lambda level: 1.0)
    monkeypatch.setattr(tvl1_torch, "added_one_by_one", lambda changes: calls.append(0) or original(changes))
    assert_same_bytes(mixed(), TVL1Config(scales=2, warps=1))
    assert calls


# Triton: its interpreter, and what its compiler makes of the kernels.

#: Frames, height and width; slack or None; programs' pixels at once and how often; settings.
INTERPRETED = [
    ((2, 20, 25), None, (512, 1), TVL1Config(scales=2, warps=1, outer_iterations=2, inner_iterations=2)),
    ((3, 16, 20), None, (128, 2), TVL1Config(scales=1, warps=1, inner_iterations=2, outer_iterations=2, median_size=3)),
    (
        (2, 16, 20),
        0.5,
        (64, 3),
        TVL1Config(scales=1, warps=1, inner_iterations=9, outer_iterations=1, epsilon=0.1, median_size=1),
    ),
    ((2, 16, 20), 1e9, (64, 3), TVL1Config(scales=1, warps=1, inner_iterations=2, outer_iterations=1, median_size=1)),
]


def interpret():
    """Solves with Triton's kernels, run by its interpreter; called in a process that has chosen that."""
    tvl1_gpu.SLOTS, tvl1_gpu.ROUNDS, tvl1_gpu.PREPARE_EVERY = 1, 4, 2
    original = tvl1_levels.Level.slack
    for (frames, height, width), slack, (tvl1_gpu.BLOCK, tvl1_gpu.STEPS), config in INTERPRETED:
        tvl1_levels.Level.slack = (lambda level, slack=slack: slack) if slack else original
        gray = to_gray(panning(frames=frames, step=1, height=height, width=width))
        with np.errstate(divide="ignore", invalid="ignore"):
            assert_same_bytes(gray, config, executor="triton")
        machine = tvl1_gpu._machine(height, width, config, torch.device("cpu"))
        accounts = machine.sums[0, machine.kernels.ROUNDED.value]
        assert (bool(accounts.any()), bool(machine.added.any())) == (slack is not None, slack == 1e9)


@needs_triton
def test_interpreted_kernels_give_the_cpus_bytes():
    from triton.runtime import interpreter

    if not hasattr(getattr(interpreter, "_interpreter", None), "fma_fp32"):
        pytest.skip("this Triton's interpreter rounds a fused multiply-add twice")
    run("from tests.extract.test_tvl1_gpu import interpret; interpret()", TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


def run(code, **variables):
    environment = {**os.environ, **variables}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


#: Pixels of a thread in the kernels as compiled below.
PIXELS = 4
#: Multiply-adds that OpenCV fuses, a pixel: two resized planes; three remapped ones, and the weights in x and y.
FUSED = {"prepare": 2 * 3 + 3 * (4 * 3 + 3) + 4, "shrink": 3}


@needs_triton
@pytest.mark.parametrize("name", ["primal", "dual", "prepare", "shrink", "differentiate"])
def test_compiled_kernels_fuse_and_approximate_nothing_by_themselves(name):
    assembly = compiled(name)
    assert len(re.findall(r"fma\.rn\.f32", assembly)) == FUSED.get(name, 0) * PIXELS
    assert "ftz" not in assembly
    assert not re.search(r"(div\.full|div\.approx|rcp\.approx|sqrt\.approx)", assembly)
    divisions, roots = {"primal": (1, 0), "dual": (4, 2)}.get(name, (0, 0))
    assert len(re.findall(r"div\.rn\.f32", assembly)) == divisions * PIXELS
    assert len(re.findall(r"sqrt\.rn\.f64", assembly)) == roots * PIXELS


def compiled(name):
    """Returns the assembly of a kernel for a GPU that need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ptune.extract import tvl1_kernels, tvl1_pictures, tvl1_prepare

    function = next(getattr(m, name) for m in (tvl1_kernels, tvl1_prepare, tvl1_pictures) if hasattr(m, name))
    constants = {"PREPARED": True, "SIZE": 5, "WIDEST": 128, "PLANE": 98304, "BLOCK": 128 * PIXELS, "STEPS": 2}
    types = {"state": "*i32", "counters": "*i32", "shapes": "*i32", "taps": "*i32"}
    types |= {"sums": "*fp64", "limits": "*fp64", "growth": "*fp64"}
    types |= dict.fromkeys(("frames", "planes", "added", "out", "weights"), "*fp32")
    types |= dict.fromkeys(("data_step", "dual_step", "theta"), "fp32") | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        function,
        {argument: types.get(argument, "i32") for argument in function.arg_names},
        {(function.arg_names.index(key),): value for key, value in constants.items() if key in function.arg_names},
    )
    options = {"enable_fp_fusion": False, "num_warps": 4}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


# A GPU.


@needs_gpu
@pytest.mark.parametrize("executor", ["torch", pytest.param("triton", marks=needs_triton)])
@pytest.mark.parametrize("config", SETTINGS)
def test_a_gpu_gives_the_cpus_bytes(config, executor):
    assert_same_bytes(mixed(), config, executor, "cuda")
    assert_same_bytes(to_gray(panning(frames=4, step=2)), config, executor, "cuda")


@needs_gpu
@needs_triton
def test_a_gpu_gives_the_cpus_bytes_for_noise_of_any_size():
    random = np.random.default_rng(3)
    for _ in range(12):
        frames = random.integers(0, 256, (4, *random.integers(2, 90, 2)), np.uint8)
        assert_same_bytes(frames, TVL1Config(warps=2, outer_iterations=2), "triton", "cuda")


@needs_gpu
@needs_triton
@pytest.mark.parametrize("slack", [0.05, 1e9])
def test_a_gpu_accounts_for_rounding_and_adds_one_by_one(monkeypatch, slack):
    monkeypatch.setattr(tvl1_levels.Level, "slack", lambda level: slack)
    tvl1_gpu._machine.cache_clear()
    assert_same_bytes(mixed(), TVL1Config(scales=2), "triton", "cuda")
    tvl1_gpu._machine.cache_clear()
