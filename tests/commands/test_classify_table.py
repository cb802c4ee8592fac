"""`timesformer-hf classify --out`: a row for each video, a run that goes on, limits of a file, faults."""

import errno
import json
import os
import shutil
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from clips import moving_pattern, write_video
from embedding import write_five_videos
from tiny_models import make_model, save_classifier

from timesformer_hf.cli import main
from timesformer_hf.inference import linear_kernels
from timesformer_hf.inference.linear_kernels import LinearKernel
from timesformer_hf.output.atomic import alone_in
from timesformer_hf.scale import video_worker
from timesformer_hf.scale.prediction_table import PredictionParts
from timesformer_hf.scale.video_worker import VideoWorker
from timesformer_hf.video import safe_opening


pa = pytest.importorskip("pyarrow", reason="tables of labels are Parquet files")
pq = pytest.importorskip("pyarrow.parquet", reason="tables of labels are Parquet files")

COLUMNS = ["path", "label", "score", "labels", "scores", "error", "decode_seconds", "model_seconds"]
TIMES = COLUMNS[-2:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    """Five, the fourth of them broken."""
    return write_five_videos(tmp_path_factory.mktemp("clips"))


def classify(out: Path, folder: str, *arguments) -> int:
    """The exit code."""
    return main(["classify", "--out", str(out), "--model", folder, "--device", "cpu", *map(str, arguments)])


def rows_of(out: Path) -> list[dict]:
    """Everything but the times, which are measured."""
    return pq.read_table(out).drop_columns(TIMES).to_pylist()


def decoded_videos(monkeypatch) -> list[str]:
    """The videos that are decoded from now on."""
    decoded, decode = [], VideoWorker.decode

    def counted(self, row):
        decoded.append(row.video)
        return decode(self, row)

    monkeypatch.setattr(VideoWorker, "decode", counted)
    return decoded


class TestTable:
    def test_a_row_a_video_in_order(self, folder, videos, tmp_path, capsys):
        """The labels are those that the command prints, to the last bit."""
        out = tmp_path / "out.parquet"
        assert classify(out, folder, *videos, "--top-k", 2) == 1
        output = capsys.readouterr()
        assert output.out == f"{out}: 5 videos, 1 of them failed\n"
        assert "bad.mp4: can't be decoded" in output.err
        assert main(["classify", *videos, "--model", folder, "--device", "cpu", "--top-k", "2", "--json"]) == 1
        printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        table = pq.read_table(out)
        assert table.column_names == COLUMNS
        for row, expected in zip(table.to_pylist(), printed, strict=True):
            predictions = expected.get("predictions", [])
            assert row["path"] == expected["video"]
            assert row["error"] == expected.get("error")
            assert row["labels"] == [found["label"] for found in predictions]
            assert row["scores"] == [found["score"] for found in predictions]
            assert (row["label"], row["score"]) == ((row["labels"] or [None])[0], (row["scores"] or [None])[0])
            assert row["decode_seconds"] > 0
            assert (row["model_seconds"] > 0) == (row["error"] is None)
        assert not list(tmp_path.glob("*.parts"))

    def test_the_metadata_say_which_model_and_settings(self, folder, videos, tmp_path):
        classify(tmp_path / "out.parquet", folder, videos[0], "--num-frames", 3, "--max-seconds", 60)
        about = pq.read_schema(tmp_path / "out.parquet").metadata
        assert about[b"model"].decode() == folder
        settings, execution = json.loads(about[b"settings"]), json.loads(about[b"execution"])
        assert (settings["num_frames"], settings["weights"]) == (3, about[b"weights"].decode())
        assert settings["labels"][1] == "sitting"
        assert (execution["device"], execution["batch_size"]) == ("cpu", 1)
        assert set(execution["kernels"].values()) <= {"torch", "onednn"}
        assert json.loads(about[b"limits"]) == {"seconds": 60, "pixels": None, "memory": None}

    def test_inputs_of_every_kind_and_twice(self, folder, videos, tmp_path):
        (tmp_path / "list.txt").write_text(f"{videos[0]}\r\n\r\n{videos[1]}\r\n")
        pq.write_table(pa.table({"clip": [videos[1], videos[2]]}), tmp_path / "t.parquet")
        out, inputs = tmp_path / "out.parquet", (videos[2], f"@{tmp_path}/list.txt", tmp_path / "t.parquet")
        assert classify(out, folder, *inputs, "--column", "clip") == 0
        assert [row["path"] for row in rows_of(out)] == [videos[2], *videos[:2]]

    def test_a_name_that_is_not_utf8_has_a_row(self, folder, videos, tmp_path):
        odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")
        shutil.copy(videos[0], odd)
        assert classify(tmp_path / "out.parquet", folder, odd, videos[1]) == 1
        rows = rows_of(tmp_path / "out.parquet")
        assert rows[0]["path"] == f"{tmp_path}/\\xff.mp4"
        assert "its name is not UTF-8" in rows[0]["error"]
        assert rows[1]["error"] is None

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--retry-errors"], "--retry-errors is for a table; give --out"),
            (["--max-pixels", "5"], "--max-pixels is for a table; give --out"),
            (["--out", "a.parquet", "--json"], "--json prints labels, and --out writes them"),
            (["--out", "a.csv"], "the table is a Parquet file"),
        ],
    )
    def test_options_that_do_not_fit(self, folder, videos, arguments, message, capsys):
        assert main(["classify", videos[0], "--model", folder, *arguments]) == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("option", "text"), [("--max-memory", "2T"), ("--max-memory", "0"), ("--max-seconds", "0")]
    )
    def test_limits_that_are_none(self, option, text, capsys):
        with pytest.raises(SystemExit):
            main(["classify", "a.mp4", "--out", "o.parquet", option, text])
        assert f"argument {option}: {text} must be a number of" in capsys.readouterr().err


