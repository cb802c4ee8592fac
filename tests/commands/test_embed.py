"""`timesformer-hf embed`: the table, its inputs, a run that was broken off, a full disk."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import moving_pattern, write_video
from embedding import embed, write_five_videos
from killing import KILLED_AFTER_TWO_PARTS
from repository import REPOSITORY
from tiny_models import FLOAT32, make_model, save_classifier
from transformers import AutoModel

from timesformer_hf import TimesformerModel, TimesformerVideoProcessor
from timesformer_hf.cli import main
from timesformer_hf.inference import feature_table
from timesformer_hf.inference.feature_table import FeatureParts, read_features
from timesformer_hf.video.video_folders import VIDEO_EXTENSIONS, find_videos


pa = pytest.importorskip("pyarrow", reason="tables of features are Parquet files")
pq = pytest.importorskip("pyarrow.parquet", reason="tables of features are Parquet files")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> str:
    return save_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    return write_five_videos(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def good(videos) -> list[str]:
    return [video for video in videos if "bad" not in video]


def clean(folder: Path) -> bool:
    """Whether there is nothing beside the outputs."""
    return all(path.suffix == ".parquet" and not path.name.startswith(".") for path in folder.iterdir())


class TestTable:
    def test_what_was_written_is_said(self, model_folder, good, tmp_path, capsys):
        out = tmp_path / "features.parquet"
        assert embed(out, model_folder, *good, "--level", "frame") == 0
        assert capsys.readouterr().out == f"{out}: 4 videos, features of 48 numbers for each frame\n"

    def test_another_kind_of_file_is_refused(self, model_folder, good, tmp_path, capsys):
        assert embed(tmp_path / "features.csv", model_folder, *good) == 2
        assert "features.csv: the table is a Parquet file, so its name must end in .parquet" in capsys.readouterr().err
        assert clean(tmp_path)

    @pytest.mark.parametrize("level", ["clip", "frame", "patch"])
    def test_rows_are_the_features_in_order(self, model_folder, videos, good, tmp_path, capsys, level):
        out = tmp_path / "features.parquet"
        assert embed(out, model_folder, *videos, "--level", level, "--batch-size", 2) == 1
        errors = capsys.readouterr().err
        assert "bad.mp4: can't be decoded" in errors
        assert "1 of 5 videos failed" in errors
        table = read_features(out)
        assert table.videos == good
        model = AutoModel.from_pretrained(model_folder)
        processor = TimesformerVideoProcessor.from_pretrained(model_folder)
        for video, feature in zip(good, table.features, strict=True):
            with torch.no_grad():
                expected = model.clip_features(processor(video, return_tensors="pt").pixel_values, level)[0]
            torch.testing.assert_close(torch.tensor(feature), expected, **FLOAT32)  # here in batches, there alone
        assert table.metadata["model"] == model_folder
        assert table.metadata["level"] == level
        assert table.metadata["shape"] == list(expected.shape)
        assert clean(tmp_path)

    def test_columns_and_metadata_of_the_table(self, model_folder, good, tmp_path):
        out = tmp_path / "features.parquet"
        assert embed(out, model_folder, *good, "--level", "frame", "--num-frames", 3, "--frame-sampling-rate", 2) == 0
        table = pq.read_table(out)
        assert table.column_names == ["video", "feature", "frame_indices"]
        kind = table.schema.field("feature").type
        assert (kind.list_size, kind.value_type.list_size, kind.value_type.value_type) == (3, 48, pa.float32())
        assert table.column("frame_indices")[0].as_py() == [3, 5, 7]  # of 12 frames
        assert table.schema.metadata[b"level"] == b"frame"
        assert table.schema.metadata[b"shape"] == b"[3, 48]"

    def test_merging_holds_a_row_group_at_a_time(self, model_folder, good, tmp_path, monkeypatch):
        assert embed(tmp_path / "one.parquet", model_folder, *good, "--batch-size", 3) == 0
        monkeypatch.setattr(feature_table, "ROW_GROUP_BYTES", 2 * 4 * 48)
        assert embed(tmp_path / "two.parquet", model_folder, *good, "--batch-size", 3) == 0
        assert [pq.ParquetFile(tmp_path / f"{name}.parquet").num_row_groups for name in ("one", "two")] == [1, 2]
        assert pq.read_table(tmp_path / "two.parquet").equals(pq.read_table(tmp_path / "one.parquet"))

    def test_batch_size_changes_no_feature(self, model_folder, good, tmp_path):
        for size in (1, 3, 8):
            assert embed(tmp_path / f"{size}.parquet", model_folder, *good, "--batch-size", size) == 0
        alone, three, all_of_them = (read_features(tmp_path / f"{size}.parquet") for size in (1, 3, 8))
        assert alone.videos == three.videos == all_of_them.videos == good
        # a matrix product adds up in another order in another batch
        np.testing.assert_allclose(three.features, alone.features, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(all_of_them.features, alone.features, rtol=1e-4, atol=1e-5)

    def test_clips_of_several_shapes_pass_apart(self, model_folder, good, tmp_path, capsys):
        """Without a crop: a forward pass for each shape. Patch features of another shape than the first are refused."""
        folder = shutil.copytree(model_folder, tmp_path / "model")
        shorter = {"shortest_edge": 32}
        TimesformerVideoProcessor(size=shorter, do_center_crop=False, num_frames=4).save_pretrained(folder)
        tall = str(write_video(tmp_path / "tall.mp4", moving_pattern(9, 96, 48)))
        wide = str(write_video(tmp_path / "wide.mp4", moving_pattern(9, 48, 96)))
        odd = str(write_video(tmp_path / "odd.mp4", moving_pattern(9, 48, 50)))
        again = str(shutil.copy(tall, tmp_path / "again.mp4"))
        inputs = (tall, wide, odd, again)
        outputs = tmp_path / "outputs"
        assert embed(outputs / "clip.parquet", str(folder), *inputs) == 1
        assert "odd.mp4: width=33 of pixel_values" in capsys.readouterr().err
        table = read_features(outputs / "clip.parquet")
        assert table.videos == [tall, wide, again]
        np.testing.assert_allclose(table.features[0], table.features[2], rtol=1e-4, atol=1e-5)
        assert embed(outputs / "patch.parquet", str(folder), *inputs, "--level", "patch") == 1
        assert "wide.mp4: its features are (4, 4, 8, 48), those before it (4, 8, 4, 48)" in capsys.readouterr().err
        assert read_features(outputs / "patch.parquet").videos == [tall, again]

    def test_half_precision_is_stored_as_float32(self, model_folder, good, tmp_path):
        assert embed(tmp_path / "full.parquet", model_folder, *good) == 0
        assert embed(tmp_path / "half.parquet", model_folder, *good, "--dtype", "bfloat16") == 0
        full, half = (read_features(tmp_path / f"{name}.parquet").features for name in ("full", "half"))
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, full, atol=0.1)  # 8 bits of values up to about 2, through three blocks
        assert not np.array_equal(half, full)

    def test_features_that_are_not_finite_are_an_error(self, good, model_folder, tmp_path, capsys):
        folder = shutil.copytree(model_folder, tmp_path / "model")
        model = make_model()
        model.timesformer.layernorm.weight.data.fill_(float("inf"))
        model.save_pretrained(folder)
        assert embed(tmp_path / "outputs" / "features.parquet", str(folder), good[0]) == 1
        assert "c.mp4: its features are not finite in torch.float32" in capsys.readouterr().err

    def test_no_table_is_written_when_nothing_can_be_read(self, videos, model_folder, tmp_path, capsys):
        assert embed(tmp_path / "features.parquet", model_folder, videos[3]) == 1
        assert "features.parquet is not written: it would be empty" in capsys.readouterr().err
        assert not any(tmp_path.iterdir())


class TestInputs:
    def test_a_folder_stands_for_its_videos(self, videos, model_folder, tmp_path):
        folder = tmp_path / "videos"
        for name in ("b.mp4", "a/z.MP4", "a/b.mp4", ".hidden/c.mp4", "a/._b.mp4"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(videos[1], folder / name)
        (folder / "notes.txt").write_text("no video")
        found = [str(folder / name) for name in ("a/b.mp4", "a/z.MP4", "b.mp4")]
        assert find_videos([str(folder)]) == found
        assert embed(tmp_path / "features.parquet", model_folder, folder) == 0
        assert read_features(tmp_path / "features.parquet").videos == found

    def test_a_folder_without_videos_is_told(self, model_folder, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        assert embed(tmp_path / "features.parquet", model_folder, tmp_path / "empty") == 2
        assert f"There is no video in the folder {tmp_path}" in capsys.readouterr().err

    def test_help_lists_the_extensions(self, capsys):
        with pytest.raises(SystemExit):
            main(["embed", "--help"])
        assert f"({' '.join(VIDEO_EXTENSIONS)})" in " ".join(capsys.readouterr().out.split())

    @pytest.mark.parametrize("missing", ["--model", "--out"])
    def test_model_and_output_are_required(self, missing, capsys):
        arguments = {"--model": "m", "--out": "o"}
        del arguments[missing]
        with pytest.raises(SystemExit):
            main(["embed", "a.mp4", *next(iter(arguments.items()))])
        assert f"arguments are required: {missing}" in capsys.readouterr().err

    def test_a_mistaken_model_leaves_no_output(self, good, tmp_path, capsys):
        out = tmp_path / "features.parquet"
        assert embed(out, "/no/such/folder", good[0]) == 2
        assert "can't load the model /no/such/folder" in capsys.readouterr().err
        assert not any(tmp_path.iterdir())

    def test_existing_output_stays(self, good, tmp_path, model_folder, capsys, monkeypatch):
        out = tmp_path / "features.parquet"
        out.write_text("precious")
        assert embed(out, "/no/such/folder", good[0]) == 2  # told before any work: the model isn't looked for
        assert "exists; give another name, or --overwrite" in capsys.readouterr().err
        assert out.read_text() == "precious"
        assert embed(out, model_folder, good[0], "--overwrite") == 0
        assert read_features(out).videos == good[:1]

    def test_output_that_is_a_folder_is_refused(self, good, tmp_path, capsys):
        assert embed(tmp_path, "/no/such/folder", good[0], "--overwrite") == 2
        assert f"{tmp_path} is a folder; give the name of a file" in capsys.readouterr().err

    def test_without_pyarrow_the_extra_is_named(self, good, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        assert embed(tmp_path / "features.parquet", "/no/such/folder", good[0]) == 2
        assert 'pip install "timesformer_hf[embed]"' in capsys.readouterr().err


class TestDecoder:
    def test_missing_decoder_is_no_fault_of_a_video(self, model_folder, good, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "av", None)
        assert embed(tmp_path / "features.parquet", model_folder, *good) == 2
        assert "Decoding a video file needs PyAV" in capsys.readouterr().err


class TestResuming:
    @pytest.fixture
    def unbroken(self, model_folder, good, tmp_path) -> bytes:
        embed(tmp_path / "unbroken.parquet", model_folder, *good, "--batch-size", 1)
        return (tmp_path / "unbroken.parquet").read_bytes()

    @pytest.fixture
    def broken(self, model_folder, good, tmp_path, monkeypatch) -> Path:
        """The output of a run that was interrupted after two batches of one video."""
        out, write = tmp_path / "features.parquet", FeatureParts.write

        def interrupted(self, *args):
            if len(self.places) == 2:
                raise KeyboardInterrupt
            write(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(FeatureParts, "write", interrupted)
            assert embed(out, model_folder, *good, "--batch-size", 1) == 130
        assert not out.exists()
        return out

    def test_only_the_rest_is_done_and_the_result_is_the_same(self, unbroken, broken, model_folder, good, monkeypatch):
        decoded, preprocess = [], TimesformerVideoProcessor.preprocess

        def counted(self, video, **settings):
            decoded.append(video)
            return preprocess(self, video, **settings)

        monkeypatch.setattr(TimesformerVideoProcessor, "preprocess", counted)
        assert embed(broken, model_folder, *good, "--batch-size", 1) == 0
        assert sorted(decoded) == sorted(good[2:])
        assert broken.read_bytes() == unbroken
        assert clean(broken.parent)

    def test_parts_of_other_videos_are_kept(self, unbroken, broken, model_folder, good, capsys):
        """A run over some of the videos doesn't throw away what a longer one had finished."""
        assert embed(broken, model_folder, good[3], "--batch-size", 1) == 0
        assert "features.parquet.parts is kept: it has other videos of an unfinished run" in capsys.readouterr().err
        assert read_features(broken).videos == [good[3]]
        assert embed(broken, model_folder, *good, "--batch-size", 1, "--overwrite") == 0
        assert broken.read_bytes() == unbroken
        assert clean(broken.parent)

    def test_a_run_killed_while_it_writes_goes_on(self, unbroken, model_folder, good, tmp_path):
        """By a signal that leaves no time to clean up, in a process of its own."""
        code = f"{KILLED_AFTER_TWO_PARTS}\nimport sys\nfrom timesformer_hf.cli import main\n\nmain(sys.argv[1:])"
        out = tmp_path / "features.parquet"
        arguments = ["embed", *good, "--out", str(out), "--model", model_folder, "--batch-size", "1", "--device", "cpu"]
        process = subprocess.run([sys.executable, "-c", code, *arguments], cwd=REPOSITORY, timeout=300)
        assert process.returncode == -9
        assert len(list(Path(f"{out}.parts").glob("*.parquet"))) == 2
        assert not out.exists()
        assert main(arguments) == 0
        table, expected = pq.read_table(out), pq.read_table(pa.BufferReader(unbroken))
        assert table.schema.equals(expected.schema)
        about, expected_about = table.schema.metadata, expected.schema.metadata
        assert about.keys() == expected_about.keys()  # the execution has the kernels that each process has chosen
        assert all(about[name] == value for name, value in expected_about.items() if name != b"execution")
        assert table.drop_columns("feature").equals(expected.drop_columns("feature"))
        # another process may have another number of threads, and so sums in another order
        features = [np.array(rows.column("feature").to_pylist()) for rows in (table, expected)]
        np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-5)
        assert clean(tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--level", "frame"], "level was 'clip' and now is 'frame'"),
            (["--num-frames", "3"], "num_frames was 4 and now is 3"),
            (["--frame-sampling-rate", "2"], "frame_sampling_rate was None and now is 2"),
            (["--dtype", "bfloat16"], "dtype was 'float32' and now is 'bfloat16'"),
        ],
    )
    def test_other_settings_are_refused(self, broken, model_folder, good, arguments, message, capsys):
        assert embed(broken, model_folder, *good, *arguments) == 2
        errors = capsys.readouterr().err
        assert message in errors
        assert "delete that folder to start again" in errors

    def test_other_weights_are_refused(self, broken, model_folder, good, tmp_path, capsys):
        changed = shutil.copytree(model_folder, tmp_path / "changed")
        model = make_model()
        model.timesformer.layernorm.weight.data[0] += 1
        model.save_pretrained(changed)
        assert embed(broken, str(changed), *good) == 2
        assert "other settings: weights was " in capsys.readouterr().err
        moved = shutil.copytree(model_folder, tmp_path / "moved")
        assert embed(broken, str(moved), *good) == 0  # the same model elsewhere

    def test_bad_files_are_tried_again(self, model_folder, videos, tmp_path, monkeypatch):
        """One that arrived in the meantime gets its row at its place, a file that was replaced is embedded anew."""
        names = [tmp_path / f"{i}.mp4" for i in range(4)]
        for name, video in zip(names, (videos[0], videos[3], videos[1], videos[2]), strict=True):
            shutil.copy(video, name)
        out, expected = tmp_path / "features.parquet", tmp_path / "expected.parquet"

        def interrupted(*args):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(FeatureParts, "merge", interrupted)
            assert embed(out, model_folder, *names, "--batch-size", 2) == 130
        shutil.copy(videos[4], names[1])
        shutil.copy(videos[4], names[3])
        assert embed(out, model_folder, *names, "--batch-size", 2) == 0
        assert embed(expected, model_folder, *names, "--batch-size", 2) == 0
        assert read_features(out).videos == [str(name) for name in names]
        np.testing.assert_allclose(
            read_features(out).features, read_features(expected).features, rtol=1e-4, atol=1e-5
        )  # in batches of other sizes

    def test_out_of_memory_is_no_fault_of_the_videos(self, unbroken, model_folder, good, tmp_path, monkeypatch, capsys):
        """Not a fault of the videos: the run stops, and goes on with smaller batches."""
        out, clip_features = tmp_path / "features.parquet", TimesformerModel.clip_features

        def exhausted(self, pixel_values, level):
            if len(pixel_values) > 1:
                raise torch.OutOfMemoryError("tried to allocate")
            return clip_features(self, pixel_values, level)

        monkeypatch.setattr(TimesformerModel, "clip_features", exhausted)
        assert embed(out, model_folder, *good, "--batch-size", 2) == 2
        assert "give a smaller --batch-size" in capsys.readouterr().err
        assert embed(out, model_folder, *good, "--batch-size", 1) == 0
        assert out.read_bytes() == unbroken

    def test_mistaken_inputs_do_not_cost_what_is_done(self, broken, videos, model_folder, capsys):
        assert embed(broken, model_folder, videos[3]) == 1
        assert len(list(Path(f"{broken}.parts").glob("*.parquet"))) == 2

    def test_a_folder_that_is_no_run_is_refused(self, model_folder, good, tmp_path, capsys):
        (tmp_path / "features.parquet.parts").mkdir()
        (tmp_path / "features.parquet.parts" / "photo.jpg").touch()
        assert embed(tmp_path / "features.parquet", model_folder, good[0]) == 2
        assert "features.parquet.parts is not a started run" in capsys.readouterr().err

    def test_a_damaged_part_is_named(self, broken, model_folder, good, capsys):
        Path(f"{broken}.parts", "00000001.parquet").write_text("half")
        assert embed(broken, model_folder, *good) == 2
        assert "00000001.parquet is damaged" in capsys.readouterr().err

    def test_killed_while_it_removes_its_parts(self, unbroken, model_folder, good, tmp_path, monkeypatch):
        """The folder of parts disappears at once, so that the next run doesn't find half of it."""
        out, remove = tmp_path / "features.parquet", shutil.rmtree

        def interrupted(folder, **settings):
            if any(Path(folder).rglob("settings.json")):
                next(Path(folder).rglob("settings.json")).unlink()
                raise KeyboardInterrupt
            remove(folder, **settings)

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", interrupted)
            assert embed(out, model_folder, *good, "--batch-size", 1) == 130
        assert embed(out, model_folder, *good, "--batch-size", 1, "--overwrite") == 0
        assert out.read_bytes() == unbroken
        assert clean(tmp_path)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_says_how_to_go_on(self, number, model_folder, good, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(FeatureParts, "write", lambda *args: os.kill(os.getpid(), number))
        assert ended(embed, tmp_path / "features.parquet", model_folder, *good) == 128 + number
        message = "timesformer-hf: interrupted. Finished batches are kept; the same command goes on from there.\n"
        assert capsys.readouterr().err.endswith(message)


def ended(command, *args) -> int:
    """The exit code of a command, which may end by `SystemExit`."""
    try:
        return command(*args)
    except SystemExit as ending:
        return ending.code


class TestFullDisk:
    """Nothing half-written, and what is done isn't lost."""

    @pytest.mark.parametrize("when", ["part", "merge"])
    def test_a_full_disk_is_told_and_leaves_no_output(self, when, model_folder, good, tmp_path, monkeypatch, capsys):
        out, write_table = tmp_path / "features.parquet", pq.ParquetWriter.write_table

        def full(self, table, *args, **kwargs):
            if when == "merge" and "source" in table.column_names:
                return write_table(self, table, *args, **kwargs)
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(pq.ParquetWriter, "write_table", full)
            assert embed(out, model_folder, *good, "--batch-size", 2) == 2
        (message,) = [line for line in capsys.readouterr().err.splitlines() if "No space left on device" in line]
        name = {"part": f"{out}.parts/00000000.parquet", "merge": str(out)}[when]
        assert message.startswith(f"timesformer-hf: {name} can't be written, and no part of it stays: No space left")
        assert "When there is room, repeat the command. Finished batches are kept" in message
        assert [path.name for path in tmp_path.iterdir()] == ["features.parquet.parts"]
        kept = sorted(path.name for path in Path(f"{out}.parts").iterdir())
        parts = [] if when == "part" else ["00000000.parquet", "00000001.parquet"]
        assert kept == [*parts, "execution.json", "settings.json"]
        assert embed(out, model_folder, *good, "--batch-size", 2) == 0
        assert read_features(out).videos == good
