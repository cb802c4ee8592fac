"""`timesformer-hf embed` on the CPU, and videos for it."""

from pathlib import Path

from clips import moving_pattern, write_video

from timesformer_hf.cli import main


def write_five_videos(folder: Path) -> list[str]:
    """Five videos, in an order that isn't the alphabet's, the fourth of them broken."""
    names = ["c", "a", "e", "bad", "b"]
    for i, name in enumerate(names):
        write_video(folder / f"{name}.mp4", moving_pattern(12 + 8 * i, *((48, 64) if i % 2 else (64, 40))))
    (folder / "bad.mp4").write_text("no video at all")
    return [str(folder / f"{name}.mp4") for name in names]


def embed(out: Path | str, model: str, *arguments) -> int:
    """The exit code."""
    return main(["embed", "--out", str(out), "--model", model, "--device", "cpu", *map(str, arguments)])
