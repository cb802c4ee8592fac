"""Shards of labelled videos: what is in them, and runs that are killed, refused or short of files."""

import csv
import filecmp
import functools
import http.server
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from timesformer_hf.data.hub_videos import VideoStream
from timesformer_hf.data.labelled_videos import group_of_name
from timesformer_hf.output.atomic import alone_in
from timesformer_hf.scale import shards as shards_module
from timesformer_hf.scale.shard_list import iterate_labelled_videos
from timesformer_hf.scale.shards import Shards, write_shards


datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def quick_streams(monkeypatch):
    """`datasets` sleeps for five seconds at the end of a stream that it shuffles, for the sake of its threads."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)


@pytest.fixture
def table(tmp_path) -> Path:
    """23 files of two splits and three classes, whose content is their name."""
    rows = ["path,label,split"]
    for number in range(23):
        name = f"v_film_g{number // 3:02d}_c{number % 3:02d}.mp4"
        (tmp_path / name).write_bytes(name.encode())
        rows.append(f"{name},{('eel', 'cat', 'dog')[number % 3]},{'val' if number % 5 == 0 else 'train'}")
    path = tmp_path / "videos.csv"
    path.write_text("\n".join(rows))
    return path


def contents(folder: Path, split: str, **settings) -> list[tuple]:
    """The bytes and labels of a split, in the order of the stream."""
    return [(video.source, video.labels) for video in VideoStream(folder, split, **settings)]


def expected(table: Path, split: str | None) -> list[tuple]:
    videos = [video for video in iterate_labelled_videos(table) if split in (None, video.split)]
    return sorted((Path(video.name).read_bytes(), video.labels) for video in videos)


def names_of(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


class TestContents:
    def test_every_video_is_once_in_its_split(self, table, tmp_path):
        result = write_shards(table, tmp_path / "shards", shard_size=4)
        assert result == Shards({"train": 18, "validation": 5}, {"train": 5, "validation": 2}, [])
        for split, count in result.videos.items():
            found = contents(tmp_path / "shards", split)
            assert sorted(found) == expected(table, split) != found
            stream = VideoStream(tmp_path / "shards", split)
            assert (stream.num_videos, stream.label_names) == (count, ["cat", "dog", "eel"])
        sizes = [len(names_of(path)) // 3 for path in sorted((tmp_path / "shards").glob("train-*"))]
        assert sizes == [4, 4, 4, 3, 3]
        assert {path.name for path in (tmp_path / "shards").iterdir() if path.suffix != ".tar"} == {"README.md"}
        first = tmp_path / "shards" / "train-00000-of-00005.tar"
        with tarfile.open(first) as tar:
            about = json.load(tar.extractfile(names_of(first)[2]))
            assert Path(about["path"]).read_bytes() == tar.extractfile(names_of(first)[0]).read()

    @pytest.mark.parametrize("processes", [2, 3])
    def test_processes_share_a_stream(self, processes, table, tmp_path):
        """Five shards: their parts are the whole together. The stream of all processes is the same in each of them."""
        write_shards(table, tmp_path / "shards", shard_size=4)
        streams = [
            VideoStream(tmp_path / "shards", "train", buffer_size=3, process_index=index, num_processes=processes)
            for index in range(processes)
        ]
        for epoch in range(2):
            parts = []
            for stream in streams:
                stream.set_epoch(epoch)
                parts.append([(video.source, video.labels) for video in stream])
            assert all(parts)
            assert sorted(row for part in parts for row in part) == expected(table, "train")
        whole = [[video.source for video in stream.of_all_processes()] for stream in streams]
        assert all(names == whole[0] for names in whole)
        assert len(whole[0]) == len(set(whole[0])) == 18

    def test_the_seed_decides_the_order(self, table, tmp_path):
        orders = []
        for number, seed in enumerate((0, 0, 1)):
            write_shards(table, tmp_path / str(number), shard_size=4, seed=seed)
            orders.append(contents(tmp_path / str(number), "train"))
        assert orders[0] == orders[1] != orders[2]

    def test_a_share_of_the_groups_is_held_out(self, table, tmp_path):
        """Clips of one film, which their names tell, are on one side."""
        table.write_text("\n".join(line.rsplit(",", 1)[0] for line in table.read_text().splitlines()))
        write_shards(table, tmp_path / "shards", validation_share=0.3)
        groups = [
            {group_of_name(source.decode()) for source, _ in contents(tmp_path / "shards", split)}
            for split in ("train", "validation")
        ]
        assert all(groups)
        assert not groups[0] & groups[1]
        together = [*contents(tmp_path / "shards", "train"), *contents(tmp_path / "shards", "validation")]
        assert sorted(together) == expected(table, None)

    def test_several_labels(self, table, tmp_path):
        table.write_text(table.read_text().replace(",eel,", ",eel|cat,").replace(",dog,", ",,"))
        write_shards(table, tmp_path / "shards", shard_size=4)
        found = contents(tmp_path / "shards", "train", multi_label=True)
        assert sorted(found) == expected(table, "train")
        assert {len(labels) for _, labels in found} == {0, 1, 2}

    def test_numbers_are_indices_into_the_given_labels(self, table, tmp_path):
        names = ["ant", "bee", "cow", "doe"]
        text = table.read_text()
        for number, label in enumerate(("eel", "cat", "dog")):
            text = text.replace(f",{label},", f",{number},")
        table.write_text(text)
        write_shards(table, tmp_path / "shards", label_names=names)
        assert VideoStream(tmp_path / "shards", "train").label_names == names
        assert {labels for _, labels in contents(tmp_path / "shards", "train")} == {("ant",), ("bee",), ("cow",)}

    def test_files_of_several_kinds(self, table, tmp_path):
        os.rename(tmp_path / "v_film_g00_c01.mp4", tmp_path / "v_film_g00_c01.webm")
        table.write_text(table.read_text().replace("v_film_g00_c01.mp4", "v_film_g00_c01.webm"))
        write_shards(table, tmp_path / "shards")
        assert sorted(contents(tmp_path / "shards", "train")) == expected(table, "train")

    def test_a_folder_of_classes_and_urls(self, table, tmp_path):
        """A folder; and the same videos from a server, of which one isn't there. No signature of a URL is stored."""
        folder = tmp_path / "videos"
        for number, video in enumerate(sorted(tmp_path.glob("*.mp4"))):
            (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            video.rename(folder / "ab"[number % 2] / video.name)
        write_shards(folder, tmp_path / "of_folder")
        rows = [f"{path.relative_to(folder).as_posix()},{path.parent.name}" for path in sorted(folder.rglob("*.mp4"))]
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        handler.func.log_message = lambda *arguments: None
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_address[1]}"
            urls = tmp_path / "urls.csv"
            urls.write_text(
                "\n".join(
                    ["path,label", *(f"{address}/{row.replace(',', '?sig=1,')}" for row in [*rows, "a/gone.mp4,a"])]
                )
            )
            result = write_shards(urls, tmp_path / "of_urls")
            server.shutdown()
        ((left_out, reason),) = result.left_out
        assert left_out == f"{address}/a/gone.mp4?..."
        assert not any(b"sig=1" in path.read_bytes() for path in (tmp_path / "of_urls").iterdir())
        assert "404" in reason
        assert sorted(contents(tmp_path / "of_urls", "train")) == sorted(contents(tmp_path / "of_folder", "train"))

    def test_videos_of_a_store(self, tmp_path):
        fsspec = pytest.importorskip("fsspec")
        fsspec.filesystem("memory").pipe({"/bucket/a.mp4": b"a", "/bucket/b.mp4": b"b"})
        rows = ["path,label", *(f"memory://bucket/{name}" for name in ("a.mp4,cat", "b.mp4,dog", "c.mp4,dog"))]
        (tmp_path / "videos.csv").write_text("\n".join(rows))
        result = write_shards(tmp_path / "videos.csv", tmp_path / "shards")
        assert sorted(contents(tmp_path / "shards", "train")) == [(b"a", ("cat",)), (b"b", ("dog",))]
        assert [path for path, _ in result.left_out] == ["memory://bucket/c.mp4"]


