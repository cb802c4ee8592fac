"""The options of `timesformer-hf evaluate`."""

from dataclasses import dataclass, field

from ..inference.quantization import CONFIGS
from ..output.options import option
from ..video.multi_view import AVERAGES, VIEW_PROTOCOLS


@dataclass
class EvaluationArguments:
    """What is measured, how, and where the results go."""

    model: str = field(metadata={"help": "Folder or Hub name of a model."})
    data: str = field(
        metadata={"help": "A folder with a folder for each class; a .csv or .parquet with path and label; a Hub name."}
    )
    output_dir: str = field(
        metadata={"help": "Folder for results.json, videos.parquet, label_errors.csv and confusion_matrix.png."}
    )
    overwrite: bool = option(False, "Replace the results of a finished run.")
    data_config: str | None = option(None, "Config of a Hub data set that has several.")
    split: str | None = option(None, "Split to measure, where --data has splits. (None: all of them)")
    label_names: str | None = option(
        None, "A text file with a label a line, or kinetics400, ...: what numbers in --data stand for."
    )
    strict: bool = option(False, "Stop at the first video that can't be read.")
    views: str | None = option(
        None, "Views of the paper or of the authors' code; both need a frame sampling rate.", tuple(VIEW_PROTOCOLS)
    )
    num_clips: int | None = option(None, "Clips of each video, spread over it.")
    num_crops: int | None = option(None, "Crops of each clip: 1, the centre, or 3 along the longer side.")
    average: str | None = option(
        None, "What to take the mean of over views. (None: what --views says, or probabilities)", AVERAGES
    )
    time_audit: bool = option(
        False, "Also measure with the frames reversed, shuffled, and all replaced by the middle one: is time used?"
    )
    num_frames: int | None = option(None, "Frames of a clip. (None: the model's)")
    frame_sampling_rate: int | None = option(
        None, "Frames of the video from one of the clip to the next: the paper's are 32 for 8, 16 for 16, 4 for 96."
    )
    batch_size: int = option(8, "Videos at a time, on each device.")
    num_workers: int | None = option(
        None, "Processes that decode, for each device. (None: one for each core, at most 4)"
    )
    dtype: str = option(
        "auto", "Number format of the model. (auto: the checkpoint's)", ("auto", "float32", "bfloat16", "float16")
    )
    quantize: str | None = option(None, "Quantize the linear layers, by torchao.", tuple(CONFIGS))
    use_cpu: bool = option(False, "Use no accelerator.")
    engine: str | None = option(None, "Score by actors of Ray. (None: in this process)", ("ray",))
    address: str | None = option(None, "Address of a Ray cluster: auto, host:port. (None: start Ray here)")
    num_actors: int | None = option(None, "Actors of Ray. (None: one for each GPU, or for each four cores)")
