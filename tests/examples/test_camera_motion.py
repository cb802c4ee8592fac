"""
The shipped camera-motion model, and the virtual camera that it learnt from. The camera's pictures are checked by
measuring the movement in them again, by phase correlation and by comparing pixels, without its own geometry.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from repository import EXAMPLES, FILM
from safetensors.torch import load_file


av = pytest.importorskip("av", reason="clips are encoded and decoded")
EXAMPLE = EXAMPLES / "camera_motion"


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
    with av.open(str(FILM)) as container:
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

    def test_curriculum_goes_from_easy_to_full(self, camera):
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

    def test_no_pictures_are_told(self, rendering, tmp_path):
        with pytest.raises(ValueError, match=r"no \.jpg or \.png picture"):
            rendering.load_textures(tmp_path)


class TestFaintBackground:
    @pytest.mark.parametrize(("label", "least"), [("static", 0.0), ("pan_left", 0.3)])
    def test_contrast_of_the_background_has_its_bounds(self, label, least, camera, rendering, texture):
        """Of what lies behind the objects, which are left out here: between `least` and 0.6 of what it was."""
        found = []
        for seed in range(12):
            clips = []
            for faint in (0.0, 1.0):
                conditions = rendering.Conditions(1.0, 0.0, supersampling=1, faint=faint)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(rendering, "add_object", lambda rng, frames, *others: frames)
                    patch.setattr(rendering, "wear", lambda rng, frames, damage: frames)
                    rng = np.random.default_rng(seed)
                    clip, _ = rendering.random_clip(
                        rng, lambda rng: texture, label, camera.EASY, 4, (48, 48), conditions
                    )
                clips.append(clip)
            found.append(float(clips[1].std() / clips[0].std()))
        assert least - 1e-3 <= min(found) < least + 0.2
        assert 0.4 < max(found) <= 0.6 + 1e-3


class TestStir:
    def test_a_part_moves_and_the_rest_stays(self, camera, rendering, texture):
        """A part at the left that has come to the right; far from it nothing has changed."""
        shot = rendering.Shot(np.stack([np.eye(3)] * 2), 1.0)
        centers = np.array([[[-0.5, 0.0]]] * 2)
        stir = rendering.Stir(centers, np.array([[[0.0, 0.0]], [[0.15, 0.0]]]), np.array([0.25]))
        frames = rendering.render(texture, shot, (96, 96), np.zeros(2), 0.5, 2, stir).mean(1).numpy()
        still = rendering.render(texture, shot, (96, 96), np.zeros(2), 0.5, 2).mean(1).numpy()
        assert np.abs(frames[0] - still[0]).max() < 0.1
        assert np.abs(frames[1] - still[1])[:, 60:].max() < 0.1
        middle = frames[1, 46:50, 23:25]  # of the part; 0.15 half frames are 7.2 pixels
        assert np.abs(middle - still[1, 46:50, 16:18]).mean() < 0.3 * np.abs(middle - still[1, 46:50, 23:25]).mean()

    def test_random_stirring_moves(self, camera, rendering, texture):
        conditions = [rendering.Conditions(0.0, 0.0, 1, stirring=stirring) for stirring in (0.0, 1.0)]
        clips = [
            rendering.random_clip(
                np.random.default_rng(3), lambda rng: texture, "static", camera.EASY, 8, (48, 48), row
            )[0]
            for row in conditions
        ]
        motion = [float((clip[1:].float() - clip[:-1].float()).abs().mean()) for clip in clips]
        assert motion[1] > 3 * motion[0]


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
    """Each on a picture a split, for a few steps."""

    @pytest.fixture
    def pictures(self, tmp_path):
        with av.open(str(FILM)) as container:
            frame = next(container.decode(video=0)).to_image()
        for split in ("train", "validation", "test"):
            folder = tmp_path / "pictures" / split
            folder.mkdir(parents=True)
            frame.save(folder / "frame.jpg")
        return tmp_path / "pictures"

    @staticmethod
    def run(program, monkeypatch, *words) -> int:
        monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, words)])
        return program.main()

    @pytest.fixture
    def small(self, pictures, tmp_path):
        words = [pictures, tmp_path / "model", "--size", "32", "--width", "32", "--depth", "1", "--heads", "2"]
        return [*words, "--batch-size", "4", "--workers", "0", "--device", "cpu", "--save-steps", "1", "--steps", "3"]

    def test_pretraining_goes_on_where_it_was(self, small, tmp_path, monkeypatch, capsys):
        """Interrupted after its second checkpoint, it goes on with the weights that are in it."""
        from timesformer_hf import TimesformerForVideoClassification, TimesformerVideoProcessor

        pretrain = importlib.import_module("pretrain")
        save_checkpoint, load_state_dict, same = pretrain.save_checkpoint, pretrain.MotionTraining.load_state_dict, []

        def save_and_stop(path, **state):
            save_checkpoint(path, **state)
            if state["training"]["done"] == 2:
                raise KeyboardInterrupt

        def load(training, state):
            load_state_dict(training, state)
            stored = torch.load(tmp_path / "model.checkpoint.pt", weights_only=True)["training"]["model"]
            same.extend(torch.equal(stored[name], tensor) for name, tensor in training.model.state_dict().items())

        with monkeypatch.context() as patch:
            patch.setattr(pretrain, "save_checkpoint", save_and_stop)
            with pytest.raises(KeyboardInterrupt):
                self.run(pretrain, monkeypatch, *small)
        assert not (tmp_path / "model").exists()
        monkeypatch.setattr(pretrain.MotionTraining, "load_state_dict", load)
        assert self.run(pretrain, monkeypatch, *small) == 0
        assert same
        assert all(same)
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        assert [row["step"] for row in rows] == [1, 2, 3]
        model = TimesformerForVideoClassification.from_pretrained(tmp_path / "model")
        assert model.config.num_labels == 10
        assert TimesformerVideoProcessor.from_pretrained(tmp_path / "model").clip_size == (32, 32)

    def test_mistakes_in_pretraining_are_told(self, small, tmp_path, monkeypatch):
        import timesformer_hf

        pretrain = importlib.import_module("pretrain")
        with pytest.raises(ValueError, match="--size 40 must be a multiple of 16"):
            self.run(pretrain, monkeypatch, *small, "--size", "40")
        with pytest.raises(ValueError, match="already has its own width, heads, depth; leave these arguments out"):
            self.run(pretrain, monkeypatch, *small, "--model", timesformer_hf.CAMERA_MOTION)
        with pytest.raises(SystemExit):
            self.run(pretrain, monkeypatch, *small, "--save-steps", "0")
        torch.save({"settings": {"seed": 1}}, tmp_path / "model.checkpoint.pt")
        with pytest.raises(ValueError, match=r"is from a training with \{'seed': 1\}, but this one has"):
            self.run(pretrain, monkeypatch, *small)

    def test_schemes_side_by_side(self, pictures, tmp_path, monkeypatch, capsys):
        compare = importlib.import_module("compare_schemes")
        monkeypatch.setattr(compare, "TEST_BATCHES", 1)
        words = [pictures, tmp_path, "--steps", "1", "--still-steps", "1", "--batch-size", "2", "--workers", "0"]
        assert self.run(compare, monkeypatch, *words, "--seeds", "1") == 0
        table = (tmp_path / "table1.md").read_text()
        assert table in capsys.readouterr().out
        results = json.loads((tmp_path / "results.json").read_text())
        scheme, *_, motion, picture = table.splitlines()[2].strip("| ").split(" | ")
        assert float(motion) == pytest.approx(100 * results["camera motion"]["0"][scheme], abs=0.05)
        assert float(picture) == pytest.approx(100 * results["which picture"]["0"][scheme], abs=0.05)
        monkeypatch.setattr(compare, "compare", None)  # what is there isn't done again
        assert self.run(compare, monkeypatch, *words, "--seeds", "1") == 0
        with pytest.raises(ValueError, match="has results of other settings"):
            self.run(compare, monkeypatch, *words, "--steps", "2")

    def test_every_set_of_data_has_every_label(self, pictures, tmp_path, monkeypatch):
        make_data = importlib.import_module("make_data")
        words = [pictures, tmp_path / "clips", "--train", "1", "--others", "1", "--workers", "1"]
        assert self.run(make_data, monkeypatch, *words) == 0
        for name in make_data.SETS:
            labels = {path.parent.name for path in (tmp_path / "clips" / name).glob("*/00000.mp4")}
            assert labels == set(make_data.LABELS)
        with pytest.raises(ValueError, match="has clips of --seed 0, not of 1; give another folder"):
            self.run(make_data, monkeypatch, *words, "--seed", "1")

    def test_all_in_order(self, tmp_path):
        """make_model.sh with a stand-in for Python: in order, on from where it was, and nothing twice."""
        log, work = tmp_path / "log", tmp_path / "work"
        stand_in = tmp_path / "python"
        stand_in.write_text(
            f"""#!/bin/bash