class TestRuns:
    def test_a_killed_run_goes_on(self, table, tmp_path):
        """It writes only what is missing, and the shards are those of an unbroken run, byte for byte."""
        write_shards(table, tmp_path / "whole", shard_size=4)
        code = f"""
import os, signal, tarfile
from timesformer_hf.scale.shards import write_shards

addfile, calls = tarfile.TarFile.addfile, []

def killed(*arguments):
    calls.append(arguments)
    if len(calls) == 30:
        os.kill(os.getpid(), signal.SIGKILL)
    addfile(*arguments)

tarfile.TarFile.addfile = killed
write_shards({str(table)!r}, {str(tmp_path / "killed")!r}, shard_size=4, num_workers=1)
"""
        assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == -signal.SIGKILL
        done = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.tar")}
        assert len(done) == 2
        write_shards(table, tmp_path / "killed", shard_size=4)
        assert all(path.stat().st_mtime_ns == then for path, then in done.items())
        names = sorted(path.name for path in (tmp_path / "whole").iterdir())
        assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == names
        assert filecmp.cmpfiles(tmp_path / "whole", tmp_path / "killed", names, shallow=False) == (names, [], [])

    def test_what_could_not_be_read_before_a_stop_is_listed_too(self, table, tmp_path, monkeypatch):
        for name in ("v_film_g00_c01.mp4", "v_film_g05_c02.mp4", "v_film_g07_c00.mp4"):
            (tmp_path / name).unlink()
        write_shard, done = shards_module._write_shard, []

        def interrupted(shard, *arguments):
            if len(done) == 4:
                raise KeyboardInterrupt
            done.append(write_shard(shard, *arguments))

        monkeypatch.setattr(shards_module, "_write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_shards(table, tmp_path / "shards", shard_size=4, num_workers=1)
        monkeypatch.undo()
        result = write_shards(table, tmp_path / "shards", shard_size=4)
        assert {Path(path).name for path, _ in result.left_out} == {
            "v_film_g00_c01.mp4",
            "v_film_g05_c02.mp4",
            "v_film_g07_c00.mp4",
        }
        assert all("No such file" in reason for _, reason in result.left_out)
        assert (
            sum(result.videos.values())
            == 20
            == sum(VideoStream(tmp_path / "shards", split).num_videos for split in result.videos)
        )
        with (tmp_path / "shards" / "_left_out.csv").open(newline="") as file:
            assert [(row["path"], row["reason"]) for row in csv.DictReader(file)] == result.left_out

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"shard_size": 5}, "shard_size was 4, now 5"),
            ({"shard_size": 4, "seed": 1}, "seed was 0, now 1"),
        ],
    )
    def test_other_settings_are_refused(self, settings, message, table, tmp_path, monkeypatch):
        monkeypatch.setattr(shards_module, "_write_all", self.fail)
        with pytest.raises(OSError, match="no reason"):
            write_shards(table, tmp_path / "shards", shard_size=4)
        with pytest.raises(ValueError, match=message):
            write_shards(table, tmp_path / "shards", **settings)
        table.write_text(table.read_text() + "\nx.mp4,cat,train")
        with pytest.raises(ValueError, match=r"bytes was \d+, now \d+; modified"):
            write_shards(table, tmp_path / "shards", shard_size=4)

    @staticmethod
    def fail(*arguments):
        raise OSError("no reason")

    def test_finished_and_foreign_folders_are_refused(self, table, tmp_path):
        write_shards(table, tmp_path / "shards")
        with pytest.raises(FileExistsError, match="has finished shards; give another folder"):
            write_shards(table, tmp_path / "shards")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("")
        with pytest.raises(FileExistsError, match=r"is not empty: it has notes\.txt"):
            write_shards(table, tmp_path / "mine")

    @pytest.mark.skipif(os.name == "nt", reason="needs locks of folders")
    def test_a_second_run_at_the_same_time_is_refused(self, table, tmp_path):
        (tmp_path / "shards").mkdir()
        with alone_in(tmp_path / "shards"), pytest.raises(BlockingIOError, match="belongs to a run that is still"):
            write_shards(table, tmp_path / "shards")

    def test_a_shard_that_the_disk_has_changed_is_an_error(self, table, tmp_path, monkeypatch):
        def add(tar, name, content):
            checksum = original(tar, name, content)
            if name.endswith(".cls"):
                tar.fileobj.seek(-512, os.SEEK_CUR)
                tar.fileobj.write(b"9")
                tar.fileobj.seek(511, os.SEEK_CUR)
            return checksum

        original = shards_module._add
        monkeypatch.setattr(shards_module, "_add", add)
        with pytest.raises(shards_module.ShardError, match="doesn't contain what was written"):
            write_shards(table, tmp_path / "shards")
        assert not list((tmp_path / "shards").glob("*.tar"))


