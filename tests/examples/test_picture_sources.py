"""examples/camera_motion/sources.py: what its list promises, and packages made here in place of the registries'."""

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from repository import EXAMPLES, load_example


FOLDER = EXAMPLES / "camera_motion"


@pytest.fixture(scope="module")
def sources():
    return load_example("camera_motion/sources")


@pytest.fixture(scope="module")
def listed(sources):
    return sources.read_pictures(sources.LIST)


class TestList:
    def test_no_source_is_in_two_splits(self, listed):
        splits = defaultdict(set)
        for picture in listed:
            for key in ("package", picture.package), ("author", picture.author), ("content", picture.sha256):
                splits[key].add(picture.split)
        assert [key for key, found in splits.items() if len(found) > 1] == []
        assert set().union(*splits.values()) == {"train", "validation", "test"}

    def test_rows_are_whole(self, sources, listed):
        assert len({(picture.split, picture.file) for picture in listed}) == len(listed)
        for picture in listed:
            assert re.fullmatch(r"[a-z0-9_]+\.jpg", picture.file)
            assert re.fullmatch("[0-9a-f]{64}", picture.sha256)
            assert picture.registry in sources.CLIENTS
            assert picture.stated_for in ("picture", "package")
            assert all((picture.version, picture.path, picture.licence, picture.author))

    def test_train_has_no_gnu_licence(self, listed):
        assert not [picture for picture in listed if picture.split == "train" and "G" in picture.licence.split("-")[0]]

    def test_readme_has_the_table_that_is_printed(self, sources, capsys):
        assert sources.main(["--table"]) == 0
        printed = capsys.readouterr().out.strip()
        assert printed.count("\n") > 60
        assert printed in (FOLDER / "README.md").read_text(encoding="utf-8")


