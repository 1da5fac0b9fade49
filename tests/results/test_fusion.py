"""Fusing is averaging; the choice tries the paper's seven combinations and prefers fewer streams."""

import numpy as np
import pandas as pd
import pytest

from ptune.errors import BadInput
from ptune.results.fusion import choose_fusion, fuse
from ptune.results.stats import Member

NAMES = ("normal", "mild", "severe")
LABELS = [0, 1, 2, 1]


def stream(predicted: list[int], certainty: float = 0.8) -> pd.DataFrame:
    rest = (1 - certainty) / 2
    rows = [[certainty if index == choice else rest for index in range(3)] for choice in predicted]
    return pd.DataFrame(
        {
            "video_id": ["v1", "v2", "v3", "v4"],
            "subject": ["a", "a", "b", "b"],
            "fold": [0, 0, 1, 1],
            "score": [0, 1, 3, 2],
            "label": LABELS,
            "probabilities": rows,
            "attention": [[1.0]] * 4,
        }
    )


def test_fusion_is_the_average_whatever_the_order_of_rows() -> None:
    one, two = stream([0, 1, 2, 1], 0.9), stream([1, 1, 1, 1], 0.6)
    fused = fuse([one, two.sample(frac=1, random_state=0)])
    assert np.allclose(fused["probabilities"][0], [0.55, 0.325, 0.125])
    assert fused["video_id"].tolist() == ["v1", "v2", "v3", "v4"]
    assert "attention" not in fused


def test_streams_weigh_what_they_are_given() -> None:
    one, two = stream([0, 1, 2, 1], 0.9), stream([1, 1, 1, 1], 0.6)
    assert np.allclose(fuse([one, two], [0.75, 0.25])["probabilities"][0], [0.725, 0.1875, 0.0875])
    assert np.allclose(fuse([one, two], [3, 1])["probabilities"][0], [0.725, 0.1875, 0.0875])
    assert fuse([one, two], [0.5, 0.5]).equals(fuse([one, two]))


def test_one_stream_stays_as_it_is() -> None:
    alone = stream(LABELS)
    assert np.allclose(np.stack(fuse([alone])["probabilities"]), np.stack(alone["probabilities"]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda frame: frame.iloc[1:], "stream 2 lacks v1"),
        (lambda frame: frame.assign(fold=[0, 0, 1, 0]), "another fold for v4"),
        (lambda frame: frame.assign(label=[0, 2, 2, 1]), "another label for v2"),
        (lambda frame: pd.concat([frame, frame.iloc[:1]]), "stream 2 has v1 more than once"),
    ],
)
def test_streams_that_do_not_match_are_refused_by_name(change, says) -> None:
    with pytest.raises(BadInput, match=says):
        fuse([stream(LABELS), change(stream(LABELS))])


def test_three_modalities_give_seven_combinations() -> None:
    streams = {name: {number: stream(LABELS)} for number, name in enumerate(("rgb", "flow", "mb"))}
    found = choose_fusion(streams, "f1_weighted", NAMES)
    assert [item.name for item in found.tried] == [
        "rgb", "flow", "mb", "rgb + flow", "rgb + mb", "flow + mb", "rgb + flow + mb",
    ]  # fmt: skip
    assert found.members == (Member("rgb", 0, "rgb", 1.0),)
    assert found.combinations == 7
    assert found.missing == ()


def test_complementary_streams_are_fused() -> None:
    streams = {"flow": {4: stream([0, 1, 1, 1], 0.5)}, "mb": {7: stream([1, 1, 2, 1], 0.6)}}
    streams["flow"][5] = stream([2, 2, 2, 2])
    streams["flow"][4].at[2, "probabilities"] = [0.0, 0.5, 0.5]
    streams["mb"][7].at[0, "probabilities"] = [0.45, 0.5, 0.05]
    found = choose_fusion(streams, "accuracy", NAMES)
    assert found.members == (Member("flow", 4, "flow", 0.5), Member("mb", 7, "mb", 0.5))
    assert (found.name, found.value, found.metrics["accuracy"]) == ("flow + mb", 1.0, 1.0)
    assert found.missing == ("rgb",)
    decision = found.decision()
    assert (decision["what"], decision["rule"], decision["per_modality"]) == ("fusion", "average", 1)
    assert decision["members"] == [
        {"name": "flow", "trial": 4, "modality": "flow", "weight": 0.5},
        {"name": "mb", "trial": 7, "modality": "mb", "weight": 0.5},
    ]


def test_equal_trials_of_a_modality_go_to_the_earlier_one() -> None:
    found = choose_fusion({"flow": {9: stream(LABELS), 3: stream(LABELS)}}, "f1_macro", NAMES)
    assert [member.trial for member in found.members] == [3]
    assert found.missing == ("rgb", "mb")


def test_nothing_to_fuse_is_refused() -> None:
    with pytest.raises(BadInput, match="no finished trial"):
        choose_fusion({"flow": {}}, "accuracy", NAMES)
