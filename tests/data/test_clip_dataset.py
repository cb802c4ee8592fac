"""Clips of labelled videos: those of the processor, whatever worker makes them, and of unreadable files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import decode_all, moving_pattern, write_video
from torch.utils.data import DataLoader

from timesformer_hf import TimesformerVideoProcessor, VideoReadError
from timesformer_hf.data.clip_augmentation import ClipAugmentation, make_clip_transform
from timesformer_hf.data.clip_dataset import (
    ClipDataset,
    ClipLoader,
    ClipStream,
    EpochSampler,
    LabelledVideo,
    SkippedClips,
    VideoStream,
    read_labelled_videos,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of two videos each, a different start of the pattern in each."""
    folder = tmp_path_factory.mktemp("videos")
    frames = moving_pattern(40)
    for number, name in enumerate(("cat/0.mp4", "cat/1.mp4", "dog/2.mp4", "dog/3.mp4")):
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(folder / name, frames[4 * number : 4 * number + 20])
    return folder


@pytest.fixture
def processor():
    size = {"height": 32, "width": 32}
    return TimesformerVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size=size, frame_sampling_rate=2)


def center_crop(clip: torch.Tensor) -> torch.Tensor:
    return clip[..., 8:40, 16:48].contiguous()


def noisy_crop(clip: torch.Tensor) -> torch.Tensor:
    """A transform that shows where its chance comes from."""
    left = torch.randint(clip.shape[-1] - 31, ()).item()
    return clip[..., 8:40, left : left + 32]


IDS = {"cat": 0, "dog": 1}