class TestSources:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("path,label\n", "has no rows"),
            ("path,kind\na.mp4,cat\n", "has no column of labels"),
            ("path,label\na.mp4,cat\nb.mp4,cat\n", "has one class only, cat"),
            ("path,label\na.mp4,cat\nb.mp4,\n", r"b\.mp4 in .*videos\.csv has no label"),
            ("path,label,split\na.mp4,cat,train/1\nb.mp4,dog,train\n", "a split must have a name of letters"),
            ("path,label\na.mp4,cat\nb.mp4,dog\n", r"None of the videos can be read, for example .*\.mp4"),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, text, message, tmp_path):
        (tmp_path / "videos.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            write_shards(tmp_path / "videos.csv", tmp_path / "shards")
        assert not list((tmp_path / "shards").glob("*.md"))

    def test_splits_and_a_share_exclude_each_other(self, table, tmp_path):
        with pytest.raises(ValueError, match="has splits, for example validation; leave --validation-share out"):
            write_shards(table, tmp_path / "shards", validation_share=0.1)

    def test_a_missing_source(self, tmp_path):
        for name in ("videos", "videos.csv"):
            with pytest.raises(FileNotFoundError, match="There is no"):
                write_shards(tmp_path / name, tmp_path / "shards")

    def test_a_table_is_read_row_by_row(self, table):
        """So one of any length takes no memory: the rows before a broken one come first."""
        table.write_text(table.read_text() + "\none,column,too,many")
        videos = iterate_labelled_videos(table)
        assert len([next(videos) for _ in range(23)]) == 23
        with pytest.raises(ValueError, match="row 24 has more or fewer columns"):
            next(videos)