[ "$1" != -m ] || shift 2 # python -m timesformer_hf COMMAND
echo "$(basename "$1") ${{*:2}}" >> {log}
case "$1" in
*sources.py) exit 1 ;;
*pretrain.py) mkdir -p "$3" ;;
finetune) mkdir -p {work}/model; [ -f {tmp_path}/broken ] || touch {work}/model/results.json ;;
evaluate) mkdir -p "${{!#}}"; touch "${{!#}}/results.json" ;;
esac
[ ! -f {tmp_path}/broken ] || [[ "$1" != finetune ]]
"""
        )
        stand_in.chmod(0o755)

        def run(*words) -> list[list[str]]:
            log.write_text("")
            environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
            code = subprocess.run([EXAMPLE / "make_model.sh", work, *words], env=environment).returncode
            return [code, *(line.split() for line in log.read_text().splitlines())]

        (tmp_path / "broken").touch()
        code, *lines = run()
        assert code
        names = ["sources.py", "pretrain.py", "pretrain.py", "make_data.py", "finetune"]
        assert [line[0] for line in lines] == names
        assert "--resume" not in lines[-1]
        (tmp_path / "broken").unlink()
        code, *lines = run()
        assert not code
        names = ["sources.py", "make_data.py", "finetune", "evaluate", "evaluate", "evaluate"]
        assert [line[0] for line in lines] == names
        assert "--resume" in lines[2]
        code, *lines = run("--ship")
        assert not code
        assert [line[0] for line in lines] == ["sources.py", "make_data.py", "ship.py"]

    def test_shipping(self, tmp_path, monkeypatch):
        """From the folder of make_model.sh to half-precision weights and a card with what was measured."""
        pa = pytest.importorskip("pyarrow", reason="the results of videos are a Parquet file")
        ship = importlib.import_module("ship")
        shutil.copytree(ship.SHIPPED, tmp_path / "model")
        training = {"training_clips": 123, "seed": 7, "num_train_epochs": 3.0}
        (tmp_path / "model" / "results.json").write_text(
            json.dumps({"validation": {"accuracy": 0.875}, "settings": training})
        )
        for size, steps in (("32", 11), ("64", 22)):
            (tmp_path / f"motion-{size}").mkdir()
            (tmp_path / f"motion-{size}" / "pretraining.json").write_text(json.dumps([{"step": 1}, {"step": steps}]))
        (tmp_path / "pictures" / "train").mkdir(parents=True)
        for name in ship.SETS:
            results = {"top_1_accuracy": 0.5, "top_1_interval": [0.25, 0.75], "mean_class_accuracy": 0.5}
            results |= {"expected_calibration_error": 0.125, "classes": [{"label": "static", "videos": 2}]}
            (tmp_path / name).mkdir()
            (tmp_path / name / "results.json").write_text(json.dumps(results))
            table = pa.table({"label": ["static", "static"], "prediction": ["static", "shake"]})
            ship.parquet.write_table(table, tmp_path / name / "videos.parquet")
        monkeypatch.setattr(ship, "SHIPPED", tmp_path / "shipped")
        assert self.run(ship, monkeypatch, tmp_path) == 0
        card = (tmp_path / "shipped" / "README.md").read_text()
        assert "| `static` | 1 |  |  |  |  |  |  |  |  | 1 |" in card
        assert "| 50.0% | 25.0% to 75.0% | 50.0% | 12.5% |" in card
        for words in (
            "the accuracy is 87.5%",
            "11 batches of 64",
            "22 batches of 64 pixels",
            "123 H.264 clips",
            "(seed 7)",
        ):
            assert words in " ".join(card.split())
        weights = load_file(tmp_path / "shipped" / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
        assert json.loads((tmp_path / "shipped" / "config.json").read_text())["dtype"] == "float32"

    @pytest.mark.parametrize("name", ["train", "test"])
    def test_data_are_made_once(self, name, pictures, tmp_path, monkeypatch):
        """What a clip shows depends on the seed and its name alone, not on what was made before it."""
        make_data = importlib.import_module("make_data")
        shown, write_video = [], make_data.write_video

        def seen(path, frames, crf):
            shown.append(frames)
            write_video(path, frames, crf)

        monkeypatch.setattr(make_data, "write_video", seen)
        job = (pictures, tmp_path / "clips", name, "zoom_in", 0, 0)
        make_data.make_clip(job)
        path = tmp_path / "clips" / name / "zoom_in" / "00000.mp4"
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            assert sum(1 for _ in container.decode(video=0)) == make_data.NUM_FRAMES
        make_data.make_clip(job)
        assert len(shown) == 1
        path.unlink()
        make_data.make_clip((pictures, tmp_path / "clips", name, "shake", 1, 0))
        make_data.make_clip(job)
        assert torch.equal(shown[0], shown[2])


@pytest.fixture(scope="module")
def classifier():
    from transformers import pipeline

    import timesformer_hf

    return pipeline("video-classification", model=timesformer_hf.CAMERA_MOTION)


class TestShippedModel:
    def test_sample_film(self, classifier):
        """The camera rises slowly: in all corners, where nobody acts, the content sinks."""
        with av.open(str(FILM)) as container:
            frames = [frame.to_ndarray(format="gray").astype(float) for frame in container.decode(video=0)]
        start = (len(frames) - 29) // 2
        first, last = frames[start], frames[start + 28]
        corners = [(slice(y, y + 100), slice(x, x + 100)) for y in (0, 140) for x in (0, 326)]
        shifts = [shift_between(first[corner], last[corner]) for corner in corners]
        assert all(down >= 4 and down > right >= 0 for right, down in shifts)
        best = classifier(str(FILM))[0]
        assert best["label"] == "tilt_up"
        assert best["score"] > 0.5

    def test_every_label_on_a_film_it_has_never_seen(self, classifier, camera, rendering, texture, tmp_path):
        """Six H.264 clips of each label, from a frame of the sample film; nine in ten must be right."""
        write_video = importlib.import_module("make_data").write_video
        right, wrong = 0, []
        for label in camera.LABELS:
            for seed in range(6):
                rng = np.random.default_rng(seed)
                conditions = rendering.Conditions(foreground=0.0, damage=0.5, supersampling=1)
                motion = camera.FULL
                clip, _ = rendering.random_clip(rng, lambda rng: texture, label, motion, 30, (84, 112), conditions)
                path = tmp_path / f"{label}-{seed}.mp4"
                write_video(path, clip, crf=23)
                found = classifier(str(path), top_k=1)[0]["label"]
                right += found == label
                wrong += [(label, found)] if found != label else []
        assert right >= 54, wrong

    def test_labels_and_size(self, camera):
        import timesformer_hf

        folder = Path(timesformer_hf.CAMERA_MOTION)
        config = json.loads((folder / "config.json").read_text())
        assert tuple(config["id2label"].values()) == camera.LABELS
        assert sum(path.stat().st_size for path in folder.iterdir()) < 12e6

    def test_loads_as_float32_and_in_the_built_in_model(self):
        """The file holds half precision; the built-in model gives the same logits."""
        from transformers.models.timesformer.modeling_timesformer import (
            TimesformerForVideoClassification as BuiltIn,
        )

        import timesformer_hf
        from timesformer_hf import TimesformerForVideoClassification

        ours = TimesformerForVideoClassification.from_pretrained(timesformer_hf.CAMERA_MOTION)
        assert ours.dtype == torch.float32
        theirs = BuiltIn.from_pretrained(timesformer_hf.CAMERA_MOTION, attn_implementation="eager")
        clip = torch.randn(2, 8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(ours(clip).logits, theirs(clip).logits, atol=1e-4, rtol=1e-4)

    def test_without_this_package(self, classifier):
        """The built-in model's pipeline, given the processor of frames, tells the same of the same frames."""
        import timesformer_hf

        code = f"""
import sys
import av, torch
from transformers import AutoImageProcessor, AutoModelForVideoClassification

with av.open({str(FILM)!r}) as container:
    frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
start = (len(frames) - 29) // 2
folder = {timesformer_hf.CAMERA_MOTION!r}
model = AutoModelForVideoClassification.from_pretrained(folder)
inputs = AutoImageProcessor.from_pretrained(folder)(frames[start : start + 29 : 4], return_tensors="pt")
with torch.no_grad():
    scores = model(**inputs).logits[0].softmax(-1)
assert "timesformer_hf" not in sys.modules
print(model.config.id2label[int(scores.argmax())], float(scores.max()))
"""
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr
        label, score = process.stdout.split()
        best = classifier(str(FILM))[0]
        assert label == best["label"]
        assert float(score) == pytest.approx(best["score"], abs=0.02)  # PIL and torchvision round otherwise


def test_the_sample_clip_is_a_pan_to_the_right(texture):
    """`make_sample.py`, on a frame of the film: the content goes to the left, by the same way in each frame."""
    make_sample = importlib.import_module("make_sample")
    picture = PIL.Image.fromarray(texture[0].permute(1, 2, 0).numpy()).resize((640, 427))
    frames = make_sample.render_pan(picture)
    assert frames.shape == (132, 180, 320, 3)
    grey = frames.astype(float).mean(axis=-1)
    way = 2 * make_sample.WAY * 90 / 131  # pixels from a frame to the next
    for first in (0, 60, 111):
        assert shift_between(grey[first], grey[first + 20]) == (pytest.approx(-20 * way, abs=1), 0)
