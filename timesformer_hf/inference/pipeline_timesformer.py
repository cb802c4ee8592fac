"""The video-classification pipeline, with this package's video processor."""

import threading
from collections.abc import Iterable, Sized
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial

from torch.utils.data import get_worker_info
from transformers import AutoVideoProcessor
from transformers.image_processing_utils import BatchFeature
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.pipelines.video_classification import VideoClassificationPipeline

from ..model.configuration_timesformer import TimesformerConfig
from ..video.multi_view import average_views, score_views
from ..video.video_processing_timesformer import TimesformerVideoProcessor, is_frame
from .prefetching import PrefetchedSequence, default_workers, prefetch


SCORES = {"regression": "none", "multi_label_classification": "sigmoid"}
"""The function from logits to scores for each `problem_type`. Every other type uses softmax."""

_OPEN_FILES = threading.Lock()  # two inputs can be the same open file, which has one reading position


class TimesformerVideoClassificationPipeline(VideoClassificationPipeline):
    """
    The video-classification pipeline of transformers, with more features for models with a
    [`TimesformerVideoProcessor`]. All other models are left to transformers.

    - Sampling: with `frame_sampling_rate`, a clip is `num_frames` frames at that rate around the middle of the video.
      Without it, and where the processor has none, the frames are spread over the whole video. `frame_sampling` names
      another policy, and with `do_sample_frames=False` all frames form the clip.
    - Frames: a list of pictures (PIL images, arrays or tensors) is one clip, as for the processor. A list of clips is a
      list of videos.
    - Views: `num_clips`, `num_crops` and `views` classify several views of a video, see the processor. `average` says
      what is averaged over the views: `"probabilities"` or `"logits"` (default: that of `views`, or probabilities).
    - `batch_size` works.
    - Decoding ahead: the videos of a list, data set or generator are decoded ahead of the model in `prefetch_workers`
      threads (default: one for each core, at most 8). A generator is then a few videos ahead of the results, so the
      files that it yields must not change or be deleted meanwhile. `prefetch_workers=0` reads each video only when it
      is needed. `num_workers` uses the worker processes of transformers instead, as in every pipeline.
    - CUDA: frames are moved to the device as bytes and resized there.
    - Scores: without `function_to_apply` the config's `problem_type` decides between softmax and sigmoid, also in those
      versions of transformers that always use softmax.
    """

    def __init__(self, model, *args, **kwargs):
        found = kwargs.get("video_processor") or kwargs.get("image_processor")
        if found is None and model.config.model_type == TimesformerConfig.model_type and model.name_or_path:
            # transformers hides the error of a processor that can't be loaded
            kwargs["video_processor"] = AutoVideoProcessor.from_pretrained(model.name_or_path)
        super().__init__(model, *args, **kwargs)
        if isinstance(self.video_processor, TimesformerVideoProcessor) and self.feature_extractor is None:
            # transformers forms batches only in a pipeline with a feature extractor; clips need no padding
            self.feature_extractor = self.video_processor

    def __call__(self, inputs, **kwargs):
        """
        Return the labels of a video with their scores, `[{"label", "score"}]`, or a list of these for several videos.

        Args:
            inputs: a video, or a list, data set or generator of videos. A video is all that the processor takes: a
                path, a URL, bytes, an open file, an array of frames or a list of frames.
            kwargs: the settings that the class describes, `top_k` and `function_to_apply`.

        Raises:
            ValueError: if there is no video, or a setting is not allowed.
        """
        if isinstance(inputs, list) and isinstance(self.video_processor, TimesformerVideoProcessor):
            if not inputs:
                raise ValueError("The list of videos is empty; give at least one video")
            if all(map(is_frame, inputs)):
                inputs = tuple(inputs)  # one video, because transformers takes only lists for several
        return super().__call__(inputs, **kwargs)

    def check_model_type(self, supported_models) -> None:
        """Warn of a model that isn't for video classification, as transformers does. An exported one is."""
        if not getattr(self.model, "is_exported", False):
            super().check_model_type(supported_models)

    def _sanitize_parameters(
        self,
        function_to_apply: str | None = None,
        num_clips: int | None = None,
        num_crops: int | None = None,
        views: str | None = None,
        average: str | None = None,
        frame_sampling: str | None = None,
        do_sample_frames: bool | None = None,
        prefetch_workers: int | None = None,
        **kwargs,
    ):
        if prefetch_workers is not None and prefetch_workers < 0:
            raise ValueError(f"prefetch_workers={prefetch_workers} must be at least 1, or 0 for no decoding ahead")
        preprocess, forward, postprocess = super()._sanitize_parameters(function_to_apply=function_to_apply, **kwargs)
        if function_to_apply is None:
            postprocess.pop("function_to_apply", None)
        own = {"num_clips": num_clips, "num_crops": num_crops, "views": views, "prefetch_workers": prefetch_workers}
        own |= {"frame_sampling": frame_sampling, "do_sample_frames": do_sample_frames}
        preprocess |= {name: value for name, value in own.items() if value is not None}
        postprocess |= {name: value for name, value in (("views", views), ("average", average)) if value is not None}
        return preprocess, forward, postprocess

    def get_iterator(self, inputs, num_workers: int, batch_size: int, preprocess_params: dict, *other_params):
        """Return the iterator of transformers over futures of videos that are read ahead."""
        if num_workers == 0 and isinstance(self.video_processor, TimesformerVideoProcessor):
            inputs = self.read_ahead(inputs, batch_size, **preprocess_params)
        return super().get_iterator(inputs, num_workers, batch_size, preprocess_params, *other_params)

    def read_ahead(
        self, videos: Iterable, batch_size: int = 1, prefetch_workers: int | None = None, **settings
    ) -> Iterable:
        """
        Start to preprocess videos in threads. Return futures of the results, in order, which the pipeline takes in
        place of videos.

        Args:
            videos: a sequence or any other iterable of videos.
            batch_size: this many more videos are read ahead, so that the next batch is ready when the model is.
            prefetch_workers: number of threads (default: one for each core, at most 8). 0 returns the videos unchanged.
            settings: arguments of `preprocess`.
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
        do_sample_frames: bool = True,
        prefetch_workers: int | None = None,  # unused here: it is for a call on several videos
        **settings,
    ) -> BatchFeature:
        """
        Return the model's inputs for a video: a path, URL, open file or decoded frames, or a future of the inputs.
        """
        if isinstance(video, Future):
            return video.result()
        if not isinstance(self.video_processor, TimesformerVideoProcessor):
            if settings or not do_sample_frames:
                names = ", ".join([*settings, *([] if do_sample_frames else ["do_sample_frames"])])
                raise ValueError(f"{names}: only a model with a TimesformerVideoProcessor takes these")
            return super().preprocess(video, num_frames=num_frames, frame_sampling_rate=frame_sampling_rate or 1)
        settings |= {"num_frames": num_frames, "frame_sampling_rate": frame_sampling_rate}
        if num_frames is None and self.video_processor.fps is None:
            settings["num_frames"] = self.model.config.num_frames
        settings |= self.placement()
        with _OPEN_FILES if hasattr(video, "read") else nullcontext():
            inputs = self.video_processor(video, do_sample_frames=do_sample_frames, return_tensors="pt", **settings)
        if len(inputs.pixel_values) > 1:
            raise ValueError(
                f"One entry has {len(inputs.pixel_values)} videos; give the pipeline a list with one video an entry"
            )
        return inputs.to(self.dtype)

    def placement(self) -> dict:
        """
        Return the processor's `device` argument: the model's device if it is a CUDA device and the processor has none.

        A worker process can't use the CUDA device of the process that it was forked from, so there it is empty.
        """
        on_device = self.device.type == "cuda" and self.video_processor.device is None and get_worker_info() is None
        return {"device": self.device} if on_device else {}

    def _forward(self, model_inputs):
        """Compute logits (batch, labels), or (batch, views, labels) with one forward pass for each view."""
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
        """Return the `top_k` labels of a video with their scores, averaged over its views: `[{"label", "score"}]`."""
        function_to_apply = function_to_apply or SCORES.get(self.model.config.problem_type, "softmax")
        if model_outputs.logits.ndim == 3:
            average = average or self.video_processor.view_settings(views=views).average
            scores = average_views(model_outputs.logits, average, function_to_apply)
            model_outputs, function_to_apply = ImageClassifierOutput(logits=scores), "none"
        return super().postprocess(model_outputs, top_k=top_k, function_to_apply=function_to_apply)
