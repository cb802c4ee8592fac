"""
Computes the chunks of a corpus with Ray Data: an actor for each GPU or group of cores, on this machine or a cluster.

The engine only says where a chunk is computed. Every actor is a [`VideoWorker`] with the same settings, so the rows are
those of a run without an engine wherever the machines are the same.
"""

import contextlib
import logging
import os
import pickle
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from ..inference.feature_extraction import EmbeddedVideo
from ..output.extras import missing_package
from ..version import __version__
from ..video.decoding_plan import count_cores
from .corpus_run import CHUNK_VIDEOS, Chunk
from .video_worker import VideoRow, VideoWorker, WorkerSettings


_SILENCE = 20.0  # seconds without an answer after which an address counts as wrong
_LONGEST_START = 600.0  # seconds for a machine to install what a runtime environment lists
_CORES = 4  # in the group of an actor, where there are more
_TRIES = 3  # of a chunk whose actor dies
_CHUNKS_AT_ONCE = 2048  # in one data set of Ray, so that the names of a large corpus are never all in memory
_NEEDED = ("timesformer_hf", "torch", "transformers", "av")
_SHIPPING = (
    'Ship it with the job: ray job submit --runtime-env-json \'{"pip": ["timesformer_hf[ray]"]}\' -- timesformer-hf '
    "classify ... --engine ray --address auto. docs/scale.md says more"
)
_DEAD = f"the process that read it died, {_TRIES} times: it needs too much memory, or crashes a library"


def import_ray():
    """
    Import Ray and Ray Data.

    Raises:
        ImportError: where Ray is missing.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise missing_package("--engine ray", "ray[data]", "ray") from error
    return ray


@dataclass(frozen=True)
class Actors:
    """
    The actors of a run.

    Attributes:
        number: how many there are.
        device: on which each of them computes.
        cores: how many cores each of them uses.
        share: of how many cores Ray keeps free for each of them, which is below 1 where there are more actors.
    """

    number: int
    device: str
    cores: int
    share: float


def plan_actors(cpus: int, gpus: int, number: int | None = None, device: str | None = None) -> Actors:
    """
    Return the actors for the cores and GPUs of a cluster: one for each GPU, or for each group of four cores.

    Args:
        number: so many, if it is given.
        device: on which the actors compute (default: CUDA where there is a GPU).

    Raises:
        ValueError: if there are not as many GPUs.
    """
    device = device or ("cuda" if gpus else "cpu")
    on_gpu = device.startswith("cuda")
    number = number or (gpus if on_gpu else max(1, cpus // _CORES))
    if on_gpu and not 1 <= number <= gpus:
        raise ValueError(f"--num-actors {number}: an actor needs a GPU of its own, and Ray has {gpus} GPUs")
    cores = max(1, cpus // number)
    return Actors(number, device, cores, min(cores, cpus / number))


@contextlib.contextmanager
def connected(address: str | None):
    """
    In the block, Ray is there: the cluster at an address, or one on this machine that is stopped after the block.

    Args:
        address: `"auto"` or `host:port`.

    Raises:
        ConnectionError: if nothing answers at the address for 20 seconds.
        ImportError: if Ray is missing.
    """
    ray = import_ray()
    settings = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        settings |= {"address": "local", "num_cpus": count_cores(), "include_dashboard": False}
    else:
        _check_answers(address)
        settings["address"] = address
    with _same_signal_handler():
        try:
            ray.init(**settings)
        except (ConnectionError, RuntimeError, ValueError) as error:
            what = "Ray can't be started here" if address is None else f"--address {address}: Ray can't be reached"
            raise ConnectionError(f"{what} ({error})") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """
    Check that something answers at an address.

    Raises:
        ConnectionError: if nothing does. The message names the address.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SILENCE).close()
    except OSError as error:
        raise ConnectionError(
            f"--address {address}: nothing answers there ({error}). Give the address that `ray start` printed, or auto "
            "on a machine of the cluster"
        ) from error


