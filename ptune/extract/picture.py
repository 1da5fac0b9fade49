"""Decoded pictures become whole, upright RGB images at the working size.

Knows libavfilter and libswscale, and nothing of files or of time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter

from ptune.errors import VideoError

if TYPE_CHECKING:
    from ptune.config.extraction import ExtractConfig

Image = npt.NDArray[np.uint8]

#: Pictures that wait until it is clear whether they are combed, as far as they fit into so many bytes.
LOOKAHEAD = 8
LOOKAHEAD_BYTES = 128 << 20
#: Of so many pictures, so many combed ones with the same field first, and none with the other, settle it.
VOTES, NEEDED = 16, 3
#: After so many pictures that moved without being combed, none will be.
SETTLED = 60
#: Combed pictures differ more between neighbouring lines than between every other line, still ones and noise do not.
COMBED_RATIO = 1.15
#: Gray levels by which a pixel differs from the picture before where something moves there.
MOVED = 12
MOVED_SHARE = 0.002
#: A working frame of more pixels is a mistake, such as the width of a very flat video kept in proportion.
MAX_WORKING_PIXELS = 1 << 24

#: Area averaging of what shrinks, bilinear for what grows; the other flags make it exact, and equal on all machines.
_SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT

Tag = TypeVar("Tag")


def upright(image: Image, degrees: int) -> Image:
    """Turns an image [H,W,3] counterclockwise by the nearest quarter turn, as its rotation metadata asks."""
    return np.rot90(image, round(degrees / 90))


class Scaler:
    """Pictures in any pixel format become uint8 [H,W,3] RGB at the working size, upright.

    Args:
        config: the working size. `keep_aspect` scales the shorter side as displayed to `height`.
        pixel_aspect: width by height of a pixel as displayed.

    Straight from the decoder's pixel format: in one step, so that nothing is rounded twice, and twice as fast.
    """

    def __init__(self, config: ExtractConfig, pixel_aspect: float) -> None:
        self._config, self._pixel_aspect = config, pixel_aspect
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: Any) -> Image:
        """Returns the image.

        Raises:
            VideoError: too_large.
        """
        quarter_turn = round(frame.rotation / 90) % 2 == 1
        if self._size is None:
            self._size = self._working_size(frame.width, frame.height, quarter_turn)
        width, height = reversed(self._size) if quarter_turn else self._size
        scaled = self._reformatter.reformat(frame, width, height, "rgb24", interpolation=_SCALING, threads=1)
        image = np.asarray(scaled.to_ndarray(), np.uint8)
        return np.ascontiguousarray(upright(image, frame.rotation))

    def _working_size(self, width: int, height: int, quarter_turn: bool) -> tuple[int, int]:
        config = self._config
        if not config.keep_aspect:
            return config.width, config.height
        shown = (height, width * self._pixel_aspect) if quarter_turn else (width * self._pixel_aspect, height)
        factor = config.height / min(shown)
        working = max(2, round(shown[0] * factor / 2) * 2), max(2, round(shown[1] * factor / 2) * 2)
        if working[0] * working[1] > MAX_WORKING_PIXELS:
            raise VideoError("too_large", f"{working[0]}x{working[1]} pixels when its proportions are kept")
        return working


class Deinterlacer(Generic[Tag]):
    """Passes pictures on in their number and order, with combed ones made whole.

    Recordings whose decoder flags them as interlaced are, picture by picture. Others are looked at: where pictures show
    lines of two moments, from there on all are. `found` says whether there was anything to do.

    Source: BWDIF, "a motion adaptive deinterlacer based on yadif with the use of w3fdif and cubic interpolation
    algorithms", as in libavfilter; its idet tells which field came first.
    """

    def __init__(self) -> None:
        self.found = False
        self._graph: Any = None
        self._watch: _Watch | None = None
        self._waiting: deque[tuple[Any, Tag]] = deque()
        self._tags: deque[Tag] = deque()
        self._before: Any = None

    def __call__(self, pictures: Iterable[tuple[Any, Tag]]) -> Iterator[tuple[Any, Tag]]:
        """Yields (picture, tag) for each (picture, tag), a few pictures later."""
        for frame, tag in pictures:
            if self._graph is not None:
                yield from self._filtered(frame, tag)
                continue
            self._waiting.append((frame, tag))
            mode = self._mode(frame)
            if mode:
                yield from self._begin(frame, mode)
            elif len(self._waiting) > _lookahead(frame):
                self._before = self._waiting[0][0]
                yield self._waiting.popleft()
        yield from self._waiting
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._ready()

    def _mode(self, frame: Any) -> str:
        if frame.interlaced_frame:
            return "deint=interlaced"
        if self._watch is None:
            self._watch = _Watch(frame)
        first_field = self._watch(frame)
        return f"deint=all:parity={first_field}" if first_field else ""

    def _begin(self, frame: Any, mode: str) -> Iterator[tuple[Any, Tag]]:
        self.found = True
        self._graph = _graph(frame, ("bwdif", f"mode=send_frame:{mode}"))
        if self._before is not None:
            # Seen, so that its neighbour is interpolated in time; it was passed on before.
            self._graph.vpush(self._before)
            self._tags.append(None)  # type: ignore[arg-type]
        while self._waiting:
            yield from self._filtered(*self._waiting.popleft())

    def _filtered(self, frame: Any, tag: Tag) -> Iterator[tuple[Any, Tag]]:
        self._graph.vpush(frame)
        self._tags.append(tag)
        yield from self._ready()

    def _ready(self) -> Iterator[tuple[Any, Tag]]:
        for frame in _pulled(self._graph):
            tag = self._tags.popleft()
            if self._before is not None:
                self._before = None
                continue
            yield frame, tag


class _Watch:
    """Tells, picture by picture, whether it has become clear that a recording is interlaced."""

    def __init__(self, frame: Any) -> None:
        # Colour and palette formats hold no fields. The middle is enough, and halves the time.
        planar = not (frame.format.is_rgb or frame.format.has_palette)
        crop = ("crop", "w=iw/2:x=iw/4")
        self._graph = _graph(frame, crop, ("idet", "")) if planar and min(frame.width, frame.height) > 8 else None
        self._recent: deque[Any] = deque(maxlen=3)
        self._votes: deque[str] = deque(maxlen=VOTES)
        self._whole = 0

    def __call__(self, frame: Any) -> str:
        """Returns "tff" or "bff" once it is clear, else nothing."""
        if self._graph is None:
            return ""
        self._recent.append(frame)
        self._graph.vpush(frame)
        for seen in _pulled(self._graph):
            # Its verdict comes a picture late.
            verdict = seen.metadata.get("lavfi.idet.single.current_frame", "")
            asymmetric = verdict in ("tff", "bff") and len(self._recent) == 3
            self._votes.append(verdict if asymmetric and self._combed() else "")
            self._whole = 0 if self._votes[-1] else self._whole + (verdict == "progressive")
        if self._whole >= SETTLED:
            self._graph = None
        fields = {vote for vote in self._votes if vote}
        if len(fields) == 1 and len(self._votes) - self._votes.count("") >= NEEDED:
            return fields.pop()
        return ""

    def _combed(self) -> bool:
        """True if the picture before the last is combed where it moves.

        Fields that differ are not enough: still lines, scrolled text and test patterns make them differ as well.
        """
        before, now = (_luma(frame) for frame in list(self._recent)[:2])
        moved = (abs(now - before) > MOVED)[2:-2]
        if moved.sum() <= MOVED_SHARE * moved.size:
            return False
        centre = 2 * now[2:-2]
        next_lines = abs(now[1:-3] - centre + now[3:-1])[moved].sum()
        other_lines = abs(now[:-4] - centre + now[4:])[moved].sum()
        return bool(next_lines > COMBED_RATIO * other_lines)


def _luma(frame: Any) -> npt.NDArray[np.int16]:
    gray = frame.to_ndarray(format="gray")
    return gray[:, :: max(1, gray.shape[1] // 320)].astype(np.int16)  # type: ignore[no-any-return]


def _lookahead(frame: Any) -> int:
    size = sum(int(plane.buffer_size) for plane in frame.planes)
    return max(1, min(LOOKAHEAD, LOOKAHEAD_BYTES // max(1, size)))


def _graph(frame: Any, *filters: tuple[str, str]) -> Any:
    graph = Graph()
    graph.threads = 1
    chain = [
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base),
        *(graph.add(name, options) for name, options in filters),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*chain).configure()
    return graph


def _pulled(graph: Any) -> Iterator[Any]:
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
