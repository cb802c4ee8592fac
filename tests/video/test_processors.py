"""Image and video processors: every kind of input, against the built-in VideoMAE processor and plain arithmetic."""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from clips import decode_all, moving_pattern, write_video
from transformers import VideoMAEImageProcessor
from transformers.image_utils import SizeDict

from timesformer_hf import (
    TimesformerImageProcessor,
    TimesformerImageProcessorPil,
    TimesformerVideoProcessor,
    VideoReadError,
)
from timesformer_hf.video.video_processing_timesformer import take_frames


SIZE = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
IMAGE_PROCESSORS = [TimesformerImageProcessor, TimesformerImageProcessorPil]


@pytest.fixture(scope="module")
def frames():
    return moving_pattern(40)


@pytest.fixture
def video(frames, tmp_path):
    return write_video(tmp_path / "clip.mp4", frames, "libx264", {"g": "12"})


def kinds_of_frames(frames: list[np.ndarray]) -> dict[str, list]:
    return {
        "PIL": [PIL.Image.fromarray(frame) for frame in frames],
        "RGBA PIL": [PIL.Image.fromarray(frame).convert("RGBA") for frame in frames],
        "numpy, channels last": list(frames),
        "numpy, channels first": [frame.transpose(2, 0, 1) for frame in frames],
        "torch, channels last": [torch.from_numpy(frame) for frame in frames],
        "torch, channels first": [torch.from_numpy(frame).permute(2, 0, 1) for frame in frames],
        "opaque RGBA numpy": [np.dstack((frame, np.full(frame.shape[:2], 255, np.uint8))) for frame in frames],
    }


def steps_of_transformers(processor, clips: torch.Tensor) -> torch.Tensor:
    """The steps of `BaseVideoProcessor`, on clips that are stacked before them."""
    if processor.do_resize:
        clips = processor.resize(clips, SizeDict(**dict(processor.size)), processor.resample)
    if processor.do_center_crop:
        clips = processor.center_crop(clips, SizeDict(**dict(processor.crop_size)))
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    return processor.rescale_and_normalize(
        clips, processor.do_rescale, processor.rescale_factor, processor.do_normalize, mean, std
    )


class TestDefaults:
    @pytest.mark.parametrize("processor_class", [*IMAGE_PROCESSORS, TimesformerVideoProcessor])
    def test_are_the_training_statistics(self, processor_class):
        processor = processor_class()
        assert tuple(processor.image_mean) == (0.45, 0.45, 0.45)
        assert tuple(processor.image_std) == (0.225, 0.225, 0.225)
        assert processor.size == {"shortest_edge": 224}
        grey = [np.full((240, 320, 3), 128, np.uint8)] * 8
        pixels = processor(grey, return_tensors="pt").pixel_values
        assert pixels.shape == (1, 8, 3, 224, 224)
        assert pixels.dtype == torch.float32
        torch.testing.assert_close(pixels, torch.full_like(pixels, (128 / 255 - 0.45) / 0.225))


