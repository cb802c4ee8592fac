"""
Tasks for annotation tools.

label-studio-sdk 2.1.2 (`LabelInterface`: `validate`, `validate_task`, `validate_prediction`) accepts the folder for
Label Studio that these tests write, and refuses a choice that is not in the interface and an interface with an XML
declaration. datumaro 1.13.12, which CVAT imports with, and `models.PatchedLabelRequest` of cvat-sdk 2.80 read the
folder for CVAT. Here the same facts are checked without these packages, which need older versions of others.
"""

import csv
import json
from xml.etree import ElementTree

import pytest

from timesformer_hf.data.annotation_tasks import (
    PredictedVideo,
    collect_labels,
    read_predictions,
    write_cvat,
    write_label_studio,
)


HOSTILE = "run <&\"'> é"
VIDEOS = [
    PredictedVideo("/data/videos/a b#?.mp4", ((HOSTILE, 0.75), ("sit", 0.25))),
    PredictedVideo("https://host/c.mp4", (("sit", 1.0),), "jump"),
    PredictedVideo("/data/videos/d.mp4", (), "jump"),
]


class TestReading:
    def test_lines_of_classify(self, tmp_path):
        lines = [
            {"video": "a.mp4", "predictions": [{"label": "run", "score": 0.25}, {"label": "sit", "score": 0.75}]},
            {"video": "b.mp4", "error": "broken"},
        ]
        (tmp_path / "p.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\r\n")
        assert read_predictions(tmp_path / "p.jsonl") == (
            [PredictedVideo("a.mp4", (("sit", 0.75), ("run", 0.25)))],
            1,
        )

    def test_a_table_of_classify(self, tmp_path):
        pa = pytest.importorskip("pyarrow", reason="writes Parquet")
        parquet = pytest.importorskip("pyarrow.parquet", reason="writes Parquet")
        rows = [
            {"path": "a.mp4", "label": "run", "score": 0.75, "labels": ["run", "sit"], "scores": [0.75, 0.25]},
            {"path": "b.mp4", "labels": None, "scores": None, "error": "broken"},
        ]
        parquet.write_table(pa.Table.from_pylist([rows[0] | {"error": None}, rows[1]]), tmp_path / "p.parquet")
        found = read_predictions(tmp_path / "p.parquet")
        assert found == ([PredictedVideo("a.mp4", (("run", 0.75), ("sit", 0.25)))], 1)

    def test_label_errors(self, tmp_path):
        """A label to correct, one to remove and one to add."""
        header = "path,label,suggestion,label_score,suggestion_score"
        rows = ["a.mp4,run,sit,0.1,0.9", "b.mp4,run,,0.1,0.9", "c.mp4,,sit,0.2,0.8"]
        (tmp_path / "label_errors.csv").write_text("\n".join([header, *rows]))
        assert read_predictions(tmp_path / "label_errors.csv") == (
            [
                PredictedVideo("a.mp4", (("sit", 0.9),), "run"),
                PredictedVideo("b.mp4", (), "run"),
                PredictedVideo("c.mp4", (("sit", 0.8),)),
            ],
            0,
        )

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("p.txt", "", r"p\.txt: predictions are lines of"),
            ("p.jsonl", "", "has no prediction"),
            ("p.jsonl", '{"video": "a.mp4", "error": "broken"}', "has no prediction"),
            ("p.jsonl", "no JSON", "can't be read: Expecting value"),
            ("p.jsonl", "[1]", "line 1 is not an object"),
            ("p.jsonl", '{"predictions": []}', "it has no 'video'"),
            ("p.jsonl", '{"video": "a.mp4", "predictions": [{"label": "x", "score": 7}]}', "line 1 must have"),
            ("p.jsonl", '{"video": 7, "predictions": [{"label": "x", "score": 1}]}', "line 1 must have"),
            ("p.csv", "path,label\na.mp4,run", "it has no 'labels'"),
            ("p.csv", "path,label,suggestion,suggestion_score\na.mp4,run,sit,high", "could not convert"),
        ],
    )
    def test_other_files_are_refused(self, name, text, message, tmp_path):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_predictions(tmp_path / name)

    def test_other_encodings_and_missing_files(self, tmp_path):
        (tmp_path / "p.jsonl").write_bytes(b"\xff\xfe")
        with pytest.raises(ValueError, match=r"p\.jsonl can't be read: 'utf-8'"):
            read_predictions(tmp_path / "p.jsonl")
        with pytest.raises(FileNotFoundError, match="There is no file"):
            read_predictions(tmp_path / "q.jsonl")

    def test_a_file_that_is_not_parquet(self, tmp_path):
        pytest.importorskip("pyarrow", reason="reads Parquet")
        (tmp_path / "p.parquet").write_text("no table")
        with pytest.raises(ValueError, match=r"p\.parquet can't be read: .*Parquet"):
            read_predictions(tmp_path / "p.parquet")


