"""An ablation's file becomes cells, and the cells share streams."""

from pathlib import Path

import pytest
import yaml

from ptune.config import StudyConfig
from ptune.config.ablation import AblationConfig
from ptune.config.leave_one_out import LeaveOneOut, read_ablation
from ptune.errors import ConfigError

SPACES = Path(__file__).parents[1] / "search_spaces"
SMALL = {
    "ablation": "small",
    "cohort": "c.csv",
    "tasks": ["hand"],
    "init": "random",
    "rows": {"Flow": ["flow"], "Both": ["flow", "mb"]},
    "columns": {"+a": {}, "-a": {"attention": False}},
}


def fits(config: AblationConfig) -> int:
    return sum(len(config.study(task).points) * config.folds.count for task in config.tasks)


def test_table_2_needs_60_fits_and_not_140():
    config = read_ablation(SPACES / "paper_table2.yaml")
    cells = [cell for task in config.tasks for cell in config.cells(task)]
    assert len(cells) * config.folds.count == 140
    assert fits(config) == 60


def test_table_3_has_a_stream_of_every_architecture_and_shares_two_with_table_2():
    table2, table3 = (read_ablation(SPACES / f"paper_table{number}.yaml") for number in (2, 3))
    networks = {table3.study("hand").stream(point).backbone for point in table3.study("hand").points}
    assert networks == {"i3d", "inception2d", "slowfast_4x16"}
    assert len(table3.cells("hand")) == 8
    streams = [
        {study.identity(point) for point in study.points} for study in (table2.study("hand"), table3.study("hand"))
    ]
    assert len(streams[0] & streams[1]) == 2


def test_published_figures_are_those_of_the_paper():
    """The averages that the paper prints follow from the numbers in the files."""
    table2 = read_ablation(SPACES / "paper_table2.yaml").published.values
    averages = {
        row: tuple((hand + gait) / 2 for hand, gait in zip(table2["hand"][row], table2["gait"][row], strict=True))
        for row in table2["hand"]
    }
    printed = {"RGB": (71.6, 69.4), "Motion Boundaries": (74.5, 73.2), "All Modalities": (74.1, 72.6)}
    for row, pair in printed.items():
        assert averages[row] == pytest.approx(pair, abs=0.1)


def test_another_seed_adds_only_its_own_streams():
    one = AblationConfig.parse(SMALL, "test").study("hand")
    two = AblationConfig.parse(SMALL | {"seeds": [0, 1]}, "test").study("hand")
    before, after = ({study.identity(point) for point in study.points} for study in (one, two))
    assert before < after
    assert len(after) == 2 * len(before)


def test_a_system_brings_its_settings_and_fixed_ones_win_over_them():
    study = StudyConfig.parse(
        {
            "study": "s",
            "cohort": "c.csv",
            "task": "hand",
            "stopping": "none",
            "points": [{"system": "slowfast", "modality": "rgb"}, {"system": "i3d", "modality": "flow"}],
            "fixed": {"dropout": 0.1, "test.snippets": 7},
        },
        "test",
    )
    slowfast, i3d = (study.stream(point) for point in study.points)
    assert (slowfast.backbone, slowfast.init, slowfast.frame_stride) == ("slowfast_4x16", "random", 2)
    assert (slowfast.test.snippets, slowfast.test.frames) == (7, 32)
    assert (i3d.segments, i3d.init, i3d.dropout, i3d.test.snippets) == (1, "kinetics", 0.1, 7)
    assert study.stream(study.points[0]) == slowfast


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rows": {"Flow": []}}, "row 'Flow' has no stream"),
        ({"rows": {"Flow": [{"modality": "flow", "atention": True}]}}, "did you mean 'attention'"),
        ({"rows": {"Flow": [{"system": "tns", "modality": "flow"}]}}, "did you mean 'tsn'"),
        ({"reference": {"row": "Flwo", "column": "+a"}}, "did you mean 'Flow'"),
        ({"seeds": [0, 0]}, "seeds has a value twice"),
        ({"columns": {"+a": {"epochs": 3}, "-a": {"atention": 1}}}, "atention"),
        ({"published": {"source": "x", "values": {"hand": {"Flow": [1.0]}}}}, "1 values for 2 columns"),
        ({"published": {"source": "x", "values": {"gait": {"Flow": [1.0, 2.0]}}}}, "no row or task"),
        ({"tasks": ["hand", "hand!"], "ablation": "a/b"}, "ablation"),
    ],
)
def test_nonsense_is_refused_with_its_name(change, says):
    with pytest.raises(ConfigError, match=says):
        AblationConfig.parse(SMALL | change, "small.yaml")