class TestImageProcessor:
    @pytest.mark.parametrize("processor_class", IMAGE_PROCESSORS)
    @pytest.mark.parametrize("kind", kinds_of_frames([np.zeros((1, 1, 3), np.uint8)]))
    def test_every_kind_of_frame(self, processor_class, kind, frames):
        processor = processor_class(**SIZE)
        clip = kinds_of_frames(frames[:4])[kind]
        expected = processor(list(frames[:4]), return_tensors="pt").pixel_values
        torch.testing.assert_close(processor(clip, return_tensors="pt").pixel_values, expected, rtol=0, atol=1e-6)
        batch = processor([clip, clip], return_tensors="pt").pixel_values
        torch.testing.assert_close(batch, expected.expand(2, -1, -1, -1, -1), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("processor_class", IMAGE_PROCESSORS)
    def test_grey_frames_become_colour(self, processor_class, frames):
        processor = processor_class(**SIZE)
        grey = [frame[:, :, 0] for frame in frames[:4]]
        expected = processor([np.dstack([g] * 3) for g in grey], return_tensors="pt").pixel_values
        for clip in (
            grey,
            [torch.from_numpy(g) for g in grey],
            [g[:, :, None] for g in grey],
            [g[None] for g in grey],
            [PIL.Image.fromarray(g) for g in grey],
        ):
            torch.testing.assert_close(processor(clip, return_tensors="pt").pixel_values, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("height_width", [(48, 64), (100, 41), (32, 32), (20, 300)])
    def test_backends_agree(self, height_width):
        """PIL and torchvision resample in their own fixed-point arithmetic: at most one grey level apart."""
        clip = moving_pattern(3, *height_width)
        one, other = (
            processor(**SIZE, do_normalize=False, do_rescale=False)(clip, return_tensors="pt").pixel_values
            for processor in IMAGE_PROCESSORS
        )
        assert one.shape == other.shape == (1, 3, 3, 32, 32)
        assert (one.float() - other.float()).abs().max() <= 1

    def test_equals_videomae_with_its_statistics(self, frames):
        mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
        native = VideoMAEImageProcessor(**SIZE, image_mean=mean, image_std=std)
        ours = TimesformerImageProcessor(**SIZE, image_mean=mean, image_std=std)
        pixels = ours(frames[:4], return_tensors="pt").pixel_values
        torch.testing.assert_close(pixels, native(frames[:4], return_tensors="pt").pixel_values, rtol=0, atol=0)

    @pytest.mark.parametrize("processor_class", IMAGE_PROCESSORS)
    def test_each_step_can_be_switched_off(self, processor_class, frames):
        processor, clip = processor_class(**SIZE), frames[:2]
        raw = torch.from_numpy(np.stack(clip)).permute(0, 3, 1, 2)[None]
        off = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}

        def pixels(**settings):
            return processor(clip, return_tensors="pt", **off | settings).pixel_values

        assert torch.equal(pixels(), raw)
        assert torch.equal(pixels(do_center_crop=True), raw[..., 8:40, 16:48])
        assert pixels(do_resize=True).shape == (1, 2, 3, 32, 42)
        torch.testing.assert_close(pixels(do_rescale=True).float(), raw / 255)
        torch.testing.assert_close(pixels(do_normalize=True).float(), (raw - 0.45) / 0.225, rtol=1e-5, atol=1e-4)
        flipped = processor(clip, return_tensors="pt", do_flip_channel_order=True, **off).pixel_values
        assert torch.equal(flipped, raw.flip(2))

    @pytest.mark.parametrize("processor_class", [*IMAGE_PROCESSORS, TimesformerVideoProcessor])
    def test_bgr_is_normalised_in_its_own_order(self, processor_class, frames):
        processor = processor_class(**SIZE, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
        bgr = [frame[:, :, ::-1].copy() for frame in frames[:8]]
        flipped = processor(frames[:8], do_flip_channel_order=True, return_tensors="pt").pixel_values
        torch.testing.assert_close(flipped, processor(bgr, return_tensors="pt").pixel_values, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("processor_class", [*IMAGE_PROCESSORS, TimesformerVideoProcessor])
    def test_videomae_file_loads(self, processor_class, tmp_path):
        values = {"image_processor_type": "VideoMAEImageProcessor", "size": {"shortest_edge": 448}, "crop_size": 448}
        values |= {"image_mean": [0.45] * 3, "image_std": [0.225] * 3, "do_resize": True, "resample": 2}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
        processor = processor_class.from_pretrained(tmp_path)
        assert processor.size == {"shortest_edge": 448}
        assert processor.crop_size == {"height": 448, "width": 448}

    @pytest.mark.parametrize("processor_class", [*IMAGE_PROCESSORS, TimesformerVideoProcessor])
    def test_bad_clips_are_refused(self, processor_class, frames):
        processor = processor_class(**SIZE)
        with pytest.raises(ValueError, match="one shape, clip 0 has "):
            processor([frames[0], moving_pattern(1, 30, 64)[0]], return_tensors="pt")
        with pytest.raises(ValueError, match="at least one frame, got an empty list"):
            processor([], return_tensors="pt")
        keep = {"do_sample_frames": False} if processor_class is TimesformerVideoProcessor else {}
        with pytest.raises(ValueError, match=r"one shape .*\(2, 3, 32, 32\), \(3, 3, 32, 32\)"):
            processor([frames[:2], frames[:3]], return_tensors="pt", **keep)


class TestVideoProcessor:
    def test_file_equals_frames(self, video):
        processor = TimesformerVideoProcessor(**SIZE, num_frames=8)
        decoded = decode_all(video)
        expected = processor([decoded[i] for i in range(0, 40, 5)], return_tensors="pt").pixel_values
        for source in (video, str(video), video.read_bytes(), video.open("rb"), np.stack(decoded)):
            torch.testing.assert_close(processor(source, return_tensors="pt").pixel_values, expected, rtol=0, atol=0)

    @pytest.mark.parametrize("kind", kinds_of_frames([np.zeros((1, 1, 3), np.uint8)]))
    def test_every_kind_of_clip(self, kind, frames):
        processor = TimesformerVideoProcessor(**SIZE, num_frames=8)
        clip = kinds_of_frames(frames)[kind]
        expected = processor(np.stack(frames), return_tensors="pt").pixel_values
        stacked = clip if "PIL" in kind else (np.stack if "numpy" in kind else torch.stack)(clip)
        for given in (clip, stacked, [clip, clip], [stacked, stacked]):
            pixels = processor(given, return_tensors="pt").pixel_values
            torch.testing.assert_close(pixels, expected.expand_as(pixels), rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            (SIZE, (32, 32)),
            ({"size": {"height": 24, "width": 40}, "do_center_crop": False}, (24, 40)),
            ({"size": {"height": 24, "width": 40}, "do_center_crop": False, "do_resize": False}, None),
            ({"size": {"shortest_edge": 32}, "do_center_crop": False}, None),
        ],
    )
    def test_clip_size_and_image_processor(self, settings, expected, frames):
        processor = TimesformerVideoProcessor(
            **settings, num_frames=8, do_flip_channel_order=True, image_mean=[0.3] * 3
        )
        assert processor.clip_size == expected
        pixels = processor(frames, do_sample_frames=False, return_tensors="pt").pixel_values
        assert expected in (None, tuple(pixels.shape[-2:]))
        of_frames = processor.image_processor()(frames, return_tensors="pt").pixel_values
        torch.testing.assert_close(of_frames, pixels, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    @pytest.mark.parametrize("channels", ["last", "first"])
    @pytest.mark.parametrize("height_width", [(48, 64), (101, 37), (20, 300), (32, 32)])
    @pytest.mark.parametrize("settings", [{}, {"do_resize": False, "do_center_crop": False}, {"do_normalize": False}])
    def test_is_what_transformers_computes(self, settings, height_width, channels, dtype):
        """Bit for bit, whatever the layout in memory; and the clip that is given stays as it is."""
        clip = np.stack(moving_pattern(4, *height_width)).astype(dtype)
        clip = clip if channels == "last" else np.ascontiguousarray(clip.transpose(0, 3, 1, 2))
        before = clip.copy()
        processor = TimesformerVideoProcessor(**SIZE, **settings, num_frames=4)
        got = processor([clip, clip], return_tensors="pt").pixel_values
        channels_first = torch.from_numpy(clip if channels == "first" else clip.transpose(0, 3, 1, 2)).contiguous()
        assert torch.equal(got, steps_of_transformers(processor, torch.stack([channels_first] * 2)))
        assert np.array_equal(clip, before)

    def test_flipping_channels_is_giving_them_reversed(self, frames):
        processor = TimesformerVideoProcessor(**SIZE, num_frames=4, image_mean=[0.2, 0.3, 0.4])
        flipped = processor(np.stack(frames)[..., ::-1], return_tensors="pt").pixel_values
        got = processor(np.stack(frames), do_flip_channel_order=True, return_tensors="pt").pixel_values
        assert torch.equal(got, flipped)

    def test_chosen_frames_keep_their_layout(self):
        """The frames of a decoder have their channels last, which is the faster way to resize them."""
        clip = torch.arange(6 * 5 * 4 * 3).reshape(6, 5, 4, 3).permute(0, 3, 1, 2)
        for given in (clip, clip.contiguous()):
            taken = take_frames(given, [0, 2, 2, 5])
            assert torch.equal(taken, clip[[0, 2, 2, 5]])
            assert taken.stride() == given.stride()
        assert take_frames(clip, range(6)) is clip

    def test_frames_go_to_the_device_before_resizing(self, video):
        """Where the frames are put before they are resized; on the meta device they have shapes alone."""
        pixels = TimesformerVideoProcessor(**SIZE, num_frames=4)(video, device="meta", return_tensors="pt").pixel_values
        assert (pixels.device.type, tuple(pixels.shape)) == ("meta", (1, 4, 3, 32, 32))

    def test_a_grey_clip_becomes_colour(self, frames):
        processor = TimesformerVideoProcessor(**SIZE, num_frames=8)
        grey = np.stack(frames)[..., 0]
        expected = processor(np.repeat(grey[..., None], 3, -1), return_tensors="pt").pixel_values
        for clip in (list(grey), grey[..., None], torch.from_numpy(grey)[:, None]):
            torch.testing.assert_close(processor(clip, return_tensors="pt").pixel_values, expected, rtol=0, atol=1e-6)

    def test_kinds_are_mixed_in_a_batch(self, video, frames):
        processor = TimesformerVideoProcessor(**SIZE, num_frames=4)
        batch = [video, np.stack(frames), moving_pattern(9, 80, 40), video.read_bytes()]
        pixels = processor(batch, return_tensors="pt").pixel_values
        assert pixels.shape == (4, 4, 3, 32, 32)
        torch.testing.assert_close(pixels[0], pixels[3], rtol=0, atol=0)
        five_dimensional = processor(np.stack([frames, frames]), return_tensors="pt").pixel_values
        torch.testing.assert_close(five_dimensional[0], pixels[1], rtol=0, atol=0)

    @pytest.mark.parametrize(
        ("settings", "indices"),
        [
            ({}, [0, 10, 20, 30]),
            ({"frame_sampling_rate": 4}, [13, 17, 21, 25]),
            ({"frame_sampling": "original", "frame_sampling_rate": 4}, [0, 4, 8, 12]),  # 25 of 30 frames a second
            ({"frame_sampling": "segments"}, [5, 15, 24, 34]),
            ({"frame_sampling": "uniform", "frame_sampling_rate": 4}, [0, 10, 20, 30]),
            ({"num_frames": 2}, [0, 20]),
            ({"fps": 5}, [0, 5, 10, 15, 20, 25, 30, 35]),
        ],
    )
    def test_frames_are_sampled_as_set(self, settings, indices, video):
        processor = TimesformerVideoProcessor(**SIZE, num_frames=4)
        batch = processor(video, return_tensors="pt", return_metadata=True, **settings)
        (about,) = batch["video_metadata"]
        assert list(about.frames_indices) == indices
        assert (about.total_num_frames, about.fps, about.height, about.width) == (40, 25.0, 48, 64)
        assert about.duration == pytest.approx(1.6)
        configured = TimesformerVideoProcessor(**SIZE, **{"num_frames": 4} | settings)
        torch.testing.assert_close(configured(video, return_tensors="pt").pixel_values, batch.pixel_values)

    def test_short_video_repeats_its_last_frame(self, frames, tmp_path):
        path = write_video(tmp_path / "one.mp4", frames[:1])
        pixels = TimesformerVideoProcessor(**SIZE)(path, return_tensors="pt").pixel_values
        assert pixels.shape == (1, 8, 3, 32, 32)
        assert torch.equal(pixels[:, :1].expand_as(pixels), pixels)

    def test_all_frames_without_sampling(self, video):
        processor = TimesformerVideoProcessor(**SIZE, do_sample_frames=False)
        assert processor(video, return_tensors="pt").pixel_values.shape[1] == 40

    def test_metadata_of_an_array_gives_the_rate(self, frames):
        processor = TimesformerVideoProcessor(**SIZE, num_frames=4, frame_sampling="original", frame_sampling_rate=8)
        about = {"total_num_frames": 40, "fps": 15}
        batch = processor(np.stack(frames), video_metadata=about, return_metadata=True, return_tensors="pt")
        assert batch["video_metadata"][0].frames_indices == [0, 5, 10, 15]
        with pytest.raises(ValueError, match="video_metadata has 1 entries for 2 videos"):
            processor([np.stack(frames)] * 2, video_metadata=[about], return_tensors="pt")

    def test_transparency_of_floats_is_refused(self):
        clip = np.ones((8, 8, 8, 4), np.float32)
        with pytest.raises(ValueError, match=r"transparency must be uint8, clip 0 is torch\.float32"):
            TimesformerVideoProcessor(do_rescale=False)(clip)

    def test_metadata_that_promises_more_frames_is_refused(self, frames):
        with pytest.raises(ValueError, match="promises 90 frames for clip 0, but it has 40"):
            TimesformerVideoProcessor()(np.stack(frames), video_metadata={"total_num_frames": 90})

    def test_none_means_the_setting(self, video):
        processor = TimesformerVideoProcessor(**SIZE, num_frames=3)
        settings = dict.fromkeys(("do_sample_frames", "num_frames", "frame_sampling", "frame_sampling_rate"))
        assert processor(video, return_tensors="pt", **settings).pixel_values.shape[1] == 3

    @pytest.mark.parametrize("bad", [3, np.zeros(5), {"video": 1}, torch.zeros(1, 1, 1, 1, 1, 1)])
    def test_what_is_no_video_is_refused(self, bad):
        with pytest.raises(TypeError, match="A video must be a path"):
            TimesformerVideoProcessor()(bad)

    @pytest.mark.parametrize("processor_class", [*IMAGE_PROCESSORS, TimesformerVideoProcessor])
    def test_reversed_and_read_only_arrays_are_taken(self, processor_class, frames):
        """As after OpenCV's `frame[..., ::-1]`."""
        processor, clip = processor_class(**SIZE), [frame[..., ::-1].copy() for frame in frames[:8]]
        expected = processor(clip, return_tensors="pt").pixel_values
        views = [frame[..., ::-1] for frame in frames[:8]]
        for view in views:
            view.flags.writeable = False
        torch.testing.assert_close(processor(views, return_tensors="pt").pixel_values, expected, rtol=0, atol=0)

    @pytest.mark.parametrize("shape", [(0, 8, 8, 3), (0, 3, 8, 8), (4, 0, 8, 3)])
    def test_a_clip_without_frames_is_refused(self, shape):
        with pytest.raises(ValueError, match="at least one frame of at least one pixel, clip 0 has shape"):
            TimesformerVideoProcessor()(np.zeros(shape, np.uint8))

    def test_errors_name_the_file(self, video, tmp_path):
        bad = tmp_path / "bad.mp4"
        bad.write_bytes(b"nothing")
        with pytest.raises(VideoReadError, match=r"bad\.mp4"):
            TimesformerVideoProcessor(**SIZE)([video, bad, video], return_tensors="pt")

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"frame_sampling": "random"}, "frame_sampling='random' must be one of"),
            ({"frame_sampling_rate": 0}, "frame_sampling_rate=0 must be at least 1"),
            ({"fps": -1}, "fps=-1 must be positive"),
            ({"num_frames": 4, "fps": 2}, "num_frames=4 and fps=2 exclude each other"),
            ({"decoder": "opencv"}, "Unknown decoder backend 'opencv'"),
        ],
    )
    def test_bad_settings_are_refused(self, settings, message, video):
        with pytest.raises(ValueError, match=message):
            TimesformerVideoProcessor(**SIZE)(video, return_tensors="pt", **settings)

    def test_built_in_class_loads_the_saved_file(self, tmp_path):
        from transformers.models.timesformer.video_processing_timesformer import (
            TimesformerVideoProcessor as NativeVideoProcessor,
        )

        TimesformerVideoProcessor(**SIZE).save_pretrained(tmp_path)
        native = NativeVideoProcessor.from_pretrained(tmp_path)
        assert tuple(native.image_mean) == (0.45, 0.45, 0.45)
        assert native.crop_size == SIZE["crop_size"]