class TestClipDataset:
    def test_validation_clips_are_the_processors(self, data, processor):
        videos = read_labelled_videos(data)
        dataset = ClipDataset(videos, ClipLoader(processor, IDS))
        for sample, video in zip((dataset[i] for i in range(4)), videos, strict=True):
            assert torch.equal(sample["pixel_values"], processor(video.name, return_tensors="pt").pixel_values[0])
            assert sample["labels"].item() == IDS[video.labels[0]]
            assert "seed" not in sample

    @pytest.mark.parametrize("flip_channels", [False, True])
    def test_training_clips_are_frames_of_plain_decoding(self, flip_channels, data, processor):
        """The frames of some start, found by comparing with all of them, scaled and normalised by hand."""
        processor.do_flip_channel_order = flip_channels
        videos = read_labelled_videos(data)
        dataset = ClipDataset(videos, ClipLoader(processor, IDS, transform=center_crop))
        frames = torch.from_numpy(np.stack(decode_all(Path(videos[0].name)))).permute(0, 3, 1, 2)
        expected = (frames[..., 8:40, 16:48].float() / 255 - 0.45) / 0.225
        expected = expected.flip(1) if flip_channels else expected
        starts = set()
        for ticket in range(0, 320, 4):
            pixels = dataset[ticket]["pixel_values"]
            found = [start for start in range(14) if torch.allclose(pixels, expected[start : start + 7 : 2], atol=1e-5)]
            assert len(found) == 1
            starts.update(found)
        assert starts == set(range(14))

    def test_draws_depend_on_seed_epoch_and_place_alone(self, data, processor):
        videos = read_labelled_videos(data)

        def draw(*tickets: int, seed: int = 0) -> list[torch.Tensor]:
            dataset = ClipDataset(videos, ClipLoader(processor, IDS, transform=noisy_crop, seed=seed))
            return [dataset[ticket]["pixel_values"] for ticket in tickets]

        torch.manual_seed(0)
        before = torch.get_rng_state()
        first, second = draw(1, 6)
        assert torch.equal(torch.get_rng_state(), before)  # others' chance is left alone
        torch.rand(7)
        assert torch.equal(draw(3, 6)[1], second)
        assert torch.equal(draw(1)[0], first)
        assert not torch.equal(draw(1, seed=1)[0], first)
        assert not torch.equal(draw(1 + 4)[0], first)  # another epoch

    def test_any_number_of_workers_gives_the_same_batches(self, data, processor):
        """Any number of workers, which outlive an epoch, gives the same batches."""
        dataset = ClipDataset(read_labelled_videos(data), ClipLoader(processor, IDS, transform=noisy_crop))

        def batches(num_workers: int) -> list[torch.Tensor]:
            sampler = EpochSampler(4, seed=3)
            settings = {"num_workers": num_workers, "persistent_workers": num_workers > 0}
            loader = DataLoader(dataset, batch_size=3, sampler=sampler, **settings)
            found = []
            for epoch in range(2):
                sampler.set_epoch(epoch)
                found += [batch["pixel_values"] for batch in loader]
            return found

        alone, shared = batches(0), batches(2)
        assert [len(batch) for batch in alone] == [3, 1, 3, 1]
        assert all(map(torch.equal, alone, shared))
        assert not torch.equal(alone[0], alone[2])

    def test_sampler_gives_every_epoch_an_order_of_its_own(self):
        sampler = EpochSampler(50, seed=1)
        orders = []
        for epoch in (0, 1, 0):
            sampler.set_epoch(epoch)
            orders.append(list(sampler))
        assert orders[0] == orders[2]
        assert sorted(orders[0]) == list(range(50))
        assert sorted(orders[1]) == list(range(50, 100))
        assert [ticket - 50 for ticket in orders[1]] != orders[0]
        assert list(EpochSampler(50, seed=2)) != orders[0]
        assert len(sampler) == 50

    def test_several_labels_are_a_vector(self, data, processor):
        load = ClipLoader(processor, IDS, multi_label=True, num_labels=3)
        video = read_labelled_videos(data)[0]
        for labels, expected in ((("cat",), [1, 0, 0]), ((), [0, 0, 0]), (("dog", "cat"), [1, 1, 0])):
            sample = load(LabelledVideo(video.name, labels, ""), (0, 0))
            assert sample["labels"].tolist() == expected
            assert sample["labels"].dtype == torch.float32

    def test_squeezed_clips_have_the_processors_size(self, data):
        size = {"height": 24, "width": 40}
        processor = TimesformerVideoProcessor(size=size, do_center_crop=False, num_frames=4)
        video = read_labelled_videos(data)[0]
        assert ClipLoader(processor, IDS)(video, (0, 0))["pixel_values"].shape == (4, 3, 24, 40)
        transform = make_clip_transform(ClipAugmentation(), processor.clip_size, squeeze=True)
        assert ClipLoader(processor, IDS, transform=transform)(video, (0, 0))["pixel_values"].shape == (4, 3, 24, 40)
        skipped = SkippedClips(data.parent / "skipped.csv")
        blank = ClipLoader(processor, IDS, skipped=skipped)(LabelledVideo("none.mp4", ("cat",), "none.mp4"), (0, 0))
        assert blank["pixel_values"].shape == (4, 3, 24, 40)

    @pytest.mark.parametrize(
        "settings", [{"fps": 5}, {"do_sample_frames": False}, {"do_center_crop": False}, {"num_crops": 3}]
    )
    def test_clips_must_fit_into_a_batch(self, settings):
        with pytest.raises(ValueError, match="one number of frames, one size and one view"):
            ClipLoader(TimesformerVideoProcessor(**settings), IDS)