def test_a_file_extends_another(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False))
    (tmp_path / "more.yaml").write_text("extends: base.yaml\nablation: more\nseeds: [4]\n")
    config = read_ablation(tmp_path / "more.yaml")
    assert (config.ablation, config.seeds, list(config.rows)) == ("more", (4,), ["Flow", "Both"])
    (tmp_path / "base.yaml").write_text("extends: more.yaml\n")
    with pytest.raises(ConfigError, match="extends"):
        read_ablation(tmp_path / "more.yaml")


STUDY = StudyConfig.parse(
    {
        "study": "hand",
        "cohort": "c.csv",
        "task": "hand",
        "seed": 3,
        "space": {"modality": {"choice": ["rgb", "flow"]}, "segments": {"int": [2, 4]}},
        "fixed": {"epochs": 7, "focal.gamma": 1.5},
    },
    "test",
)
MEMBERS = {
    "rgb": {"init": "kinetics", "epochs": 7, "focal.gamma": 1.5, "modality": "rgb", "segments": 2},
    "flow": {"init": "kinetics", "epochs": 7, "focal.gamma": 1.5, "modality": "flow", "segments": 4},
}
ALL = ["attention", "focal loss", "modalities", "segments", "pretraining", "scale jitter", "random crops", "mirroring"]


def test_one_component_is_taken_away_at_a_time():
    spec = LeaveOneOut.parse(
        {"ablation": "loo", "study": "hand", "cohort": "c.csv", "remove": [*ALL, "exact mirroring"]}, "test"
    )
    config = spec.resolve(STUDY, MEMBERS)
    study = config.study("hand")
    streams = {cell.row: [study.stream(point) for point in cell.points] for cell in config.cells("hand")}
    complete = streams.pop("complete")
    assert complete == [STUDY.stream(MEMBERS["rgb"]), STUDY.stream(MEMBERS["flow"])]
    assert config.seeds == (3,)
    assert config.like == "hand"
    assert [stream.modality for stream in streams.pop("without rgb")] == ["flow"]
    assert [stream.modality for stream in streams.pop("without flow")] == ["rgb"]
    rgb, flow = streams.pop("without exact mirroring")
    assert rgb == complete[0], "pictures have no sign to get wrong"
    assert flow.augment.mirror == "image"
    changed = {
        "without attention": ["attention"],
        "without focal loss": ["focal"],
        "without segments": ["segments"],
        "without pretraining": ["init"],
        "without scale jitter": ["augment"],
        "without random crops": ["augment"],
        "without mirroring": ["augment"],
    }
    for row, names in changed.items():
        for before, after in zip(complete, streams.pop(row), strict=True):
            differing = [name for name in type(before).model_fields if getattr(before, name) != getattr(after, name)]
            assert differing == names
    assert streams == {}


def test_what_no_stream_has_cannot_be_taken_away():
    spec = LeaveOneOut.parse({"ablation": "loo", "study": "hand", "cohort": "c.csv", "remove": ["attention"]}, "test")
    plain = {"rgb": MEMBERS["rgb"] | {"attention": False}}
    with pytest.raises(ConfigError, match="something to remove"):
        spec.resolve(STUDY, plain)


def test_studies_and_ablations_say_which_command_runs_them():
    with pytest.raises(ConfigError, match="ptune ablate"):
        StudyConfig.load(SPACES / "paper_table2.yaml")
    with pytest.raises(ConfigError, match="ptune sweep"):
        read_ablation(SPACES / "hand.yaml")
