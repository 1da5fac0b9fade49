import hashlib

import pandas as pd
import pytest

from ptune.cohort.manifest import Manifest, Video, load_manifest
from ptune.cohort.table import cohort_table, format_table
from ptune.config import ClassGrouping
from ptune.errors import ConfigError, ManifestError

HEADER = "video,subject,task,score"


@pytest.fixture
def folder(tmp_path):
    for index in range(6):
        (tmp_path / f"{index}.mp4").write_bytes(f"content {index}".encode())
    return tmp_path


def written(folder, *rows, header=HEADER, name="cohort.csv"):
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def problems(path):
    with pytest.raises(ManifestError) as caught:
        load_manifest(path)
    return caught.value.problems


def test_rows_become_videos(folder):
    manifest = load_manifest(written(folder, "0.mp4,S01,hand,0", "1.mp4,S01,hand,2", "2.mp4,S02,gait,4"))
    first = manifest.videos[0]
    assert first.id == hashlib.sha256(b"content 0").hexdigest()[:16]
    assert (first.subject, first.task, first.score, first.line) == ("S01", "hand", 0, 2)
    assert manifest.subjects() == ["S01", "S02"]
    assert manifest.class_counts() == {"normal": 1, "mild": 1, "severe": 1}
    assert manifest.labels() == {"S01": [0, 1], "S02": [2]}


def test_the_digest_follows_content_not_names_or_order(folder):
    digest = load_manifest(written(folder, "0.mp4,S01,hand,0", "1.mp4,S02,hand,2")).digest
    (folder / "0.mp4").rename(folder / "renamed.mp4")
    assert load_manifest(written(folder, "1.mp4,S02,hand,2", "renamed.mp4,S01,hand,0")).digest == digest
    assert load_manifest(written(folder, "1.mp4,S02,hand,3", "renamed.mp4,S01,hand,0")).digest != digest


def test_side_and_visit_are_carried_and_identify_nothing(folder):
    plain = load_manifest(written(folder, "0.mp4,S01,hand,0", "1.mp4,S02,hand,2"))
    header = f"{HEADER},visit,side"
    noted = load_manifest(written(folder, "0.mp4,S01,hand,0,2024-05-01,left", "1.mp4,S02,hand,2,,", header=header))
    assert [(video.side, video.visit) for video in noted.videos] == [("left", "2024-05-01"), ("", "")]
    assert [(video.side, video.visit) for video in plain.videos] == [("", ""), ("", "")]
    assert noted.digest == plain.digest
    assert [video.id for video in noted.videos] == [video.id for video in plain.videos]
    assert not noted.synthetic


def test_spreadsheets_leave_traces_that_do_not_matter(folder):
    path = folder / "cohort.csv"
    path.write_bytes("\ufeffscore,side,task,subject,video\r\n1,left,hand, S01 ,0.mp4\r\n,,,,\r\n\r\n".encode())
    (video,) = load_manifest(path).videos
    assert (video.subject, video.score, video.line) == ("S01", 1, 2)


def test_parquet_reads_like_csv(folder):
    rows = [("0.mp4", "S01", "hand", 0), ("1.mp4", "S02", "hand", 3)]
    pd.DataFrame(rows, columns=HEADER.split(",")).to_parquet(folder / "cohort.parquet")
    as_csv = load_manifest(written(folder, *(",".join(map(str, row)) for row in rows)))
    assert load_manifest(folder / "cohort.parquet").digest == as_csv.digest
    pd.DataFrame([("0.mp4", "S01", "hand", 7)], columns=HEADER.split(",")).to_parquet(folder / "bad.parquet")
    assert problems(folder / "bad.parquet") == ["row 1: score, found '7', expected one of 0, 1, 2, 3, 4"]


def test_all_bad_rows_are_told_at_once(folder):
    path = written(
        folder,
        "0.mp4,S01,hand,7",
        "1.mp4,,hand,1",
        "gone.mp4,S02,hand,2.5",
        "2.mp4,S03,hand,",
        "2.mp4,S03,hand",
        ",S03,hand,1",
        "s3://bucket/a.mp4,S03,hand,1",
    )
    assert problems(path) == [
        "line 2: score, found '7', expected one of 0, 1, 2, 3, 4",
        "line 3: subject, found nothing, expected text",
        "line 4: score, found '2.5', expected one of 0, 1, 2, 3, 4",
        "line 4: video, found no file at 'gone.mp4', expected a video file",
        "line 5: score, found '', expected one of 0, 1, 2, 3, 4",
        "line 6: found 3 cells, expected 4 as in the header",
        "line 7: video, found nothing, expected a path relative to the manifest",
        "line 8: video, found the URI 's3://bucket/a.mp4', expected a path: URIs are not supported yet",
    ]


def test_one_content_under_two_subjects_is_a_leak(folder):
    (folder / "copy.mp4").write_bytes((folder / "0.mp4").read_bytes())
    (found,) = problems(written(folder, "0.mp4,S01,hand,0", "copy.mp4,S02,hand,0"))
    assert found.startswith("line 3: video, found in 'copy.mp4' the content of '0.mp4' on line 2 under another subject")


def test_repeated_rows_and_contents_are_named(folder):
    (folder / "copy.mp4").write_bytes((folder / "0.mp4").read_bytes())
    path = written(folder, "0.mp4,S01,hand,0", "copy.mp4,S01,hand,0", "./0.mp4,S01,hand,1")
    assert problems(path) == [
        "line 3: video, found in 'copy.mp4' the content of '0.mp4' on line 2, expected each content once",
        "line 4: video, found './0.mp4' again, expected each video once: it is on line 2",
    ]