class TestGoingOn:
    @pytest.fixture
    def broken(self, folder, videos, tmp_path, monkeypatch, capsys) -> Path:
        """The output of a run that was interrupted after two videos."""
        out, add = tmp_path / "out.parquet", PredictionParts.add_rows

        def interrupted(self, rows):
            if self.places:
                raise KeyboardInterrupt
            add(self, rows)

        with monkeypatch.context() as patch:
            patch.setattr("timesformer_hf.scale.corpus_run.CHUNK_VIDEOS", 2)
            patch.setattr(PredictionParts, "add_rows", interrupted)
            assert classify(out, folder, *videos) == 130
        assert "Finished batches are kept; the same command goes on from there." in capsys.readouterr().err
        assert not out.exists()
        return out

    def test_only_the_rest_is_done(self, broken, folder, videos, tmp_path, monkeypatch):
        decoded = decoded_videos(monkeypatch)
        assert classify(broken, folder, *videos) == 1
        assert sorted(decoded) == sorted(videos[2:])
        assert classify(tmp_path / "unbroken.parquet", folder, *videos) == 1
        assert rows_of(broken) == rows_of(tmp_path / "unbroken.parquet")

    def test_the_kernels_stay(self, broken, folder, videos, monkeypatch):
        """Although a measurement would now choose another one."""
        path = Path(f"{broken}.parts/execution.json")
        execution = json.loads(path.read_text())
        assert execution["kernels"]
        execution["kernels"] = dict.fromkeys(execution["kernels"], "torch")
        path.write_text(json.dumps(execution))
        other = LinearKernel()
        other.name = "other"
        monkeypatch.setitem(linear_kernels.KERNELS, "other", other)
        monkeypatch.setattr(linear_kernels, "fastest_kernel", lambda weight, rows: "other")
        classify(broken, folder, *videos)
        about = json.loads(pq.read_schema(broken).metadata[b"execution"])
        assert about["kernels"] == execution["kernels"]

    def test_another_model_is_refused(self, broken, videos, tmp_path, capsys):
        other = save_classifier(tmp_path / "other")
        model = make_model()
        model.classifier.bias.data[0] += 1
        model.save_pretrained(other)
        assert classify(broken, other, *videos) == 2
        assert "contains a run with other settings: weights was" in capsys.readouterr().err

    def test_a_second_run_is_refused(self, broken, folder, videos, capsys):
        with alone_in(f"{broken}.parts"):
            assert classify(broken, folder, *videos) == 2
        assert "belongs to a run that is still going on" in capsys.readouterr().err
        assert classify(broken, folder, *videos) == 1

    def test_a_finished_table_stays(self, folder, videos, tmp_path, capsys):
        out = tmp_path / "out.parquet"
        assert classify(out, folder, videos[0]) == 0
        assert classify(out, folder, videos[1]) == 2
        assert "exists; give another name, or --overwrite" in capsys.readouterr().err