class TestOtherChannels:
    """Frames with 2, 4 or 8 channels: `image_mean` says how many, and no channel is taken for transparency."""

    @pytest.mark.parametrize("channels", [2, 4, 8])
    @pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
    def test_pixels_are_those_of_transformers(self, channels, layout):
        pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 48, channels), dtype=np.uint8)
        pixels = pixels if layout == "channels_last" else pixels.transpose(0, 3, 1, 2)
        settings = SIZE | {"image_mean": [0.4] * channels, "image_std": [0.2] * channels}
        native = VideoMAEImageProcessor(**settings)
        expected = native(list(pixels), input_data_format=layout, return_tensors="pt").pixel_values
        assert expected.shape == (1, 4, channels, 32, 32)
        for processor in (TimesformerImageProcessor(**settings), TimesformerVideoProcessor(num_frames=4, **settings)):
            clip = pixels if isinstance(processor, TimesformerVideoProcessor) else list(pixels)
            for data_format in ({}, {"input_data_format": layout}):
                got = processor(clip, return_tensors="pt", **data_format).pixel_values
                assert torch.equal(got, expected)

    def test_the_pil_backend_refuses_them(self, frames):
        processor = TimesformerImageProcessorPil(image_mean=[0.4] * 4, image_std=[0.2] * 4)
        with pytest.raises(ValueError, match=r"image_mean has 4 numbers, .*PIL takes the last .* transparency"):
            processor(frames[:2])

    def test_another_number_is_named(self, frames):
        processor = TimesformerVideoProcessor(image_mean=[0.4] * 4, image_std=[0.2] * 4)
        with pytest.raises(ValueError, match=r"must have 4 channels, one for each number of image_mean, .* got shape"):
            processor(frames[:2])