class TestUnreadableClips:
    @pytest.fixture
    def videos(self, data, tmp_path):
        """A whole one, a cut one, none at all, and one that isn't there."""
        shutil.copy(data / "cat/0.mp4", tmp_path / "whole.mp4")
        (tmp_path / "cut.mp4").write_bytes((data / "cat/0.mp4").read_bytes()[:900])
        (tmp_path / "text, no video.mp4").write_text("text")
        names = ["whole.mp4", "cut.mp4", "text, no video.mp4", "missing.mp4"]
        return [LabelledVideo(str(tmp_path / name), ("dog",), name) for name in names]

    @pytest.mark.parametrize("num_workers", [0, 2])
    @pytest.mark.parametrize("transform", [None, center_crop])
    def test_unreadable_clips_are_skipped_and_named_once(self, transform, num_workers, videos, processor, tmp_path):
        """Their place stays empty, and each is named once, in however many epochs and processes."""
        skipped = SkippedClips(tmp_path / "out" / "skipped.csv")
        dataset = ClipDataset(videos, ClipLoader(processor, IDS, transform=transform, skipped=skipped))
        sampler = EpochSampler(4)
        for epoch in range(2):
            sampler.set_epoch(epoch)
            (batch,) = DataLoader(dataset, batch_size=4, sampler=sampler, num_workers=num_workers)
            order = [ticket % 4 for ticket in sampler]
            assert batch["pixel_values"].shape == (4, 4, 3, 32, 32)
            assert batch["labels"].tolist() == [1 if place == 0 else -100 for place in order]
            assert [bool(clip.any()) for clip in batch["pixel_values"]] == [place == 0 for place in order]
        found = SkippedClips(tmp_path / "out" / "skipped.csv").read()
        assert found.keys() == {video.name for video in videos[1:]}
        assert "truncated" in found[videos[1].name]
        assert "Invalid data" in found[videos[2].name]
        assert "No such file" in found[videos[3].name]
        assert (tmp_path / "out" / "skipped.csv").read_text().count("\n") == 4

    def test_several_labels_are_all_ignored(self, videos, processor, tmp_path):
        load = ClipLoader(processor, IDS, multi_label=True, skipped=SkippedClips(tmp_path / "skipped.csv"))
        assert load(videos[1], (0, 0))["labels"].tolist() == [-100, -100]

    def test_without_a_report_the_error_is_raised(self, videos, processor):
        with pytest.raises(VideoReadError, match=r"cut\.mp4"):
            ClipDataset(videos, ClipLoader(processor, IDS))[1]
        with pytest.raises(FileNotFoundError, match=r"missing\.mp4"):
            ClipDataset(videos, ClipLoader(processor, IDS, transform=center_crop))[3]

    def test_several_processes_share_a_report(self, tmp_path):
        """What others append is seen, and not written again."""
        first, second = SkippedClips(tmp_path / "s.csv"), SkippedClips(tmp_path / "s.csv")
        first.add("a", "because,\nof something")
        second.add("a", "again")
        second.add("b", "as well")
        assert first.read() == second.read() == {"a": "because, of something", "b": "as well"}
        assert (tmp_path / "s.csv").read_text().count("video,reason") == 1


@pytest.mark.usefixtures("quick_streams")
class TestClipStream:
    def test_clips_of_a_stream_are_those_of_the_files(self, data, processor, tmp_path):
        """The clips of a stream, in any number of workers, are those of the files it was made of."""
        datasets = pytest.importorskip("datasets")
        videos = list(read_labelled_videos(data))
        values = [{"bytes": Path(video.name).read_bytes(), "path": Path(video.name).name} for video in videos]
        for shard in range(2):
            rows = {"video": values[2 * shard :][:2], "label": [video.labels[0] for video in videos[2 * shard :][:2]]}
            features = datasets.Features({"video": datasets.Video(decode=False), "label": datasets.Value("string")})
            (tmp_path / "data").mkdir(exist_ok=True)
            datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "data" / f"train-{shard}.parquet")

        def samples(num_workers: int, transform, epoch: int = 0) -> list[torch.Tensor]:
            stream = VideoStream(tmp_path, "train", ["cat", "dog"])
            dataset = ClipStream(stream, ClipLoader(processor, IDS, transform=transform))
            dataset.set_epoch(epoch)
            found = {}
            for sample in DataLoader(dataset, batch_size=None, num_workers=num_workers):
                found[sample["labels"].item(), sample["pixel_values"].sum().item()] = sample["pixel_values"]
            return [found[key] for key in sorted(found)]

        plain = samples(0, None)
        expected = [processor(video.name, return_tensors="pt").pixel_values[0] for video in videos]
        assert len(plain) == 4
        assert all(any(torch.equal(one, other) for other in expected) for one in plain)
        assert all(map(torch.equal, plain, samples(2, None)))
        assert all(map(torch.equal, samples(0, noisy_crop), samples(2, noisy_crop)))
        assert not all(map(torch.equal, samples(0, noisy_crop), samples(0, noisy_crop, epoch=1)))
