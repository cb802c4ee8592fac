"""
Measure the memory of an explanation beside that of a forward pass that returns all attention maps:

    python examples/explain_memory.py maps
    python examples/explain_memory.py gradient_rollout

It prints one line: the most memory, the memory before, and the time. The model is ViT-Base with random weights and
divided space-time attention, like TimeSformer-L of the paper. Each call measures one thing, because a process only
knows the most memory that it ever had.
"""

import argparse
import resource
import sys
import time

import torch

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification, explain


GIB = 2**20  # ru_maxrss is in KiB on Linux


def parse_arguments() -> argparse.Namespace:
    """Return the command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("maps", "gradient_rollout", "rollout"), help="what to measure")
    parser.add_argument("--num-frames", type=int, default=96, help="frames of the clip (default: 96)")
    parser.add_argument("--image-size", type=int, default=224, help="side of a frame in pixels (default: 224)")
    return parser.parse_args()


def peak() -> float:
    """Return the most memory that this process has had so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB


def main() -> int:
    """Print the peak before and after. Return the exit code."""
    args = parse_arguments()
    config = TimesformerConfig(num_frames=args.num_frames, image_size=args.image_size, num_labels=400)
    model = TimesformerForVideoClassification(config).eval()
    model.set_attn_implementation("eager")
    clip = torch.randn(1, args.num_frames, 3, args.image_size, args.image_size)
    before, start = peak(), time.perf_counter()
    if args.what == "maps":
        with torch.no_grad():
            kept = model(clip, output_attentions=True)
    else:
        kept = explain(model, clip, method=args.what)
    seconds = time.perf_counter() - start
    print(f"{args.what}: at most {peak():.2f} GiB, {before:.2f} GiB of it before; {seconds:.0f} s")
    del kept
    return 0


if __name__ == "__main__":
    sys.exit(main())
