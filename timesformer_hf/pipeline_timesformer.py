"""The video-classification pipeline, with this package's video processor."""

from transformers.pipelines.video_classification import VideoClassificationPipeline

from .video_processing_timesformer import TimesformerVideoProcessor


SCORES = {"regression": "none", "multi_label_classification": "sigmoid"}
"""What turns logits into scores, by problem type; softmax where nothing is named here."""


class TimesformerVideoClassificationPipeline(VideoClassificationPipeline):
    """
    transformers' own pipeline, except where the model comes with a [`TimesformerVideoProcessor`]: there
    `frame_sampling_rate` takes effect, as `num_frames` frames at that rate around the middle of the video (without it
    they are spread over the whole video), and `batch_size` works. Every other model's videos are left to transformers.
    Without a `function_to_apply` the config's `problem_type` chooses it, in the transformers versions too that take the
    softmax of everything.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if isinstance(self.video_processor, TimesformerVideoProcessor) and self.feature_extractor is None:
            # transformers only collates batches of a pipeline that has one; a clip needs no padding
            self.feature_extractor = self.video_processor

    def _sanitize_parameters(self, function_to_apply: str | None = None, **kwargs):
        preprocess, forward, postprocess = super()._sanitize_parameters(function_to_apply=function_to_apply, **kwargs)
        if function_to_apply is None:
            postprocess.pop("function_to_apply", None)
        return preprocess, forward, postprocess

    def preprocess(self, video, num_frames: int | None = None, frame_sampling_rate: int | None = None):
        if not isinstance(self.video_processor, TimesformerVideoProcessor):
            return super().preprocess(video, num_frames=num_frames, frame_sampling_rate=frame_sampling_rate or 1)
        settings = {"num_frames": num_frames, "frame_sampling_rate": frame_sampling_rate}
        if num_frames is None and self.video_processor.fps is None:
            settings["num_frames"] = self.model.config.num_frames
        inputs = self.video_processor(video, do_sample_frames=True, return_tensors="pt", **settings)
        if len(inputs.pixel_values) > 1:
            raise ValueError(f"Give the pipeline its {len(inputs.pixel_values)} videos as a list, one video an entry")
        return inputs.to(self.dtype)

    def postprocess(self, model_outputs, top_k: int = 5, function_to_apply: str | None = None):
        function_to_apply = function_to_apply or SCORES.get(self.model.config.problem_type, "softmax")
        return super().postprocess(model_outputs, top_k=top_k, function_to_apply=function_to_apply)
