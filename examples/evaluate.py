"""
Measuring a classifier in Python, to copy and make your own. `timesformer-hf evaluate` does the same with more options
and on many processes, and goes on after it was cut off:

    python examples/evaluate.py --model my-model --data videos/ --views paper --frame_sampling_rate 32

videos/ has a folder for each class. It prints the accuracy with its 95% interval, the mean class accuracy, and a line
for each class.
"""

import argparse
import sys

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

from timesformer_hf import (
    LabelledVideos,
    average_views,
    encode_labels,
    plot_confusion_matrix,
    read_labelled_videos,
    score_views,
    single_label_results,
)
from timesformer_hf import confusion_matrix as count_confusions


class Views(Dataset):
    """The views of each video, (views, frames, channels, height, width), decoded in the workers of a DataLoader."""

    def __init__(self, videos: LabelledVideos, processor, settings: dict):
        self.videos, self.processor, self.settings = videos, processor, settings

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor | str]:
        try:
            inputs = self.processor(self.videos[index].source, return_tensors="pt", **self.settings)
        except Exception as error:  # the other videos are measured all the same
            return index, f"{self.videos[index].name}: {error}"
        return index, inputs["pixel_values"][0]


@torch.inference_mode()
def score(model, views: torch.Tensor, average: str) -> np.ndarray:
    """The probability of each label: every view is scored by itself, and the mean is taken over the views."""
    logits = score_views(model, views.unsqueeze(0).to(model.device), views_per_pass=1)
    return average_views(logits, average)[0].float().cpu().numpy()


def main(words: list[str] | None = None) -> dict:
    """Print how good the model is, and return the results."""
    args = parse_arguments(words)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    model = AutoModelForVideoClassification.from_pretrained(args.model).to(device).eval()
    processor = AutoVideoProcessor.from_pretrained(args.model)
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    videos = read_labelled_videos(args.data, split=args.split, multi_label=False)
    labels = encode_labels(videos, names)  # by name, never by order

    settings = {"views": args.views, "num_frames": model.config.num_frames}
    if args.frame_sampling_rate:
        settings["frame_sampling_rate"] = args.frame_sampling_rate
    average = processor.view_settings(**settings).average
    loader = DataLoader(Views(videos, processor, settings), batch_size=None, num_workers=args.num_workers)
    done, scores = [], []
    for index, views in tqdm(loader, unit="video", disable=None):
        if isinstance(views, str):
            print(views, file=sys.stderr)
            continue
        done.append(index)
        scores.append(score(model, views, average))
    results = single_label_results(np.stack(scores), labels[done], names)

    low, high = results["top_1_interval"]
    print(f"{len(done)} of {len(videos)} videos measured")
    print(f"top-1 accuracy {results['top_1_accuracy']:.2%} ({low:.2%} to {high:.2%}; {results['interval']})")
    print(f"mean class accuracy {results['mean_class_accuracy']:.2%}")
    for row in sorted(results["classes"], key=lambda row: row["accuracy"]):
        print(f"{row['accuracy']:9.2%} of {row['videos']:5}  {row['label']}")
    if args.plot:
        counts = count_confusions(np.stack(scores).argmax(axis=1), labels[done], len(names))
        plot_confusion_matrix(args.plot, counts, names)
    return results


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or a name on the Hub")
    parser.add_argument("--data", required=True, help="a folder with a folder for each class, or a table")
    parser.add_argument("--split", help="where --data has splits")
    parser.add_argument("--views", choices=("paper", "original"), default="paper", help="both need a sampling rate")
    parser.add_argument("--frame_sampling_rate", type=int, help="32 for 8 frames, 16 for 16, 4 for 96")
    parser.add_argument("--num_workers", type=int, default=2, help="processes that decode")
    parser.add_argument("--plot", metavar="FILE", help="draw the confusion matrix, to .png or .svg")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