class TestLabels:
    def test_those_that_occur_or_the_given_ones(self):
        assert collect_labels(VIDEOS) == ["jump", HOSTILE, "sit"]
        assert collect_labels(VIDEOS, ["z", "sit", HOSTILE, "jump"]) == ["z", "sit", HOSTILE, "jump"]

    def test_what_can_not_be_written(self):
        with pytest.raises(ValueError, match="1 labels of the predictions are not among the 2 given ones: jump"):
            collect_labels(VIDEOS, ["sit", HOSTILE])
        with pytest.raises(ValueError, match=r"The label a\\x07b has a character that XML does not allow"):
            collect_labels([PredictedVideo("a.mp4", (("a\x07b", 1.0),))])


class TestLabelStudio:
    def test_every_choice_is_in_the_interface(self, tmp_path):
        write_label_studio(tmp_path / "out", VIDEOS, collect_labels(VIDEOS), "/data")
        text = (tmp_path / "out" / "interface.xml").read_text(encoding="utf-8")
        assert not text.startswith("<?xml")  # which Label Studio refuses
        view = ElementTree.fromstring(text)
        video, header, choices = view
        assert (video.tag, video.attrib) == ("Video", {"name": "video", "value": "$video"})
        assert header.attrib == {"value": "The label so far: $label"}
        assert (choices.tag, choices.attrib) == ("Choices", {"name": "label", "toName": "video", "choice": "single"})
        allowed = [choice.attrib["value"] for choice in choices]
        assert allowed == ["jump", HOSTILE, "sit"]
        tasks = json.loads((tmp_path / "out" / "tasks.json").read_text(encoding="utf-8"))
        assert [task["data"] for task in tasks] == [
            {"video": "/data/local-files/?d=videos/a%20b%23%3F.mp4", "path": "/data/videos/a b#?.mp4"},
            {"video": "https://host/c.mp4", "path": "https://host/c.mp4", "label": "jump"},
            {"video": "/data/local-files/?d=videos/d.mp4", "path": "/data/videos/d.mp4", "label": "jump"},
        ]
        assert [[prediction["score"] for prediction in task["predictions"]] for task in tasks] == [[0.75], [1.0], []]
        for task in tasks:
            for prediction in task["predictions"]:
                (result,) = prediction["result"]
                assert (result["from_name"], result["to_name"], result["type"]) == ("label", "video", "choices")
                (choice,) = result["value"]["choices"]
                assert choice in allowed
                assert result["score"] == prediction["score"]
                assert 0 <= prediction["score"] <= 1

    def test_without_a_folder_that_is_served_paths_stay(self, tmp_path):
        write_label_studio(tmp_path / "out", VIDEOS[:1], ["sit"])
        (task,) = json.loads((tmp_path / "out" / "tasks.json").read_text())
        assert task["data"]["video"] == "/data/videos/a b#?.mp4"
        assert "Header" not in (tmp_path / "out" / "interface.xml").read_text()

    def test_a_file_elsewhere_leaves_no_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"a b#\?\.mp4 is not in the folder /data/other"):
            write_label_studio(tmp_path / "out", VIDEOS, ["sit"], "/data/other")
        assert not (tmp_path / "out").exists()


class TestCvat:
    def test_a_file_for_each_video_with_its_label_as_a_tag(self, tmp_path):
        videos = VIDEOS * 4
        write_cvat(tmp_path / "out", videos, collect_labels(videos))
        labels = json.loads((tmp_path / "out" / "labels.json").read_text(encoding="utf-8"))
        assert labels == [{"name": name, "type": "tag"} for name in ("jump", HOSTILE, "sit")]
        with (tmp_path / "out" / "videos.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["path"] for row in rows] == [video.video for video in videos]
        assert rows[0]["annotations"] == "annotations/01.xml"
        assert len({row["annotations"] for row in rows}) == len(videos)
        for row, video in zip(rows, videos, strict=True):
            root = ElementTree.parse(tmp_path / "out" / row["annotations"]).getroot()
            assert root.tag == "annotations"
            assert root.find("version").text == "1.1"
            assert [label.find("name").text for label in root.iter("label")] == ["jump", HOSTILE, "sit"]
            (frame,) = root.findall("image")
            assert frame.attrib == {"id": "0", "name": "frame_000000"}  # as CVAT names the first frame of a video
            assert [tag.attrib["label"] for tag in frame] == [label for label, _ in video.predictions[:1]]

    def test_a_folder_that_exists_stays(self, tmp_path):
        (tmp_path / "out").mkdir()
        with pytest.raises(FileExistsError):
            write_cvat(tmp_path / "out", VIDEOS, ["sit"])
        assert list((tmp_path / "out").iterdir()) == []
