"""
The virtual camera of examples/camera_motion. Its pictures are checked by measuring the movement in them again, by phase
correlation and by comparing pixels, without its own geometry.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch


av = pytest.importorskip("av", reason="clips are encoded and decoded")
REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "examples" / "camera_motion"
SAMPLE = REPOSITORY / "timesformer_hf" / "samples" / "big_buck_bunny.mp4"


@pytest.fixture(scope="module", autouse=True)
def _example_on_path():
    sys.path.insert(0, str(EXAMPLE))
    yield
    sys.path.remove(str(EXAMPLE))


@pytest.fixture(scope="module")
def camera():
    return importlib.import_module("virtual_camera")


@pytest.fixture(scope="module")
def rendering():
    return importlib.import_module("rendering")


@pytest.fixture(scope="module")
def texture(rendering):
    """A frame of the sample film, which no training has seen."""
    with av.open(str(SAMPLE)) as container:
        return rendering.make_texture(next(container.decode(video=0)).to_image())


def shift_between(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """How far the content of a picture has come, in whole pixels to the right and down, by phase correlation."""
    window = np.hanning(first.shape[0])[:, None] * np.hanning(first.shape[1])
    spectrum = np.fft.fft2(second * window) * np.conj(np.fft.fft2(first * window))
    peak = np.fft.ifft2(spectrum / (np.abs(spectrum) + 1e-9)).real
    row, column = np.unravel_index(peak.argmax(), peak.shape)
    rows, columns = peak.shape
    return (column + columns // 2) % columns - columns // 2, (row + rows // 2) % rows - rows // 2


def views_of(camera, label: str, seed: int = 0, frames: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    path = camera.random_path(rng, label, np.linspace(0, 1, frames), camera.EASY)
    return camera.random_views(rng, path, camera.EASY)


def picture(rendering, texture, views: np.ndarray, side: int) -> torch.Tensor:
    return rendering.render(texture, rendering.Shot(views, 1.0), (side, side), np.zeros(2), 0.5, supersampling=2)


class TestVirtualCamera:
    @pytest.mark.parametrize(
        ("label", "right", "down"),
        [("pan_right", -1, 0), ("pan_left", 1, 0), ("tilt_down", 0, -1), ("tilt_up", 0, 1)],
    )
    def test_content_travels_against_the_camera(self, camera, rendering, texture, label, right, down):
        for seed in range(3):
            views = views_of(camera, label, seed, frames=30)
            frames = picture(rendering, texture, views, 64).mean(1).numpy()
            steps = np.array([shift_between(frames[i], frames[i + 3]) for i in range(9, 21, 3)])
            moved = steps.sum(axis=0)
            assert moved @ (right, down) > 3
            assert abs(moved @ (down, right)) < abs(moved @ (right, down)) / 3

    @pytest.mark.parametrize(("label", "factor"), [("zoom_in", 1), ("zoom_out", -1)])
    def test_zoom_scales_about_the_middle(self, camera, label, factor):
        moved = camera.displacements(views_of(camera, label), 5, 5, 1.0).sum(axis=0).reshape(5, 5, 2)
        points = camera.frame_points(5, 5).reshape(5, 5, 2)
        assert np.abs(moved[2, 2]).max() < 1e-2
        assert (factor * moved * points).sum(-1)[0, 0] > 0.1

    @pytest.mark.parametrize(("label", "factor"), [("roll_clockwise", -1), ("roll_counterclockwise", 1)])
    def test_content_turns_against_the_camera(self, camera, rendering, texture, label, factor):
        """With y down a clockwise turn goes from right to down. The last frame is the first one, turned by PIL."""
        views = views_of(camera, label)
        frames = picture(rendering, texture, views[[0, -1]], 96)
        first = PIL.Image.fromarray(frames[0].byte().permute(1, 2, 0).numpy())
        target = frames[1].mean(0).numpy()
        circle = np.hypot(*np.mgrid[-47.5:48, -47.5:48]) < 40

        def difference(degrees: float) -> float:
            turned = np.asarray(first.rotate(degrees, PIL.Image.Resampling.BILINEAR)).mean(-1)
            return np.abs(turned - target)[circle].mean()

        best = min(range(-60, 61, 2), key=lambda degrees: difference(-degrees))
        # PIL turns counter-clockwise by positive angles; `best` counts clockwise
        assert factor * best > 10
        assert difference(-best) < 0.4 * difference(0)

    def test_displacements_are_those_of_the_pixels(self, camera, rendering, texture):
        """What is in the middle of one frame is found where the displacements say, to a pixel."""
        views = views_of(camera, "pan_right", frames=20)
        frames = picture(rendering, texture, views, 64).mean(1).numpy()
        expected = camera.displacements(views, 1, 1, 1.0)[8:12, 0].sum(axis=0) * 32
        assert np.abs(np.array(shift_between(frames[8], frames[12])) - expected).max() < 1

    def test_shake_goes_nowhere(self, camera):
        path = camera.random_path(np.random.default_rng(0), "shake", np.linspace(0, 1, 30), camera.FULL)
        times = np.linspace(-1, 1, 30)
        assert np.abs(np.polyfit(times, path, 1)[0]).max() < 1e-9
        assert path[:, 0].std() > 0.01

    def test_curriculum(self, camera):
        assert camera.between(camera.EASY, camera.FULL, 0.0) == camera.EASY
        assert camera.between(camera.EASY, camera.FULL, 1.0) == camera.FULL

    def test_clips_depend_on_the_seed_alone(self, camera, rendering, texture):
        def clip(seed):
            rng = np.random.default_rng(seed)
            return rendering.random_clip(rng, lambda rng: texture, "shake", camera.FULL, 4, (32, 48))[0]

        assert clip(1).shape == (4, 3, 32, 48)
        assert clip(1).dtype == torch.uint8
        assert torch.equal(clip(1), clip(1))
        assert not torch.equal(clip(1), clip(2))

    def test_no_pictures(self, rendering, tmp_path):
        with pytest.raises(ValueError, match=r"no \.jpg or \.png picture"):
            rendering.load_textures(tmp_path)


class TestSqueezedFrames:
    def test_a_wide_shot_squeezed_is_the_wide_shot_scaled(self, camera, rendering, texture):
        """Rendered into a square, or rendered wide and then scaled by torch: the same picture, but for the sampling."""
        views = views_of(camera, "pan_right")[:1]
        shot = rendering.Shot(views, 2.0)
        squeezed = rendering.render(texture, shot, (64, 64), np.zeros(2), 0.4, supersampling=4)
        wide = rendering.render(texture, shot, (64, 128), np.zeros(2), 0.4, supersampling=4)
        scaled = torch.nn.functional.avg_pool2d(wide, (1, 2))
        unlike = rendering.render(texture, rendering.Shot(views, 1.0), (64, 64), np.zeros(2), 0.4, supersampling=4)
        assert (squeezed - scaled).abs().mean() < 0.2 * (unlike - scaled).abs().mean()

    def test_motion_is_in_parts_of_the_frame(self, camera):
        """A pan of a frame twice as wide as high takes half as large a part of its width."""
        views = np.array([np.eye(3), camera.move(0.1, 0.0)])
        assert camera.displacements(views, 1, 1, 1.0)[0, 0] == pytest.approx([-0.1, 0])
        assert camera.displacements(views, 1, 1, 2.0)[0, 0] == pytest.approx([-0.05, 0])


class TestPrograms:
    """Each on two pictures, for a few steps."""

    @pytest.fixture
    def pictures(self, tmp_path):
        with av.open(str(SAMPLE)) as container:
            frame = next(container.decode(video=0)).to_image()
        for split in ("train", "validation", "test"):
            folder = tmp_path / "pictures" / split
            folder.mkdir(parents=True)
            frame.save(folder / "frame.jpg")
        return tmp_path / "pictures"

    def test_pretraining_goes_on_where_it_was(self, pictures, tmp_path, monkeypatch, capsys):
        from timesformer_hf import TimesformerForVideoClassification, TimesformerVideoProcessor

        pretrain = importlib.import_module("pretrain")
        out = tmp_path / "model"
        common = ["pretrain.py", str(pictures), str(out), "--size", "32", "--width", "32", "--depth", "1"]
        common += ["--heads", "2", "--batch-size", "4", "--workers", "0", "--device", "cpu", "--save-steps", "1"]
        monkeypatch.setattr(pretrain, "save", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        monkeypatch.setattr(sys, "argv", [*common, "--steps", "2"])
        with pytest.raises(KeyboardInterrupt):
            pretrain.main()
        monkeypatch.undo()
        monkeypatch.setattr(sys, "argv", [*common, "--steps", "3"])
        assert pretrain.main() == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        assert [row["step"] for row in rows] == [1, 2, 3]
        model = TimesformerForVideoClassification.from_pretrained(out)
        assert model.config.num_labels == 10
        assert TimesformerVideoProcessor.from_pretrained(out).clip_size == (32, 32)

    def test_data_are_made_once(self, pictures, tmp_path, monkeypatch):
        make_data = importlib.import_module("make_data")
        shown, write_video = [], make_data.write_video

        def seen(path, frames, crf):
            shown.append(frames)
            write_video(path, frames, crf)

        monkeypatch.setattr(make_data, "write_video", seen)
        job = (pictures, tmp_path / "clips", "test", "zoom_in", 0, 0)
        make_data.make_clip(job)
        path = tmp_path / "clips" / "test" / "zoom_in" / "00000.mp4"
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            assert sum(1 for _ in container.decode(video=0)) == make_data.NUM_FRAMES
        make_data.make_clip(job)
        assert len(shown) == 1
        path.unlink()
        make_data.make_clip(job)
        assert torch.equal(*shown)