IMPOSSIBLE = [
    ({"image_std": [0.2, 0, 0.2]}, r"image_std=.*0\.2, 0, 0\.2. must be positive and finite"),
    ({"image_mean": [float("nan")] * 3}, "image_mean=.* must be finite numbers"),
    ({"image_mean": [0.4] * 4}, "image_std=.* must have as many numbers as image_mean="),
    ({"size": {"height": -3, "width": 4}}, r"size=\{'height': -3, 'width': 4\} must have positive integers"),
    ({"crop_size": {"height": 0, "width": 4}}, r"crop_size=\{'height': 0, .* must have positive integers"),
    ({"rescale_factor": 0}, "rescale_factor=0 must be positive and finite"),
    ({"resample": 77}, r"resample=77 must be one of .*2 \(bilinear\)"),
    ({"do_resize": "yes"}, "do_resize='yes' must be true or false"),
]


@pytest.mark.parametrize(("values", "message"), IMPOSSIBLE)
@pytest.mark.parametrize("processor_class", [*IMAGE_PROCESSORS, TimesformerVideoProcessor])
def test_impossible_settings_are_named(processor_class, values, message):
    with pytest.raises(ValueError, match=f"{processor_class.__name__}: {message}"):
        processor_class(**values)


@pytest.mark.parametrize("name", ["num_frames", "frame_sampling_rate", "num_clips"])
def test_impossible_counts_are_named(name):
    with pytest.raises(ValueError, match=f"TimesformerVideoProcessor: {name}=-3 must be a positive integer"):
        TimesformerVideoProcessor(**{name: -3})
