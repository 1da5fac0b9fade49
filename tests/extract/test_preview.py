from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from ptune.extract.preview import Scale, draw_film, draw_sheet, flow_colours, scale_of, write_index
from ptune.extract.store import VideoFeatures
from tests.extract.clips import panning


@pytest.fixture
def features():
    rgb = panning(frames=20, step=2)
    flow = np.zeros((19, 48, 64, 2), np.int16)
    flow[..., 0] = 2 * 1024
    flow[:, :24, :, 0] = 0
    return VideoFeatures(rgb, flow, 25.0)


def colour(u, v):
    return flow_colours(np.full((1, 1, 2), [u, v], np.float32), 2.0)[0, 0]


def hue(u, v):
    return float(cv2.cvtColor(colour(u, v)[None, None], cv2.COLOR_RGB2HSV_FULL)[0, 0, 0]) * 360 / 256


def test_what_stands_still_is_white():
    assert colour(0, 0).tolist() == [255, 255, 255]


@pytest.mark.parametrize("angle", [0, 30, 90, 200, 300])
def test_turning_the_flow_turns_the_hue(angle):
    radians = np.deg2rad(angle)
    assert (hue(2 * np.cos(radians), 2 * np.sin(radians)) - angle + 180) % 360 - 180 == pytest.approx(0, abs=3)


def test_opposite_directions_have_opposite_colours():
    assert colour(2, 0).astype(int).tolist() == (255 - colour(-2, 0).astype(int)).tolist()


def test_faster_is_fuller_until_the_scale_ends():
    least = [colour(speed, 0).min() for speed in (0.5, 1, 2, 4)]
    assert least[0] > least[1] > least[2] == least[3] == 0


def test_a_film_shows_frames_flow_and_boundaries_side_by_side(tmp_path, features):
    draw_film(features, Scale(2.0, 1.0), tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        pictures = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(stream)]
        assert float(stream.average_rate) == 25
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert set(container.metadata) <= {"major_brand", "minor_version", "compatible_brands"}
    assert len(pictures) == 19
    # Panels of 240x180 with 4 pixels between them; words below.
    frame, flow, boundaries = (pictures[9][:180, part * 244 :][:, :240] for part in range(3))
    expected = cv2.resize(features.rgb[9], (240, 180), interpolation=cv2.INTER_NEAREST)
    assert abs(frame - expected).mean() < 12
    assert flow[100:].mean((0, 1)) == pytest.approx([255, 0, 0], abs=40)
    assert flow[:80].mean() > 230
    assert boundaries[80:98].mean() > 2 * boundaries[120:].mean()
    assert (pictures[9][180:] < 128).any()


def test_a_film_keeps_a_broken_rate_and_odd_sizes(tmp_path):
    odd = VideoFeatures(np.zeros((9, 271, 245, 3), np.uint8), np.zeros((8, 271, 245, 2), np.int16), 30000 / 1001)
    draw_film(odd, Scale(2.0, 1.0), tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
        assert container.streams.video[0].frames == 8


def test_a_film_begins_with_its_index_so_that_browsers_play_while_they_load(tmp_path, features):
    draw_film(features, Scale(2.0, 1.0), tmp_path / "film.mp4")
    content = (tmp_path / "film.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("shape", [(48, 64), (480, 270), (32, 400)])
def test_a_sheet_has_three_rows_of_eight_moments(tmp_path, shape):
    features = VideoFeatures(np.full((9, *shape, 3), 77, np.uint8), np.zeros((8, *shape, 2), np.int16), 0.0)
    draw_sheet(features, Scale(2.0, 1.0), tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    tile = round(shape[1] * 152 / max(shape))
    assert sheet.shape[1] == 104 + 8 * tile + 7 * 4
    assert (sheet[18, 104 :: tile + 4] == 77).all()


def test_scales_are_round_numbers_above_the_noise():
    assert scale_of({"flow_p999": 17.5, "boundary_p999": 0.73}) == Scale(10.0, 0.4)
    assert scale_of({"flow_p999": 0.001, "boundary_p999": 0.0}) == Scale(1.0, 0.1)


def test_pictures_of_people_are_their_owners_only(tmp_path, features):
    draw_film(features, Scale(2.0, 1.0), tmp_path / "a.mp4")
    draw_sheet(features, Scale(2.0, 1.0), tmp_path / "a.png")
    write_index(tmp_path, {}, [])
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_the_page_lists_every_video_and_every_refusal(tmp_path):
    figures = dict.fromkeys(
        ("flow_mean", "clipped_share", "camera_speed_p95", "camera_shake", "sharpness_median", "brightness_mean"), 0.5
    )
    used = {"video": {"frames": 20, "fps": 25.0, "codec": "h264"}, "quality": figures}
    refused = {"reason": "too_short", "detail": "3 <frames>"}
    text = write_index(tmp_path, {"aa": used, "bb": refused}, ["copies"]).read_text()
    assert 'src="aa.mp4"' in text
    assert 'src="bb.mp4"' not in text
    assert "3 &lt;frames&gt;" in text
    assert "too short" in text
    assert "copies" in text
