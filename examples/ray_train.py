"""
`timesformer-hf finetune` in the workers of a Ray cluster, by Ray's TorchTrainer. Needs `pip install "ray[train]"`.

    python examples/ray_train.py --data shards --streaming --model my-checkpoint --output_dir my-model
    python examples/ray_train.py --address auto --num_workers 8 --use_gpu --data /shared/shards --streaming ...

The options besides those below are those of `timesformer-hf finetune`. If a worker dies, all are started again and go
on from the last checkpoint. On several machines the data and --output_dir must be in folders that all of them see. It
writes to --output_dir, and prints, what `timesformer-hf finetune` does.
"""

import argparse
import os
from collections.abc import Sequence

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from timesformer_hf.commands.finetune import finetune, parse_arguments


def main(arguments: Sequence[str] | None = None) -> None:
    """Train with as many workers as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--address",
        default=os.environ.get("RAY_ADDRESS", "local"),
        help="the cluster; auto: the one that this machine is in (default: RAY_ADDRESS, or a new one on this machine)",
    )
    parser.add_argument("--num_workers", type=int, default=2, help="processes that train together (default: 2)")
    parser.add_argument("--use_gpu", action="store_true", help="give each worker a GPU; without it they use CPUs")
    parser.add_argument("--max_failures", type=int, default=3, help="times to start again (default: 3)")
    args, words = parser.parse_known_args(arguments)
    if not args.use_gpu:
        words.append("--use_cpu")
    *_, training = parse_arguments(words)  # a mistake is told before a worker starts
    ray.init(args.address)
    trainer = TorchTrainer(
        train,
        train_loop_config={"words": [*words, "--resume"], "folder": os.getcwd()},
        scaling_config=ScalingConfig(num_workers=args.num_workers, use_gpu=args.use_gpu),
        run_config=RunConfig(
            name="ray",
            storage_path=os.path.abspath(os.path.join(training.output_dir, "_ray")),
            failure_config=FailureConfig(max_failures=args.max_failures),
        ),
    )
    trainer.fit()


def train(config: dict) -> None:
    """Train in one of the workers, between which Ray has made the connections of torch.distributed."""
    os.chdir(config["folder"])
    *others, training = parse_arguments(config["words"])
    finetune(*others, training)


if __name__ == "__main__":
    main()
