"""
How long a corpus takes, on how many machines, for what price: the arithmetic of `timesformer-hf plan`.

A machine does three things at the same time: it fetches files, decodes them, and runs the model. On a CPU, decoding and
the model share the cores, so their times add up. With an accelerator they don't, and the slower one decides.
"""

import math
from dataclasses import dataclass, replace


MILLION = 1_000_000
_HOUR = 3600.0


@dataclass(frozen=True)
class Measurement:
    """
    What a short run on a machine has measured.

    Attributes:
        machine: its name, in words.
        cores: how many cores the run could use.
        device: where the model computed, for example `"cpu"` or `"cuda"`.
        startup_seconds: what a run takes besides its videos, to start, load the model and end.
        decode_core_seconds: for each video, the time of one core for decoding and resizing.
        model_seconds: for each video, the time of the model while nothing is decoded.
        video_seconds: for each video, the time in a running worker, which decodes and computes side by side.
    """

    machine: str
    cores: int
    device: str
    startup_seconds: float
    decode_core_seconds: float
    model_seconds: float
    video_seconds: float

    @property
    def overhead(self) -> float:
        """How many times as long a video takes in a running worker as this arithmetic alone says."""
        return self.video_seconds / self._work(self.cores)

    def seconds_per_video(self, cores: int | None = None) -> float:
        """Return the time for a video on a machine of the same kind with so many cores (default: those measured)."""
        return self.overhead * self._work(cores or self.cores)

    def _work(self, cores: int) -> float:
        decode, model = self.decode_core_seconds / cores, self.model_seconds
        return max(decode, model) if self.has_accelerator else decode + model * self.cores / cores

    @property
    def has_accelerator(self) -> bool:
        """Whether the model computes elsewhere than on the cores that decode."""
        return not self.device.startswith("cpu")

    def changed(self, decode_core_seconds: float | None = None, model_seconds: float | None = None) -> "Measurement":
        """Return what a running worker would take if decoding or the model took another time."""
        decode = self.decode_core_seconds if decode_core_seconds is None else decode_core_seconds
        other = replace(self, decode_core_seconds=decode, model_seconds=model_seconds or self.model_seconds)
        return replace(other, video_seconds=self.overhead * other._work(self.cores))


@dataclass(frozen=True)
class Corpus:
    """
    What is to be done.

    Attributes:
        videos: their number.
        bytes: the mean size of a file.
    """

    videos: int
    bytes: float


@dataclass(frozen=True)
class Machines:
    """
    What it is done on.

    Attributes:
        cores: of each machine (default: as many as where it was measured).
        number: how many machines.
        network: the bytes that a machine can fetch in a second; `None` for local files.
        price: of a machine for an hour.
    """

    cores: int | None = None
    number: int = 1
    network: float | None = None
    price: float | None = None


@dataclass(frozen=True)
class Plan:
    """
    How a corpus is done.

    Attributes:
        limit: what decides the speed: `"network"`, `"decoding"` or `"model"`.
        seconds_per_video: on each machine.
        hours: for the whole corpus, on all machines together at once.
        price: of the whole corpus, if the price of a machine is known.
        price_per_million: of a million videos, without the start.
    """

    limit: str
    seconds_per_video: float
    hours: float
    price: float | None
    price_per_million: float | None

    @property
    def videos_per_second(self) -> float:
        """How many videos a machine does in a second."""
        return 1 / self.seconds_per_video


def make_plan(measured: Measurement, corpus: Corpus, machines: Machines) -> Plan:
    """Return how long a corpus takes on some machines, and what it costs."""
    cores = machines.cores or measured.cores
    computing = measured.seconds_per_video(cores)
    fetching = corpus.bytes / machines.network if machines.network else 0.0
    decoding = measured.decode_core_seconds / cores
    model = measured.model_seconds if measured.has_accelerator else measured.model_seconds * measured.cores / cores
    limit = "network" if fetching > computing else "decoding" if decoding > model else "model"
    seconds = max(computing, fetching)
    hours = (measured.startup_seconds + math.ceil(corpus.videos / machines.number) * seconds) / _HOUR
    price = None if machines.price is None else hours * machines.number * machines.price
    per_million = None if machines.price is None else MILLION * seconds / _HOUR * machines.price
    return Plan(limit, seconds, hours, price, per_million)


def count_machines(measured: Measurement, corpus: Corpus, machines: Machines, hours: float) -> int:
    """
    Return how many machines do a corpus within so many hours.

    Raises:
        ValueError: if the start of the program alone takes longer.
    """
    left = hours * _HOUR - measured.startup_seconds
    at_once = math.floor(left / make_plan(measured, corpus, machines).seconds_per_video) if left > 0 else 0
    if at_once < 1:
        raise ValueError(
            f"{hours:g} hours are too short: the program takes {measured.startup_seconds:.0f} s, and a video "
            f"{make_plan(measured, corpus, machines).seconds_per_video:.2g} s more"
        )
    return math.ceil(corpus.videos / at_once)
