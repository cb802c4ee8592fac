"""
Find the videos in a table of features that are most similar to one video, by the cosine of their features:

    timesformer-hf embed videos/ --out features.parquet --model facebook/timesformer-base-finetuned-k400
    python examples/similar_videos.py features.parquet videos/a.mp4 --top-k 5

It prints the most similar videos, a line each: the cosine and the path. The query is a video in the table or another
one, which is then embedded with the model and settings of the table.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from timesformer_hf import FeatureTable, extract_features, load_feature_model, read_features
from timesformer_hf.inference.feature_extraction import describe_settings
from timesformer_hf.output.table_parts import differences
from timesformer_hf.output.terminal import quiet_transformers
from timesformer_hf.video.video_sources import is_url


def main(arguments: list[str] | None = None) -> int:
    """Print the most similar videos. Return the exit code: 2 where the table or the query can't be used."""
    parser = argparse.ArgumentParser(
        description="example: python examples/similar_videos.py features.parquet videos/a.mp4 --top-k 5\n\n"
        "Rank the videos in a table by their similarity to one video.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", metavar="FEATURES", help="a table that `timesformer-hf embed` wrote")
    parser.add_argument("query", metavar="QUERY", help="a video in the table, by its name there, or another video")
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="how many videos to print (default: 5)")
    args = parser.parse_args(arguments)
    try:
        table = read_features(args.table)
        ranking = rank(table, query_feature(table, args.query))
    except (ValueError, OSError, ImportError) as error:
        print(f"similar_videos: {error}", file=sys.stderr)
        return 2
    others = [(cosine, video) for cosine, video in ranking if video != args.query]
    for cosine, video in others[: args.top_k]:
        print(f"{cosine:7.4f}  {video}")
    return 0


def rank(table: FeatureTable, query: np.ndarray) -> list[tuple[float, str]]:
    """Return the cosine to the query feature (dim,) and the name of each video, the most similar first."""
    norms = np.linalg.norm(table.features, axis=1) * np.linalg.norm(query)
    cosines = table.features @ query / norms
    return [(float(cosines[row]), table.videos[row]) for row in np.argsort(-cosines, kind="stable")]


def query_feature(table: FeatureTable, query: str) -> np.ndarray:
    """
    Return the feature (dim,) of a video: from the table, or from the model that made the table.

    Raises:
        ValueError: where the table or the video can't be used.
    """
    if table.metadata["level"] != "clip":
        raise ValueError(
            f"the table has features of level {table.metadata['level']}; embed the videos with --level clip"
        )
    if not table.videos:
        raise ValueError("the table is empty; give another one")
    if query in table.videos:
        return table.features[table.videos.index(query)]
    if not is_url(query) and not Path(query).exists():
        raise ValueError(f"{query} is neither in the table nor a file; the table has, for example, {table.videos[0]}")
    return embed_like(table, query)


def embed_like(table: FeatureTable, query: str) -> np.ndarray:
    """
    Return the feature (dim,) of a video, with the model and the settings of the table.

    Raises:
        ValueError: where the model has changed, or the video is unreadable.
    """
    settings = table.metadata["settings"]
    with quiet_transformers():  # else transformers warns that the classification head is left out
        model, processor = load_feature_model(table.metadata["model"], settings["dtype"])
    sampling = {name: settings[name] for name in ("num_frames", "frame_sampling_rate")}
    if changes := differences(settings, describe_settings(model, processor, "clip", sampling)):
        raise ValueError(f"the model is not the one that made the table: {'; '.join(changes)}; embed the videos again")
    ((video,),) = extract_features(model, processor, [[query]], **sampling)
    if video.error is not None:
        raise ValueError(video.error)
    return video.feature


if __name__ == "__main__":
    sys.exit(main())
