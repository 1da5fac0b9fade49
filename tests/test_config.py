"""Settings refuse nonsense with the nearest known word, and equal settings have equal signatures."""

from pathlib import Path

import pytest
import yaml

from ptune.config import ClassGrouping, ExtractConfig, FitSpec, StreamConfig, StudyConfig
from ptune.config.leave_one_out import read_ablation
from ptune.errors import ConfigError

SPACES = sorted((Path(__file__).parents[1] / "search_spaces").glob("*.yaml"))
STUDY = {"study": "a", "cohort": "c.csv", "task": "hand", "space": {"segments": {"int": [2, 4]}}}


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.name)
def test_every_shipped_search_space_loads_and_survives_its_own_json(path):
    config = StudyConfig.load(path) if "\nspace:" in path.read_text() else read_ablation(path)
    again = type(config).parse(config.model_dump(mode="json", by_alias=True), "json")
    assert again.signature() == config.signature()


def test_the_defaults_are_the_papers():
    paper = StreamConfig()
    assert (paper.segments, paper.snippet_frames, paper.batch_size, paper.epochs) == (4, 32, 2, 120)
    assert (paper.learning_rate, paper.dropout, paper.crop) == (1e-5, 0.7, 224)
    assert (paper.focal.alpha, paper.focal.gamma) == (0.5, 2.0)
    assert (paper.test.snippets, paper.test.frames) == (64, 16)
    assert (paper.backbone, paper.attention, paper.attention_weights, paper.attention_on) == (
        "i3d", True, "sigmoid", "features",
    )  # fmt: skip
    assert (paper.sampling, paper.frame_stride, paper.boundary, paper.augment.mirror) == (
        "consecutive", 1, "sum", "exact",
    )  # fmt: skip
    assert (paper.trainable, paper.frozen_norm, paper.init) == ("all", "none", "kinetics")
    assert (ExtractConfig().width, ExtractConfig().height) == (340, 256)
    assert [ClassGrouping().class_of(score) for score in range(5)] == [0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"studdy": 1}, "unknown key 'studdy' (did you mean 'study'?)"),
        ({"objective": {"metrik": "accuracy"}}, "unknown key 'objective.metrik' (did you mean 'metric'?)"),
        ({"space": {"modalty": {"choice": ["rgb"]}}}, "unknown key 'modalty' (did you mean 'modality'?)"),
        ({"space": {"modality": {"choice": ["rgb", "depth"]}}}, "modality: Input should be 'rgb', 'flow' or 'mb'"),
        ({"space": {"segments": {"int": [4, 2]}}}, "lower bound 4 is above upper bound 2"),
        ({"space": {"segments": {"int": [0, 2]}}}, "segments: Input should be greater than or equal to 1, found 0"),
        ({"space": {"segments": {}}}, "needs exactly one of choice, int, float"),
        ({"space": {}}, "search space is empty"),
        ({"space": {"epochs": {"int": [1, 9]}}}, "epochs cannot be searched"),
        ({"space": {"segments": {"int": [1, 2], "when": {"attention": True}}}}, "depends on 'attention', which is not"),
        ({"fixed": {"segments": 3}}, "segments is both searched and fixed"),
        ({"folds": {"count": 1}}, "folds.count: Input should be greater than or equal to 2, found 1"),
        ({"study": "../escape"}, "study: String should match pattern"),
        ({"fixed": {"width": 0.5}}, "width 0.5 cannot start from Kinetics weights"),
        ({"fixed": {"augment.mirror": True}}, "augment.mirror: Input should be 'exact', 'image' or 'none', found True"),
        ({"fixed": {"backbone": "slowfast_4x16"}}, "slowfast_4x16 is trained from scratch, set init: random"),
        (
            {"init": "random", "fixed": {"backbone": "slowfast_8x8", "test.frames": 30}},
            "test.frames is 30, but slowfast_8x8 takes multiples of 4 frames",
        ),
        (
            {"fixed": {"backbone": "inception2d", "snippet_frames": 5}},
            "validation.frames is 16, but inception2d stacks 5 frames",
        ),
        ({"fixed": {"sampling": "sorted_random", "frame_stride": 2}}, "frame_stride is for consecutive frames"),
        ({"init": "random", "fixed": {"trainable": "head"}}, "trainable: head keeps layers as they start"),
        ({"init": "random", "fixed": {"frozen_norm": "all"}}, "frozen_norm: all keeps layers as they start"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ConfigError) as error:
        StudyConfig.parse(STUDY | change, "space.yaml")
    assert message in str(error.value)


def test_files_that_are_no_search_space_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"missing.yaml: there is no such file"):
        StudyConfig.load(tmp_path / "missing.yaml")
    path = tmp_path / "bad.yaml"
    path.write_text("study: [unclosed\nspace: {")
    with pytest.raises(ConfigError, match="line 2 is not YAML"):
        StudyConfig.load(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        StudyConfig.load(path)


def test_signature_ignores_order_and_follows_values():
    one = StreamConfig.parse({"segments": 3, "focal": {"gamma": 1}}, "test")
    same = StreamConfig.parse({"focal": {"gamma": 1.0}, "segments": 3}, "test")
    other = StreamConfig.parse({"segments": 3, "focal": {"gamma": 1.5}}, "test")
    assert one.signature() == same.signature() != other.signature()


def test_dotted_names_reach_nested_settings():
    config = StudyConfig.parse(STUDY | {"fixed": {"focal.gamma": 1.5, "test": {"snippets": 8}}}, "test")
    stream = config.stream({"segments": 3})
    assert (stream.focal.gamma, stream.focal.alpha, stream.test.snippets, stream.test.frames) == (1.5, 0.5, 8, 16)
    assert config.stream({"segments": 3}).init == "kinetics"


def test_grouping_needs_each_score_once():
    with pytest.raises(ConfigError, match="each score belongs to exactly one class"):
        ClassGrouping.parse({"names": ["a", "b"], "scores": [[0, 1], [1, 2]]}, "test")


def test_a_fit_refuses_a_subject_on_both_sides():
    video = {"video_id": "a", "subject": "S014", "score": 0, "label": 0}
    with pytest.raises(ConfigError, match=r"subject S014 is in train and validation of fold 2 \(a, b\)"):
        FitSpec.parse(
            {
                "stream": {},
                "classes": ["x", "y"],
                "fold": 2,
                "train": [video],
                "held_out": [video | {"video_id": "b"}],
                "extraction": "e",
            },
            "test",
        )


def test_a_fit_refuses_alphas_of_other_classes():
    video = {"video_id": "a", "subject": "S014", "score": 0, "label": 0}
    fit = {"classes": ["x", "y"], "fold": 0, "train": [video], "held_out": [], "extraction": "e"}
    assert FitSpec.parse(fit | {"stream": {"focal": {"alpha": [0.2, 1.0]}}}, "test").stream.focal.alpha == (0.2, 1.0)
    with pytest.raises(ConfigError, match=r"focal.alpha has 3 values for 2 classes"):
        FitSpec.parse(fit | {"stream": {"focal": {"alpha": [0.2, 1.0, 0.5]}}}, "test")


def test_yaml_of_readme_style_is_understood():
    space = "space:\n  focal.alpha: {float: [0.1, 1.0]}\n  attention: {choice: [true, false]}\n"
    config = StudyConfig.parse(yaml.safe_load("study: x\ncohort: c.csv\ntask: t\n" + space), "x")
    assert config.space["attention"].choice == (True, False)
