"""The video-classification pipeline, with this package's video processor."""

from transformers.image_processing_utils import BatchFeature
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.pipelines.video_classification import VideoClassificationPipeline

from .multi_view import average_views, score_views
from .video_processing_timesformer import TimesformerVideoProcessor


SCORES = {"regression": "none", "multi_label_classification": "sigmoid"}
"""What turns logits into scores, by problem type; softmax where nothing is named here."""


class TimesformerVideoClassificationPipeline(VideoClassificationPipeline):
    """
    transformers' own pipeline, except where the model comes with a [`TimesformerVideoProcessor`]: there
    `frame_sampling_rate` takes effect, as `num_frames` frames at that rate around the middle of the video (without it,
    and where the processor has none, they are spread over the whole video), and `batch_size` works. `num_clips`,
    `num_crops` and `views` classify several views of a video, see the processor; `average` is of what the scores are
    the mean over views, `"probabilities"` or `"logits"` (default: the protocol's own, or probabilities). Every other
    model's videos are left to transformers.
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
        **kwargs,
    ):
        preprocess, forward, postprocess = super()._sanitize_parameters(function_to_apply=function_to_apply, **kwargs)
        if function_to_apply is None:
            postprocess.pop("function_to_apply", None)
        multi_view = {"num_clips": num_clips, "num_crops": num_crops, "views": views}
        preprocess |= {name: value for name, value in multi_view.items() if value is not None}
        postprocess |= {name: value for name, value in (("views", views), ("average", average)) if value is not None}
        return preprocess, forward, postprocess

    def preprocess(
        self, video, num_frames: int | None = None, frame_sampling_rate: int | None = None, **multi_view
    ) -> BatchFeature:
        if not isinstance(self.video_processor, TimesformerVideoProcessor):
            if multi_view:
                raise ValueError(f"{', '.join(multi_view)} need a model with a TimesformerVideoProcessor")
            return super().preprocess(video, num_frames=num_frames, frame_sampling_rate=frame_sampling_rate or 1)
        settings = {"num_frames": num_frames, "frame_sampling_rate": frame_sampling_rate}
        if num_frames is None and self.video_processor.fps is None:
            settings["num_frames"] = self.model.config.num_frames
        inputs = self.video_processor(video, do_sample_frames=True, return_tensors="pt", **settings, **multi_view)
        if len(inputs.pixel_values) > 1:
            raise ValueError(f"Give the pipeline its {len(inputs.pixel_values)} videos as a list, one video an entry")
        return inputs.to(self.dtype)

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
