"""The video-classification pipeline, with this package's video processor."""

import threading
from collections.abc import Iterable, Sized
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial

from torch.utils.data import get_worker_info
from transformers.image_processing_utils import BatchFeature
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.pipelines.video_classification import VideoClassificationPipeline

from ..video.multi_view import average_views, score_views
from ..video.video_processing_timesformer import TimesformerVideoProcessor
from .prefetching import PrefetchedSequence, default_workers, prefetch


SCORES = {"regression": "none", "multi_label_classification": "sigmoid"}
"""What turns logits into scores, by problem type; softmax where nothing is named here."""

_OPEN_FILES = threading.Lock()  # two of them may be one and the same, which has one position


class TimesformerVideoClassificationPipeline(VideoClassificationPipeline):
    """
    transformers' own pipeline, except where the model comes with a [`TimesformerVideoProcessor`]: there
    `frame_sampling_rate` takes effect, as `num_frames` frames at that rate around the middle of the video (without it,
    and where the processor has none, they are spread over the whole video), and `batch_size` works. `num_clips`,
    `num_crops` and `views` classify several views of a video, see the processor; `average` is of what the scores are
    the mean over views, `"probabilities"` or `"logits"` (default: the protocol's own, or probabilities). Every other
    model's videos are left to transformers.
    The videos of a list, data set or generator are decoded ahead of the model, in `prefetch_workers` threads (default:
    one a core, 8 at most). So a generator is some videos ahead of the results: what it yields must stay as it is, a
    temporary file in its place. `prefetch_workers=0` reads each video when its turn has come; `num_workers` asks for
    transformers' worker processes instead, as with every pipeline. On a CUDA device the frames arrive as bytes and are
    resized there.
    Without a `function_to_apply` the config's `problem_type` chooses it, in the transformers versions too that take the
    softmax of everything.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if isinstance(self.video_processor, TimesformerVideoProcessor) and self.feature_extractor is None:
            # transformers only collates batches of a pipeline that has one; a clip needs no padding
            self.feature_extractor = self.video_processor

    def _sanitize_parameters(
        self,
        function_to_apply: str | None = None,
        num_clips: int | None = None,
        num_crops: int | None = None,
        views: str | None = None,
        average: str | None = None,
        prefetch_workers: int | None = None,
        **kwargs,
    ):
        if prefetch_workers is not None and prefetch_workers < 0:
            raise ValueError(f"prefetch_workers={prefetch_workers} must be at least 1, or 0 for none")
        preprocess, forward, postprocess = super()._sanitize_parameters(function_to_apply=function_to_apply, **kwargs)
        if function_to_apply is None:
            postprocess.pop("function_to_apply", None)
        own = {"num_clips": num_clips, "num_crops": num_crops, "views": views, "prefetch_workers": prefetch_workers}
        preprocess |= {name: value for name, value in own.items() if value is not None}
        postprocess |= {name: value for name, value in (("views", views), ("average", average)) if value is not None}
        return preprocess, forward, postprocess

    def get_iterator(self, inputs, num_workers: int, batch_size: int, preprocess_params: dict, *other_params):
        """transformers' own, over videos that are read ahead, which `preprocess` then only hands on."""
        if num_workers == 0 and isinstance(self.video_processor, TimesformerVideoProcessor):
            inputs = self.read_ahead(inputs, batch_size, **preprocess_params)
        return super().get_iterator(inputs, num_workers, batch_size, preprocess_params, *other_params)

    def read_ahead(
        self, videos: Iterable, batch_size: int = 1, prefetch_workers: int | None = None, **settings
    ) -> Iterable:
        """
        Videos as futures of what `preprocess` makes of them with `settings`, in order. The pipeline takes such futures
        in place of videos.

        Args:
            batch_size: so many more are read ahead, the next batch while the model is at one.
            prefetch_workers: threads; 0 returns the videos as they are.
        """
        workers = default_workers() if prefetch_workers is None else prefetch_workers
        if workers == 0:
            return videos
        read = PrefetchedSequence if isinstance(videos, Sized) else prefetch
        return read(partial(self.preprocess, **settings), videos, workers, ahead=batch_size + workers)

    def preprocess(
        self,
        video,
        num_frames: int | None = None,
        frame_sampling_rate: int | None = None,
        prefetch_workers: int | None = None,  # of a call on several videos
        **multi_view,
    ) -> BatchFeature:
        if isinstance(video, Future):
            return video.result()
        if not isinstance(self.video_processor, TimesformerVideoProcessor):
            if multi_view:
                raise ValueError(f"{', '.join(multi_view)} need a model with a TimesformerVideoProcessor")
            return super().preprocess(video, num_frames=num_frames, frame_sampling_rate=frame_sampling_rate or 1)
        settings = {"num_frames": num_frames, "frame_sampling_rate": frame_sampling_rate}
        if num_frames is None and self.video_processor.fps is None:
            settings["num_frames"] = self.model.config.num_frames
        settings |= multi_view | self.placement()
        with _OPEN_FILES if hasattr(video, "read") else nullcontext():
            inputs = self.video_processor(video, do_sample_frames=True, return_tensors="pt", **settings)
        if len(inputs.pixel_values) > 1:
            raise ValueError(f"Give the pipeline its {len(inputs.pixel_values)} videos as a list, one video an entry")
        return inputs.to(self.dtype)

    def placement(self) -> dict:
        """
        Where frames are resized and normalised: where the model is, if that is a CUDA device and the processor names
        none. Not in a worker process, which can't use the device of the process that it was forked from.
        """
        on_device = self.device.type == "cuda" and self.video_processor.device is None and get_worker_info() is None
        return {"device": self.device} if on_device else {}

    def _forward(self, model_inputs):
        """Logits (batch, labels), or (batch, views, labels); a pass has one view of each video of a batch."""
        pixel_values = model_inputs.get("pixel_values")
        if pixel_values is None or pixel_values.ndim < 6:
            return super()._forward(model_inputs)
        return ImageClassifierOutput(logits=score_views(self.model, pixel_values, views_per_pass=1))

    def postprocess(
        self,
        model_outputs,
        top_k: int = 5,
        function_to_apply: str | None = None,
        views: str | None = None,
        average: str | None = None,
    ):
        function_to_apply = function_to_apply or SCORES.get(self.model.config.problem_type, "softmax")
        if model_outputs.logits.ndim == 3:
            average = average or self.video_processor.view_settings(views=views).average
            scores = average_views(model_outputs.logits, average, function_to_apply)
            model_outputs, function_to_apply = ImageClassifierOutput(logits=scores), "none"
        return super().postprocess(model_outputs, top_k=top_k, function_to_apply=function_to_apply)