def test_one_person_is_spelled_one_way(folder):
    path = written(folder, "0.mp4,S01,hand,0", "1.mp4,s01,hand,0")
    assert problems(path) == ["line 3: subject, found 's01', expected 'S01' as on line 2"]


@pytest.mark.parametrize("column", ["rater", "fold", "sha256"])
def test_reserved_columns_may_be_there_but_not_filled(folder, column):
    load_manifest(written(folder, "0.mp4,S01,hand,0,", header=f"{HEADER},{column}"))
    (found,) = problems(written(folder, "0.mp4,S01,hand,0,1", header=f"{HEADER},{column}"))
    assert found == f"line 2: {column}, found '1', expected nothing: the column is reserved, not supported yet"


def test_columns_must_be_known(folder):
    found = problems(written(folder, "0.mp4,S01,hand,0", header="video,subjects,task,score"))
    assert found[0] == "column 'subject' is missing; found video, subjects, task, score"
    assert found[1].startswith("column 'subjects' is unknown (did you mean 'subject'?)")
    assert "3 times" in problems(written(folder, header=f"{HEADER},side,side,side"))[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "file is empty"),
        (HEADER.encode(), "no videos"),
        (b"video;subject;task;score\n", "semicolons, expected commas"),
        (b"video,subject\n\xff\xfe", "line 2: found bytes that are no text"),
        (HEADER.encode() + b'\n"0.mp4,S01', "broken quoting"),
    ],
)
def test_files_that_are_no_manifest_say_why(folder, content, words):
    (folder / "cohort.csv").write_bytes(content)
    assert words in problems(folder / "cohort.csv")[0]
    (folder / "cohort.parquet").write_bytes(content)
    assert "no Parquet" in problems(folder / "cohort.parquet")[0]
    assert problems(folder / "missing.csv") == ["there is no such file"]


def test_empty_video_files_pass_to_be_quarantined_later(folder):
    for name in "ab":
        (folder / f"{name}.mp4").write_bytes(b"")
    manifest = load_manifest(written(folder, "a.mp4,S01,hand,0", "b.mp4,S02,hand,1"))
    assert len({video.id for video in manifest.videos}) == 2


def test_a_task_is_a_smaller_manifest(folder):
    manifest = load_manifest(written(folder, "0.mp4,S01,hand,0", "1.mp4,S02,gait,2"))
    assert [video.task for video in manifest.for_task("gait").videos] == ["gait"]
    with pytest.raises(ConfigError, match=r"'hands' is not in the manifest \(did you mean 'hand'\?\).*gait, hand"):
        manifest.for_task("hands")


def test_nonsense_is_refused_at_birth(tmp_path):
    good = {"id": "0" * 16, "path": tmp_path, "subject": "S01", "task": "hand", "score": 1, "line": 2}
    video = Video(**good)
    for field, value in [("id", "a.mp4"), ("subject", " "), ("task", ""), ("score", -1), ("score", True), ("line", 0)]:
        with pytest.raises(ValueError, match="video"):
            Video(**(good | {field: value}))
    with pytest.raises(ValueError, match="ids differ"):
        Manifest(tmp_path, (video, video), ClassGrouping())
    with pytest.raises(ValueError, match="off the scale"):
        Manifest(tmp_path, (Video(**(good | {"score": 7})),), ClassGrouping())


def test_table_one_counts_videos_lengths_and_subjects(folder):
    manifest = load_manifest(written(folder, "0.mp4,S01,hand,1", "1.mp4,S01,hand,2", "2.mp4,S02,hand,4"))
    ids = [video.id for video in manifest.videos]
    rows = cohort_table(manifest, {ids[0]: 131, ids[1]: 717, ids[2]: None})
    assert [(row.class_name, row.videos, row.frames_min, row.frames_max, row.subjects) for row in rows] == [
        ("normal", 0, None, None, 0),
        ("mild", 2, 131, 717, 1),
        ("severe", 1, None, None, 1),
    ]
    lines = format_table(rows).splitlines()
    assert lines[2].split() == ["hand", "mild", "2", "131", "717", "1"]
    assert lines[3].split() == ["hand", "severe", "1", "-", "-", "1"]


def parts(folder, *rows):
    lines = [f"0.mp4,S1,hand,0,{start},{end}" for start, end in rows]
    (folder / "parts.csv").write_text("\n".join(["video,subject,task,score,start_seconds,end_seconds", *lines]))
    return folder / "parts.csv"


def test_parts_of_one_recording_are_videos_of_their_own(folder):
    videos = load_manifest(parts(folder, ("", 4.5), (4.5, 9), (9, ""))).videos
    assert [(video.start_seconds, video.end_seconds) for video in videos] == [(0, 4.5), (4.5, 9), (9, None)]
    assert len({video.id for video in videos}) == 3
    whole = load_manifest(parts(folder, ("", ""))).videos[0]
    assert whole.id not in {video.id for video in videos}


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (
            [(0, 5), (4, 9)],
            "line 3: video, found a part of '0.mp4' that overlaps the one on line 2, expected each once",
        ),
        ([(0, 5), ("", "")], "line 3: video, found a part of '0.mp4' that overlaps the one on line 2"),
        ([(5, 5)], "line 2: end_seconds, found 5, expected more than start_seconds, 5"),
        ([("-1", "soon")], "line 2: end_seconds, found 'soon', expected seconds from the file's begin"),
    ],
)
def test_impossible_parts_are_refused(folder, rows, found):
    with pytest.raises(ManifestError) as caught:
        load_manifest(parts(folder, *rows))
    assert found in str(caught.value)
