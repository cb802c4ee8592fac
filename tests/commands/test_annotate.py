"""`timesformer-hf annotate` on what `classify` prints."""

import json

import pytest
from clips import moving_pattern, write_video
from tiny_models import LABELS, save_classifier

from timesformer_hf.cli import main


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    """What `classify --json` prints of a video and of one that is broken."""
    folder = tmp_path_factory.mktemp("videos")
    video = write_video(folder / "a.mp4", moving_pattern(9))
    (folder / "broken.mp4").write_text("no video at all")
    model = save_classifier(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("tqdm.tqdm.write", lambda text, file=None: printed.append(text))
        assert main(["classify", str(folder), "--model", model, "--json", "--top-k", "2", "--device", "cpu"]) == 1
    (folder / "predictions.jsonl").write_text("\n".join(printed))
    return folder / "predictions.jsonl", video


@pytest.mark.parametrize(("tool", "names"), [("label-studio", ["interface.xml", "tasks.json"]), ("cvat", None)])
def test_predictions_become_tasks(tool, names, predictions, tmp_path, capsys):
    table, video = predictions
    assert main(["annotate", str(table), "--format", tool, "--out", str(tmp_path / "out")]) == 0
    output = capsys.readouterr()
    assert output.out == f"{tmp_path / 'out'}: 1 video, 2 labels to choose from\n"
    assert "left out: 1 video without a prediction" in output.err
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == (names or ["annotations", "labels.json", "videos.csv"])
    if tool == "label-studio":
        (task,) = json.loads((tmp_path / "out" / "tasks.json").read_text())
        assert task["data"]["path"] == str(video)
        assert task["predictions"][0]["result"][0]["value"]["choices"][0] in LABELS


def test_a_table_of_classify_gives_the_same_tasks(predictions, tmp_path):
    pytest.importorskip("pyarrow", reason="writes Parquet")
    table, video = predictions
    model = str(table.parent / "model")
    words = ["classify", str(table.parent), "--model", model, "--top-k", "2", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "p.parquet")]) == 1
    tasks = []
    for name in (str(table), str(tmp_path / "p.parquet")):
        out = tmp_path / f"out{len(tasks)}"
        assert main(["annotate", name, "--format", "label-studio", "--out", str(out)]) == 0
        tasks.append(json.loads((out / "tasks.json").read_text()))
    (one,), (other,) = tasks
    assert one["data"] == other["data"] == {"video": str(video), "path": str(video)}
    (one,), (other,) = (task["predictions"] for task in (one, other))
    assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    assert one["result"][0]["value"] == other["result"][0]["value"]


def test_all_labels_can_be_given(predictions, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("\n".join([*LABELS, "other"]))
    words = ["annotate", str(predictions[0]), "--format", "cvat", "--labels", str(tmp_path / "labels.txt")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert [label["name"] for label in labels] == [*LABELS, "other"]


class TestBadInput:
    def error(self, capsys, *words) -> str:
        assert main(["annotate", *map(str, words)]) == 2
        errors = capsys.readouterr().err
        assert len(errors.splitlines()) == 1
        return errors

    def test_each_has_a_line(self, predictions, tmp_path, capsys):
        table, _ = predictions
        cvat = ["--format", "cvat", "--out", tmp_path / "out"]
        assert "There is no file" in self.error(capsys, tmp_path / "none.jsonl", *cvat)
        assert "--document-root is for --format label-studio" in self.error(
            capsys, table, *cvat, "--document-root", tmp_path
        )
        assert "are not among the 400 given ones" in self.error(capsys, table, *cvat, "--labels", "kinetics400")
        assert not (tmp_path / "out").exists()
        (tmp_path / "out").write_text("before")
        assert "exists, and no annotations are replaced; give another name" in self.error(capsys, table, *cvat)