def encoded(image: PIL.Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def smooth(width: int, height: int) -> PIL.Image.Image:
    """Red grows to the right, green downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return PIL.Image.fromarray(pixels)


def rotated(orientation: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return exif


CONTENTS = {
    "large.png": encoded(smooth(800, 500), format="PNG"),
    "small.png": encoded(smooth(300, 200), format="PNG"),
    "turned.jpg": encoded(
        smooth(500, 400),
        format="JPEG",
        quality=95,
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    ),
}


def write_whl(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in CONTENTS.items():
            archive.writestr(f"data/{name}", content)


def write_tgz(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("data/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, content in CONTENTS.items():
            info = tarfile.TarInfo(f"data/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_deb(path: Path) -> None:
    tree = path.with_suffix("")
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: pictures\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: pictures\n"
    )
    (tree / "data").mkdir()
    for name, content in CONTENTS.items():
        (tree / "data" / name).write_bytes(content)
    subprocess.run(["dpkg-deb", "--build", tree, path], check=True, capture_output=True)


WRITERS = {"whl": write_whl, "tgz": write_tgz, "deb": write_deb}


def picture(sources, package: str, name: str, **changes):
    row = {
        "split": "train", "file": f"{package}_{Path(name).stem}.jpg", "registry": "npm", "package": package,
        "version": "1", "path": f"data/{name}", "licence": "CC0-1.0", "stated_for": "picture", "author": "nobody",
        "sha256": hashlib.sha256(CONTENTS.get(name, b"")).hexdigest(),
    }  # fmt: skip
    return sources.Picture(**(row | changes))


@pytest.fixture
def registry(sources, tmp_path, monkeypatch):
    """A registry that has the package "good"; the names of the packages that were asked for."""
    write_tgz(tmp_path / "good.tgz")
    asked = []

    def commands(registry: str, package: str, version: str) -> list[list[str]]:
        asked.append(package)
        copy = f"import shutil; shutil.copy(r'{tmp_path / package}.tgz', '.')"
        return [[sys.executable, "-c", "import sys; sys.exit('first try')"], [sys.executable, "-c", copy]]

    monkeypatch.setattr(sources, "download_commands", commands)
    monkeypatch.setitem(sources.CLIENTS, "npm", sys.executable)
    return asked


class TestReadMembers:
    @pytest.mark.parametrize("kind", WRITERS)
    def test_each_archive(self, sources, tmp_path, kind):
        if kind == "deb" and shutil.which("dpkg-deb") is None:
            pytest.skip("no dpkg-deb here")
        WRITERS[kind](tmp_path / f"pictures.{kind}")
        wanted = {"data/large.png", "data/turned.jpg", "data/link.png", "data/none.png"}
        expected = {f"data/{name}": CONTENTS[name] for name in ("large.png", "turned.jpg")}
        assert sources.read_members(tmp_path / f"pictures.{kind}", wanted) == expected


class TestCollect:
    def test_textures(self, sources, registry, tmp_path):
        pictures = [picture(sources, "good", name) for name in CONTENTS]
        assert sources.collect(pictures, tmp_path / "out") == []
        sizes = {path.stem: PIL.Image.open(path).size for path in (tmp_path / "out" / "train").iterdir()}
        assert sizes == {"good_large": (614, 384), "good_small": (300, 200), "good_turned": (384, 480)}
        turned = np.asarray(PIL.Image.open(tmp_path / "out" / "train" / "good_turned.jpg")).astype(int)
        assert turned[5, 5, 1] > 230 > 25 > turned[-5, -5, 1]  # the camera's bottom is now on the left
        assert turned[5, 5, 0] < 25 < 230 < turned[-5, -5, 0]  # and its left is at the top

    def test_what_is_there_is_not_asked_for(self, sources, registry, tmp_path):
        pictures = [picture(sources, "good", "small.png"), picture(sources, "good", "large.png")]
        sources.collect(pictures, tmp_path)
        before = (tmp_path / "train" / "good_small.jpg").stat().st_mtime_ns
        (tmp_path / "train" / "good_large.jpg").unlink()
        sources.collect(pictures, tmp_path)
        sources.collect(pictures, tmp_path)
        assert registry == ["good", "good"]
        assert (tmp_path / "train" / "good_large.jpg").is_file()
        assert (tmp_path / "train" / "good_small.jpg").stat().st_mtime_ns == before

    def test_problems_name_their_package_and_stop_nothing(self, sources, registry, tmp_path):
        pictures = [
            picture(sources, "absent", "small.png"),
            picture(sources, "good", "small.png", sha256="0" * 64, file="other.jpg"),
            picture(sources, "good", "none.png"),
            picture(sources, "good", "large.png", split="test"),
        ]
        absent, none, other = sorted(sources.collect(pictures, tmp_path))
        assert "absent 1 (1 pictures)" in absent
        assert "could not download it" in absent
        assert "the downloaded good has no data/none.png" in none
        assert "other.jpg: data/small.png in the downloaded good is not the recorded file" in other
        assert [path.name for path in tmp_path.rglob("*.jpg")] == ["good_large.jpg"]

    def test_client_that_is_not_installed(self, sources, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        [problem] = sources.collect([picture(sources, "good", "small.png")], tmp_path)
        assert "`npm` is not installed; install Node.js" in problem


class TestCommand:
    def test_exit_status_and_csv(self, sources, registry, tmp_path, monkeypatch, capsys):
        pictures = [picture(sources, "good", "small.png"), picture(sources, "absent", "small.png")]
        sources.write_pictures(pictures, tmp_path / "list.csv")
        monkeypatch.setattr(sources, "LIST", tmp_path / "list.csv")
        assert sources.main([str(tmp_path / "out")]) == 1
        out, err = capsys.readouterr()
        assert "train 1 of 2, validation 0 of 0, test 0 of 0 pictures" in out
        assert "sources: absent 1 (1 pictures)" in err
        assert sources.read_pictures(tmp_path / "out" / "sources.csv") == pictures[:1]
        shutil.copy(tmp_path / "good.tgz", tmp_path / "absent.tgz")
        assert sources.main([str(tmp_path / "out")]) == 0
        assert sources.read_pictures(tmp_path / "out" / "sources.csv") == pictures

    def test_out_that_cannot_be_a_folder(self, sources, tmp_path, capsys):
        (tmp_path / "file").touch()
        assert sources.main([str(tmp_path / "file" / "out")]) == 2
        assert "file" in capsys.readouterr().err

    def test_nothing_asked(self, sources, capsys):
        with pytest.raises(SystemExit, match="2"):
            sources.main([])
        assert "where the pictures go" in capsys.readouterr().err

    @pytest.mark.parametrize("registry", ["pypi", "npm", "debian"])
    def test_no_command_runs_code_of_a_package(self, sources, registry):
        for command in sources.download_commands(registry, "name", "1"):
            text = " ".join(command)
            assert {"pypi": "--only-binary :all:", "npm": "--ignore-scripts", "debian": "download"}[registry] in text
            assert " install" not in text