@contextlib.contextmanager
def _same_signal_handler() -> Iterator[None]:
    """After the block, SIGTERM does what it did before: Ray sets a handler of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_machines(ray, model: str | None) -> None:
    """
    Check that each machine of the cluster has this package and the model.

    Args:
        model: a folder or a name on the Hub, or `None` for the shipped one.

    Raises:
        ValueError: if a machine lacks something. The message names it and says how to put it there.
    """
    folder = model if model is not None and os.path.isdir(model) else None

    def look(needed: Sequence[str], folder: str | None) -> tuple[str, list[str], str | None]:
        """Is sent by value, because the machine may lack this package."""
        import importlib.util
        import os
        import platform

        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        version = None if "timesformer_hf" in missing else importlib.import_module("timesformer_hf").__version__
        return platform.node(), missing + ([] if folder is None or os.path.isdir(folder) else [folder]), version

    on = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    task = ray.remote(num_cpus=0)(look)
    answers = [task.options(scheduling_strategy=on(node_id=node, soft=False)).remote(_NEEDED, folder) for node in nodes]
    for host, missing, version in ray.get(answers, timeout=_LONGEST_START):
        if missing == [folder]:
            raise ValueError(f"the machine {host} has no folder {folder}; put it on a disk that all machines share")
        if missing:
            raise ValueError(f"the machine {host} lacks {', '.join(missing)}. {_SHIPPING}")
        if version != __version__:
            raise ValueError(f"the machine {host} has timesformer_hf {version}, and this one {__version__}")


class Attempts:
    """Counts how often actors have begun with each chunk. It is an actor itself, so it knows of those that died."""

    def __init__(self):
        self.begun = Counter()

    def add(self, key: str) -> int:
        """Count one more attempt, and return how many there were with it."""
        self.begun[key] += 1
        return self.begun[key]


class RayActor:
    """
    A [`VideoWorker`] as Ray Data calls it.

    An error that is not about a video is returned, because Ray would try again and again what can't succeed. For the
    same reason a chunk with which actors have died three times is returned without its rows.

    Args:
        settings: of the worker.
        folder: where relative paths start.
        count: returns how often a chunk was begun with, see [`Attempts`].
    """

    def __init__(self, settings: WorkerSettings, folder: str, count: Callable[[str], int]):
        self.worker, self.failure, self.count = None, None, count
        with contextlib.suppress(OSError):  # a machine that lacks it may still have what absolute paths and URLs name
            os.chdir(folder)
        try:
            self.worker = VideoWorker(settings)
        except Exception as error:
            self.failure = error

    def __call__(self, table):
        """Return the rows of the chunks in an Arrow table, or the error that ends the run."""
        rows, reason = [], None
        try:
            if self.failure is not None:
                raise self.failure
            for chunk in (pickle.loads(chunk.as_py()) for chunk in table.column("chunk")):
                if self.count(_key(chunk)) <= _TRIES:
                    rows += [row for batch in self.worker.run(chunk) for row in batch]
        except Exception as error:
            rows, reason = [], str(error) or type(error).__name__
        return _as_table(rows=pickle.dumps(rows), failure=reason)


def _key(chunk: Chunk) -> str:
    """Return what tells a chunk from others: a part of one is another chunk."""
    sources = [row.source for batch in chunk for row in batch]
    return f"{sources[0]} and {len(sources) - 1} more"


def _as_table(**values):
    """Return a row as an Arrow table."""
    import pyarrow as pa

    kinds = {name: pa.binary() if isinstance(value, bytes) else pa.string() for name, value in values.items()}
    return pa.table({name: pa.array([value], kinds[name]) for name, value in values.items()})


class RayEngine:
    """
    Computes chunks by actors.

    Args:
        ray: the module, connected.
        actors: how many there are and where they compute.
        settings: of each worker.
        in_order: whether rows come back in the order of the corpus, or in any order.
    """

    def __init__(self, ray, actors: Actors, settings: WorkerSettings, in_order: bool = False):
        self.ray, self.actors, self.in_order = ray, actors, in_order
        workers = settings.num_workers or actors.cores
        self.settings = replace(settings, device=actors.device, num_workers=workers)

    def run(self, chunks: Iterable[Chunk]) -> Iterator[list[VideoRow]]:
        """
        Yield the rows of each chunk.

        A chunk whose actor dies is tried again. After the third time its videos are tried one by one, each alone in its
        actor. A video with which the actor then dies three times gets an error.

        Raises:
            ValueError: if the model can't be loaded, or for another error that is not about a video.
        """
        chunks = iter(chunks)
        while some := list(islice(chunks, _CHUNKS_AT_ONCE)):
            missing = {row.source: row for chunk in some for batch in chunk for row in batch}
            yield from _noted(self._compute(some), missing)
            if missing:
                yield from _noted(self._compute([[[row]] for row in missing.values()], alone=True), missing)
            for row in missing.values():
                row.error = _DEAD
            if missing:
                yield list(missing.values())

    def _compute(self, chunks: Sequence[Chunk], alone: bool = False) -> Iterator[list[VideoRow]]:
        """Yield the rows of the chunks that don't kill their actors. If `alone`, an actor has one chunk at a time."""
        data, context = self.ray.data, self.ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = self.in_order
        for name in ("ray.data", "ray.data.dataset"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        actors, attempts = self.actors, self.ray.remote(num_cpus=0)(Attempts).remote()
        rows = data.from_arrow([_as_table(chunk=pickle.dumps(chunk)) for chunk in chunks]).map_batches(
            RayActor,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(self.settings, os.getcwd(), _Counter(attempts)),
            # The second chunk is decoded while the model computes the first.
            compute=data.ActorPoolStrategy(
                size=min(actors.number, len(chunks)),
                max_tasks_in_flight_per_actor=1 if alone else 3,
                max_concurrent_calls_per_actor=1 if alone else 2,
                enable_true_multi_threading=True,
            ),
            num_cpus=actors.share,
            num_gpus=1 if actors.device.startswith("cuda") else 0,
        )
        for table in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            for failure in filter(None, table.column("failure").to_pylist()):
                raise ValueError(failure)
            for found in table.column("rows").to_pylist():
                yield pickle.loads(found)


@dataclass(frozen=True)
class _Counter:
    """Asks the actor [`Attempts`], which an actor of a chunk is told."""

    attempts: object

    def __call__(self, key: str) -> int:
        import ray

        return ray.get(self.attempts.add.remote(key))


def _noted(results: Iterable[list[VideoRow]], missing: dict[str, VideoRow]) -> Iterator[list[VideoRow]]:
    """Yield the rows of chunks, and take those videos out of the missing ones."""
    for rows in filter(None, results):
        for row in rows:
            del missing[row.source]
        yield rows


def score_on_ray(ray, actors: Actors, settings: WorkerSettings, names: Sequence[str], batches: Iterable[list[int]]):
    """
    Score the videos of an evaluation.

    Args:
        settings: with `scoring`.
        names: paths or URLs of all videos.
        batches: of the indices of those to score.

    Yields:
        lists of an index and an [`EmbeddedVideo`] with the scores or the error.
    """
    rows = ([VideoRow(str(index), names[index]) for index in batch] for batch in batches)
    size = max(1, CHUNK_VIDEOS // settings.batch_size)
    chunks = iter(lambda: list(islice(rows, size)), [])
    for some in RayEngine(ray, actors, settings).run(chunks):
        yield [(int(row.source), EmbeddedVideo(row.video, row.feature, row.frame_indices, row.error)) for row in some]
