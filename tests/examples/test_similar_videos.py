"""examples/similar_videos.py: the search in a table of features."""

import shutil

import pytest
import torch
from embedding import embed, write_five_videos
from repository import load_example
from tiny_models import make_model, save_classifier

from timesformer_hf.inference.feature_table import read_features


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


@pytest.fixture(scope="module")
def example():
    return load_example("similar_videos")


class TestSimilarVideos:
    @pytest.fixture
    def table(self, model_folder, good, tmp_path) -> str:
        embed(tmp_path / "features.parquet", model_folder, *good)
        return str(tmp_path / "features.parquet")

    def test_a_video_of_the_table_is_compared_with_the_others(self, example, table, good, capsys):
        assert example.main([table, good[0], "--top-k", "2"]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        features = torch.tensor(read_features(table).features)
        cosines = torch.cosine_similarity(features[0], features[1:])
        ranked = sorted(zip(cosines.tolist(), good[1:], strict=True), reverse=True)[:2]
        assert lines == [[f"{cosine:.4f}", video] for cosine, video in ranked]

    def test_a_new_video_is_embedded_and_compared(self, example, table, good, tmp_path, capsys):
        new = str(shutil.copy(good[2], tmp_path / "new.mp4"))
        assert example.main([table, new, "--top-k", "1"]) == 0
        output = capsys.readouterr()
        assert output.out.split() == ["1.0000", good[2]]
        assert output.err == ""

    def test_mistakes_are_told(self, example, table, videos, model_folder, tmp_path, capsys):
        def error(*arguments) -> str:
            assert example.main(list(arguments)) == 2
            return capsys.readouterr().err

        assert "nowhere.mp4 is neither in the table nor a file" in error(table, "nowhere.mp4")
        assert "bad.mp4: can't be decoded" in error(table, videos[3])
        assert "There is no file" in error(str(tmp_path / "none.parquet"), videos[0])
        frames = str(tmp_path / "frames.parquet")
        embed(frames, model_folder, videos[0], "--level", "frame")
        assert "the table has features of level frame; embed the videos with --level clip" in error(frames, videos[0])
        empty = str(tmp_path / "empty.parquet")
        pq.write_table(pq.read_table(table).slice(0, 0), empty)
        assert "the table is empty" in error(empty, videos[0])

    def test_a_model_that_has_changed_is_refused(self, example, model_folder, good, tmp_path, capsys):
        folder, table = shutil.copytree(model_folder, tmp_path / "model"), str(tmp_path / "features.parquet")
        embed(table, str(folder), *good[1:])
        model = make_model()
        model.timesformer.layernorm.weight.data[0] += 1
        model.save_pretrained(folder)
        assert example.main([table, good[0]]) == 2
        assert "not the one that made the table: weights was " in capsys.readouterr().err
