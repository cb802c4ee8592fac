"""Which videos a command is given."""

from pathlib import Path

from timesformer_hf.video.video_folders import find_videos


def test_a_video_that_comes_again_is_listed_once(tmp_path, monkeypatch):
    videos = [str(tmp_path / f"{name}.mp4") for name in ("c", "a", "e", "d", "b")]
    for video in videos:
        Path(video).touch()
    monkeypatch.chdir(tmp_path)
    name = "a.mp4"
    url = "https://example.com/a.mp4"
    assert find_videos([name, url, ".", f"./{name}", videos[1], url])[:2] == [name, url]
    assert len(find_videos([name, url, ".", f"./{name}", videos[1], url])) == 6