class TestRetrying:
    @pytest.fixture
    def mended(self, folder, videos, tmp_path) -> list[str]:
        """Copies of the videos, for which a table was made before the broken one was mended."""
        copies = [str(shutil.copy(video, tmp_path)) for video in videos]
        assert classify(tmp_path / "out.parquet", folder, *copies) == 1
        shutil.copy(videos[4], copies[3])
        return copies

    def test_a_finished_table(self, folder, mended, tmp_path, monkeypatch):
        before = rows_of(tmp_path / "out.parquet")
        decoded = decoded_videos(monkeypatch)
        assert classify(tmp_path / "out.parquet", folder, *mended, "--retry-errors") == 0
        assert decoded == [mended[3]]
        after = rows_of(tmp_path / "out.parquet")
        assert [row["path"] for row in after] == mended
        assert after[:3] + after[4:] == before[:3] + before[4:]
        assert after[3] == after[4] | {"path": mended[3]}
        assert not list(tmp_path.glob("*.parts"))

    def test_an_unfinished_run(self, folder, videos, tmp_path, monkeypatch):
        """Without the option a video that failed is done."""
        out = tmp_path / "out.parquet"
        with monkeypatch.context() as patch:
            patch.setattr(PredictionParts, "merge", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
            assert classify(out, folder, *videos) == 130
            decoded = decoded_videos(patch)
            assert classify(out, folder, *videos) == 130
            assert decoded == []
        decoded = decoded_videos(monkeypatch)
        assert classify(out, folder, *videos, "--retry-errors") == 1
        assert decoded == [videos[3]]
        assert [row["error"] is None for row in rows_of(out)] == [True, True, True, False, True]

    def test_a_table_of_other_settings_is_refused(self, folder, mended, tmp_path, capsys):
        before = (tmp_path / "out.parquet").read_bytes()
        assert classify(tmp_path / "out.parquet", folder, *mended, "--retry-errors", "--top-k", 1) == 2
        assert "out.parquet was made with other settings: top_k was 5 and now is 1" in capsys.readouterr().err
        assert (tmp_path / "out.parquet").read_bytes() == before

    def test_another_table_is_refused(self, folder, videos, tmp_path, capsys):
        pq.write_table(pa.table({"path": ["a"]}), tmp_path / "out.parquet")
        assert classify(tmp_path / "out.parquet", folder, videos[0], "--retry-errors") == 2
        assert "out.parquet is not a table made by timesformer-hf classify" in capsys.readouterr().err


class TestLimits:
    """The frames of the videos have 3,072 or 2,560 pixels; a clip is four of them."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--max-pixels", "3000"], "more than the limit max_frame_pixels=3,000"),
            (["--max-memory", "36000"], "more than the limit max_clip_pixels=12,000"),
        ],
    )
    def test_a_large_file_fails_alone(self, folder, videos, tmp_path, arguments, message):
        assert classify(tmp_path / "out.parquet", folder, *videos[:3], *arguments) == 1
        first, large, last = rows_of(tmp_path / "out.parquet")
        assert message in large["error"]
        assert first["error"] is last["error"] is None

    def test_a_slow_file_fails_alone(self, folder, videos, tmp_path, monkeypatch):
        """By a clock that goes on by 10 ms at each packet; the slow file has 750."""
        ticks = count(step=0.01)
        clock = SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=time.perf_counter)
        for module in (video_worker, safe_opening):
            monkeypatch.setattr(module, "time", clock)
        slow = str(write_video(tmp_path / "slow.ts", moving_pattern(25) * 30, "mpeg2video"))
        arguments = (videos[0], slow, videos[1], "--num-workers", 1, "--max-seconds", 5)
        assert classify(tmp_path / "out.parquet", folder, *arguments) == 1
        rows = rows_of(tmp_path / "out.parquet")
        assert "slow.ts: can't be decoded (TimeoutError: reading it takes longer" in rows[1]["error"]
        assert rows[0]["error"] is rows[2]["error"] is None


class TestFaults:
    def test_a_file_that_disappears(self, folder, videos, tmp_path, monkeypatch):
        """After the run has looked at it, before it is decoded."""
        gone, decode = str(shutil.copy(videos[0], tmp_path / "gone.mp4")), VideoWorker.decode

        def decode_later(self, row):
            if row.video == gone:
                os.unlink(gone)
            return decode(self, row)

        monkeypatch.setattr(VideoWorker, "decode", decode_later)
        assert classify(tmp_path / "out.parquet", folder, videos[1], gone, videos[2]) == 1
        rows = rows_of(tmp_path / "out.parquet")
        assert [row["path"] for row in rows] == [videos[1], gone, videos[2]]
        assert "No such file" in rows[1]["error"]
        assert rows[0]["error"] is rows[2]["error"] is None

    @pytest.mark.parametrize("when", ["part", "merge"])
    def test_a_full_disk(self, when, folder, videos, tmp_path, monkeypatch, capsys):
        out, write_table = tmp_path / "out.parquet", pq.ParquetWriter.write_table

        def full(self, table, *args, **kwargs):
            if when == "merge" and "source" in table.column_names:
                return write_table(self, table, *args, **kwargs)
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(pq.ParquetWriter, "write_table", full)
            assert classify(out, folder, *videos) == 2
        assert "When there is room, repeat the command. Finished batches are kept" in capsys.readouterr().err
        assert not out.exists()
        decoded = decoded_videos(monkeypatch)
        assert classify(out, folder, *videos) == 1
        assert len(decoded) == (0 if when == "merge" else 5)
        assert [row["path"] for row in rows_of(out)] == videos
