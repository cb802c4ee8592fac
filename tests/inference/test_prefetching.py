"""Reading ahead in threads: the bare generator, the pipeline's lists and generators, and the files of `classify`."""

import gc
import itertools
import json
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future
from functools import partial

import numpy as np
import pytest
import torch
from clips import moving_pattern, write_video
from tiny_models import make_model
from torch.utils.data import Dataset
from transformers import pipeline

from timesformer_hf import TimesformerVideoProcessor, VideoReadError
from timesformer_hf.cli import main
from timesformer_hf.commands.classify import speed_line
from timesformer_hf.inference.file_classification import BusyTime, classify_files, label_batch
from timesformer_hf.inference.pipeline_timesformer import TimesformerVideoClassificationPipeline
from timesformer_hf.inference.prefetching import MOST_WORKERS, PrefetchedSequence, default_workers, prefetch


SIZE = {"height": 32, "width": 32}
PATIENCE = 20  # seconds that a test waits for a thread before it fails


def results(futures) -> list:
    return [future.result() for future in futures]


def prefetch_threads() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


def no_threads() -> bool:
    """Whether they all end. An error keeps what it came through until the garbage collector finds it."""
    gc.collect()
    return wait_until(lambda: prefetch_threads() == 0)


def wait_until(condition) -> bool:
    """Whether it comes true."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


class Taken:
    """An iterator that remembers what was taken from it."""

    def __init__(self, items):
        self.items, self.taken, self.threads = iter(items), [], set()

    def __iter__(self):
        return self

    def __next__(self):
        self.taken.append(next(self.items))
        self.threads.add(threading.get_ident())
        return self.taken[-1]


class TestPrefetch:
    @pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (1, 5), (3, 1), (3, 4), (8, 50)])
    def test_order(self, workers, ahead):
        """The later ones are done first."""

        def function(number: int) -> int:
            time.sleep((19 - number) * 5e-4)
            return number * number

        assert results(prefetch(function, range(20), workers, ahead)) == [number * number for number in range(20)]

    def test_nothing(self):
        assert list(prefetch(abs, [], 2, 2)) == []

    def test_futures_are_done(self):
        assert all(future.done() for future in prefetch(time.sleep, [0.01] * 5, 2, 3))

    def test_items_are_taken_late_and_by_the_caller(self):
        items = Taken(range(10))
        futures = prefetch(abs, items, 2, ahead=3)
        assert items.taken == []
        for position in range(10):
            assert next(futures).result() == position
            assert items.taken == list(range(min(position + 3, 10)))
        assert list(futures) == []
        assert items.threads == {threading.get_ident()}

    def test_endless(self):
        futures = prefetch(abs, itertools.count(), 2, 4)
        assert results(itertools.islice(futures, 5)) == [0, 1, 2, 3, 4]
        futures.close()

    def test_runs_ahead_of_its_user(self):
        begun = [threading.Event() for _ in range(6)]
        futures = prefetch(lambda number: begun[number].set(), range(6), workers=1, ahead=3)
        next(futures)
        assert all(event.wait(PATIENCE) for event in begun[1:3])
        assert not any(event.is_set() for event in begun[3:])
        futures.close()

    def test_works_in_parallel(self):
        """Each waits for the others: with fewer threads none would ever be done."""
        barrier = threading.Barrier(3)
        assert len(results(prefetch(lambda _: barrier.wait(PATIENCE), range(6), workers=3, ahead=3))) == 6

    def test_no_more_threads_than_workers(self):
        at_once, most, lock = 0, 0, threading.Lock()

        def function(_):
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.002)
            with lock:
                at_once -= 1

        list(prefetch(function, range(30), workers=2, ahead=10))
        assert most == 2

    def test_results_are_not_held(self):
        """No more of them are alive than are ahead, and none that its user has let go."""

        class Result:
            pass

        alive = []

        def function(_):
            result = Result()
            alive.append(weakref.ref(result))
            return result

        for future in prefetch(function, range(8), workers=2, ahead=3):
            del future
            gc.collect()
            assert sum(reference() is not None for reference in alive) <= 3

    def test_an_error_is_that_of_its_item(self):
        futures = list(prefetch(lambda number: 6 // number, [3, 0, 2], 2, 3))
        assert [type(future.exception()) for future in futures] == [type(None), ZeroDivisionError, type(None)]
        assert [futures[0].result(), futures[2].result()] == [2, 3]

    def test_an_item_that_cannot_be_taken(self):
        """The error comes in its turn, after the results of the items before it."""

        def items():
            yield 1
            yield 2
            raise OSError("the list ends here")

        first, second, third = prefetch(abs, items(), 2, 5)
        assert (first.result(), second.result()) == (1, 2)
        with pytest.raises(OSError, match="the list ends here"):
            third.result()

    def test_items_after_one_that_cannot_be_taken(self):
        rows = map([1, 2, 3].__getitem__, [0, 7, 2])
        assert [type(future.exception()) for future in prefetch(abs, rows, 1, 2)] == [
            type(None),
            IndexError,
            type(None),
        ]

    @pytest.mark.parametrize("stop", ["close", "drop"])
    def test_stopping_early(self, stop):
        """What hasn't begun never does, and no thread stays."""
        assert no_threads()
        done, release = [], threading.Event()

        def function(number: int) -> None:
            if number:
                release.wait(PATIENCE)
            done.append(number)

        futures = prefetch(function, range(100), workers=1, ahead=10)
        next(futures)
        if stop == "close":
            futures.close()
        else:
            del futures
        release.set()
        assert no_threads()
        assert done in ([0], [0, 1])  # one may have been under way

    def test_stopping_does_not_wait(self):
        release = threading.Event()
        futures = prefetch(lambda number: number and release.wait(PATIENCE), range(3), 1, 3)
        next(futures)
        start = time.monotonic()
        futures.close()
        assert time.monotonic() - start < PATIENCE / 2
        release.set()

    def test_no_thread_stays_after_the_last(self):
        assert no_threads()
        futures = prefetch(abs, range(4), 4, 4)
        assert len(list(futures)) == 4
        assert no_threads()

    def test_interrupt_ends_the_program(self):
        """While it waits for something that takes long: at once, without what hasn't begun."""
        script = (
            "import signal, os, threading, time\n"
            "from timesformer_hf.inference.prefetching import prefetch\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what runs in the background ignores it
            "threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
            "for _ in prefetch(lambda _: time.sleep(1.5), range(1000), workers=2, ahead=500): pass\n"
        )
        start = time.monotonic()
        process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert "KeyboardInterrupt" in process.stderr
        assert process.returncode != 0
        assert time.monotonic() - start < 100  # all of it would take over six minutes

    @pytest.mark.parametrize(("workers", "ahead"), [(0, 2), (2, 0), (-1, 1)])
    def test_bad_settings(self, workers, ahead):
        """Told by the call, not by the first item."""
        with pytest.raises(ValueError, match=f"workers={workers} and ahead={ahead} must be at least 1"):
            prefetch(abs, [1], workers, ahead)

    def test_default_workers(self):
        assert 1 <= default_workers() <= MOST_WORKERS


class TestPrefetchedSequence:
    def test_in_order(self):
        calls = []
        sequence = PrefetchedSequence(lambda item: calls.append(item) or item.upper(), "abcdef", workers=1, ahead=2)
        assert len(sequence) == 6
        assert [sequence[index].result() for index in range(6)] == list("ABCDEF")
        assert calls == list("abcdef")  # each once

    def test_a_second_time(self):
        sequence = PrefetchedSequence(str.upper, "abc", workers=2, ahead=2)
        for _ in range(2):
            assert [sequence[index].result() for index in range(3)] == list("ABC")

    def test_out_of_turn(self):
        sequence = PrefetchedSequence(str.upper, "abcdef", workers=2, ahead=3)
        assert [sequence[index].result() for index in (0, 1, 4, 5, 2, 2, 3)] == list("ABEFCCD")


def make_pipeline(**settings):
    labels = dict(enumerate(("running", "sitting", "jumping", "falling", "sleeping")))
    model = make_model(id2label=labels, label2id={name: number for number, name in labels.items()})
    processor = TimesformerVideoProcessor(size=SIZE, crop_size=SIZE, num_frames=4, **settings)
    return pipeline("video-classification", model=model, video_processor=processor, device="cpu")


@pytest.fixture(scope="module")
def classifier():
    return make_pipeline()


@pytest.fixture(scope="module")
def serial(classifier):
    """Every video when its turn has come: the slow twin."""
    return partial(classifier, prefetch_workers=0)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    sizes = [(48, 64), (64, 48), (96, 96), (32, 80), (40, 40)]
    return [str(write_video(folder / f"{i}.mp4", moving_pattern(12 + 3 * i, *size))) for i, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def folder(classifier, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    classifier.model.save_pretrained(folder)
    classifier.video_processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def corrupt(tmp_path) -> str:
    path = tmp_path / "corrupt.mp4"
    path.write_text("no video at all")
    return str(path)


class VideoList(Dataset):
    def __init__(self, videos):
        self.videos = videos

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, index):
        return self.videos[index]


INPUTS = {"list": list, "generator": lambda videos: (video for video in videos), "dataset": VideoList}


def outcomes(iterator) -> list:
    """What comes out of it, errors too."""
    found, iterator = [], iter(iterator)
    for _ in range(100):
        try:
            found.append(next(iterator))
        except StopIteration:
            return found
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    raise AssertionError("it has no end")


class TestPipeline:
    @pytest.mark.parametrize(
        ("kind", "settings"),
        [
            ("list", {}),
            ("dataset", {}),
            ("list", {"batch_size": 2}),
            ("dataset", {"batch_size": 2}),
            ("generator", {"batch_size": 2}),
            ("generator", {"batch_size": 3, "prefetch_workers": 1}),
            ("list", {"batch_size": 20, "prefetch_workers": 5}),
            ("list", {"num_clips": 2, "batch_size": 2}),
            ("generator", {"num_crops": 3, "top_k": 2}),
            ("dataset", {"views": "paper", "frame_sampling_rate": 2, "batch_size": 3, "average": "logits"}),
            ("list", {"num_frames": 6, "frame_sampling_rate": 2, "function_to_apply": "sigmoid"}),
        ],
    )
    def test_equals_the_serial_one(self, classifier, serial, videos, kind, settings):
        serial_settings = {name: value for name, value in settings.items() if name != "prefetch_workers"}
        expected = list(serial(INPUTS[kind](videos), **serial_settings))
        assert list(classifier(INPUTS[kind](videos), **settings)) == expected
        assert len(expected) == len(videos)

    def test_reads_in_threads_ahead_of_the_model(self, videos, monkeypatch):
        """The second video is read while the model is still at the first, which waits for that."""
        classifier, second_is_read, readers = make_pipeline(), threading.Event(), set()
        preprocess, forward = classifier.video_processor.preprocess, classifier.model.forward

        def recorded(video, **settings):
            readers.add(threading.get_ident())
            inputs = preprocess(video, **settings)
            if video == videos[1]:
                second_is_read.set()
            return inputs

        def waiting(*args, **kwargs):
            assert second_is_read.wait(PATIENCE)
            return forward(*args, **kwargs)

        monkeypatch.setattr(classifier.video_processor, "preprocess", recorded)
        monkeypatch.setattr(classifier.model, "forward", waiting)
        assert len(classifier(videos[:3], prefetch_workers=1)) == 3
        assert threading.get_ident() not in readers

    @pytest.mark.parametrize("prefetch_workers", [0, 2])
    def test_generators_are_read_as_far_as_it_takes(self, classifier, videos, prefetch_workers):
        taken = Taken(videos * 10)
        answers = classifier((video for video in taken), batch_size=2, prefetch_workers=prefetch_workers)
        next(iter(answers))
        # the pipeline itself looks at the first of a generator, and takes what it wants of the second batch
        assert len(taken.taken) <= 2 + prefetch_workers + 2 + 1

    @pytest.mark.parametrize("batch_size", [1, 2, 3])
    @pytest.mark.parametrize("kind", ["generator", "dataset"])
    def test_errors_come_where_they_did(self, classifier, serial, videos, corrupt, kind, batch_size):
        """And who goes on after one, finds what they found without threads."""
        mixed = [videos[0], videos[1], corrupt, *videos[2:]]
        expected = outcomes(serial(INPUTS[kind](mixed), batch_size=batch_size))
        assert outcomes(classifier(INPUTS[kind](mixed), batch_size=batch_size)) == expected
        assert sum("corrupt.mp4: can't be decoded" in str(outcome) for outcome in expected) == 1

    def test_error_in_a_list(self, classifier, videos, corrupt):
        with pytest.raises(VideoReadError, match=r"corrupt\.mp4"):
            classifier([*videos, corrupt, videos[0]])

    @pytest.mark.parametrize("kind", ["generator", "dataset"])
    def test_error_of_the_input_itself(self, classifier, serial, videos, kind):
        class Broken(VideoList):
            def __getitem__(self, index):
                if index == 2:
                    raise OSError("this row is damaged")
                return super().__getitem__(index)

        def broken():
            yield from videos[:2]
            raise OSError("this row is damaged")

        make = {"generator": broken, "dataset": lambda: Broken(videos)}[kind]
        expected = outcomes(serial(make()))
        assert expected[2] == "OSError: this row is damaged"
        assert outcomes(classifier(make())) == expected

    def test_dataset_has_its_length_and_can_be_read_twice(self, classifier, videos):
        answers = classifier(VideoList(videos))
        assert len(answers) == len(videos)
        assert list(answers) == list(answers)
        assert len(classifier(VideoList(videos), batch_size=2)) == 3  # batches, as without threads

    def test_stopping_early_leaves_no_thread(self, classifier, videos):
        assert no_threads()
        answers = iter(classifier((video for video in videos * 10), prefetch_workers=2))
        next(answers)
        assert prefetch_threads() > 0
        del answers
        assert no_threads()

    def test_one_open_file_twice(self, serial, videos, monkeypatch):
        """Its position is that of both, so open files are read one at a time."""
        classifier, reading, most = make_pipeline(), [], []
        preprocess = classifier.video_processor.preprocess

        def recorded(video, **settings):
            reading.append(video)
            time.sleep(0.01)  # long enough for another thread to begin
            most.append(len(reading))
            inputs = preprocess(video, **settings)
            reading.remove(video)
            return inputs

        monkeypatch.setattr(classifier.video_processor, "preprocess", recorded)
        with open(videos[0], "rb") as file, open(videos[2], "rb") as other:
            files = [file, other] * 3
            assert classifier(files, prefetch_workers=4) == serial(files)
            assert max(most) == 1

    def test_arrays(self, classifier, serial):
        clips = [np.stack(moving_pattern(6 + i, 40, 50)) for i in range(4)]
        assert classifier(clips, batch_size=2) == serial(clips, batch_size=2)

    def test_worker_processes_on_request(self, classifier, serial, videos, monkeypatch):
        """`num_workers` means what it does in transformers: processes of its own, and no threads here."""
        expected = serial(videos)
        monkeypatch.setattr(TimesformerVideoClassificationPipeline, "read_ahead", None)
        assert list(classifier(VideoList(videos), num_workers=1)) == expected

    def test_a_single_video_takes_no_thread(self, classifier, videos, monkeypatch):
        monkeypatch.setattr(TimesformerVideoClassificationPipeline, "read_ahead", None)
        assert len(classifier(videos[0])) == 5

    def test_setting_of_the_pipeline(self, classifier, videos, monkeypatch):
        monkeypatch.setattr("timesformer_hf.inference.pipeline_timesformer.PrefetchedSequence", None)
        kept = pipeline(
            "video-classification",
            model=classifier.model,
            video_processor=classifier.video_processor,
            prefetch_workers=0,
        )
        assert len(kept(videos[:2])) == 2
        assert len(kept(videos[0])) == 5
        with pytest.raises(TypeError):  # where the call asks for threads
            kept(videos[:2], prefetch_workers=1)

    def test_bad_setting(self, classifier, videos):
        with pytest.raises(ValueError, match="prefetch_workers=-1 must be at least 1, or 0 for none"):
            classifier(videos, prefetch_workers=-1)

    @pytest.mark.parametrize(
        ("device", "of_processor", "in_worker", "expected"),
        [
            ("cpu", None, False, None),
            ("cuda:1", None, False, "cuda:1"),
            ("mps", None, False, None),
            ("cuda:1", "cpu", False, None),  # the processor knows already
            ("cuda:1", None, True, None),
        ],
    )
    def test_frames_go_where_the_model_is(self, device, of_processor, in_worker, expected, videos, monkeypatch):
        """The twin of `test_pipeline_on_the_device`: what the processor is told."""
        classifier, told = make_pipeline(), []
        preprocess = classifier.video_processor.preprocess

        def recorded(video, device=None, **settings):
            told.append(None if device is None else str(device))
            return preprocess(video, **settings)

        monkeypatch.setattr(classifier.video_processor, "preprocess", recorded)
        monkeypatch.setattr(classifier.video_processor, "device", of_processor)
        monkeypatch.setattr(classifier, "device", torch.device(device))
        monkeypatch.setattr("timesformer_hf.inference.pipeline_timesformer.get_worker_info", lambda: in_worker or None)
        classifier.preprocess(videos[0])
        assert told == [expected]


def done(value) -> Future:
    future = Future()
    future.set_exception(value) if isinstance(value, BaseException) else future.set_result(value)
    return future


class TestFiles:
    def settings(self) -> dict:
        return {"batch_size": 3, "model_time": BusyTime()}

    def test_equals_the_serial_pipeline(self, classifier, serial, videos):
        found = list(classify_files(classifier, videos, **self.settings(), top_k=2))
        assert [row["video"] for row in found] == videos
        for row, expected in zip(found, serial(videos, batch_size=3, top_k=2), strict=True):
            assert row["predictions"] == expected

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 20])
    def test_a_bad_file_is_alone(self, classifier, serial, videos, corrupt, batch_size, tmp_path):
        missing = str(tmp_path / "missing.mp4")
        mixed = [corrupt, *videos[:3], missing, corrupt, corrupt, *videos[3:], missing]
        found = list(classify_files(classifier, mixed, batch_size, BusyTime()))
        assert [row["video"] for row in found] == mixed
        good = [row["predictions"] for row in found if "predictions" in row]
        for row, expected in zip(good, serial(videos), strict=True):
            assert [p["label"] for p in row] == [p["label"] for p in expected]
            # another batch, other roundings
            assert [p["score"] for p in row] == pytest.approx([p["score"] for p in expected], abs=1e-6)
        assert [row["video"] in row["error"] for row in found if "error" in row] == [True] * 5

    def test_only_bad_files(self, classifier, corrupt):
        assert ["error" in row for row in classify_files(classifier, [corrupt] * 4, **self.settings())] == [True] * 4

    def test_batches_that_are_too_large(self):
        """A model with memory for two, which can't take 5 at all."""
        sizes = []

        def classify(batch):
            numbers = [future.result() for future in batch]
            sizes.append(len(numbers))
            if len(numbers) > 2:
                raise RuntimeError("out of memory")
            if 5 in numbers:
                raise ValueError("it can't be 5")
            return [[{"label": str(number), "score": 1.0}] for number in numbers]

        labels = label_batch(classify, [done(1), done(OSError("gone")), done(5), done(3)])
        assert [str(outcome) if isinstance(outcome, Exception) else outcome[0]["label"] for outcome in labels] == [
            "1",
            "gone",
            "it can't be 5",
            "3",
        ]
        assert sizes == [3, 1, 1, 1]

    def test_an_interrupt_is_no_bad_file(self):
        with pytest.raises(KeyboardInterrupt):
            label_batch(lambda batch: [[]] * len(batch), [done(1), done(KeyboardInterrupt())])

    def test_an_error_without_words_has_its_name(self, classifier, videos, monkeypatch):
        def fail(*args, **kwargs):
            raise NotImplementedError

        monkeypatch.setattr(classifier.video_processor, "preprocess", fail)
        (row,) = classify_files(classifier, videos[:1], **self.settings())
        assert row == {"video": videos[0], "error": "NotImplementedError"}

    def test_busy_time(self):
        """A clock by hand: busy from 3 to 5 and from 8 to 9 of 0 to 10."""
        times = iter([0, 3, 5, 8, 9, 10, 10, 10])
        busy = BusyTime(clock=lambda: next(times))
        with busy.measured():
            pass
        with pytest.raises(OSError, match="counts as well"), busy.measured():
            raise OSError("counts as well")
        assert busy.busy_seconds == 3
        assert busy.share == pytest.approx(0.3)

    def test_no_time_at_all(self):
        assert BusyTime(clock=lambda: 7.0).share == 0

    def test_speed_line(self):
        times = iter([0, 1, 9, 10, 10, 10])
        busy = BusyTime(clock=lambda: next(times))
        with busy.measured():
            pass
        assert speed_line(20, busy) == "20 videos in 10.0 s, 2.0 a second; the model was busy 80% of the time"


class TestCommand:
    def test_batches_and_workers_change_no_answer(self, folder, videos, corrupt, capsys):
        """Only the last digits, by other roundings."""
        mixed = [*videos[:2], corrupt, *videos[2:]]
        printed = []
        for arguments in ([], ["--batch-size", "3"], ["--batch-size", "100", "--num-workers", "3"]):
            assert main(["classify", *mixed, "--model", folder, "--json", *arguments]) == 1
            printed.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
        for rows in printed:
            assert [row["video"] for row in rows] == mixed
            for row, expected in zip(rows, printed[0], strict=True):
                assert row.get("error") == expected.get("error")
                scores, others = ({p["label"]: p["score"] for p in r.get("predictions", [])} for r in (row, expected))
                assert scores == pytest.approx(others, abs=1e-6)

    def test_speed_of_several_on_stderr(self, folder, videos, capsys):
        assert main(["classify", *videos, "--model", folder, "--json"]) == 0
        output = capsys.readouterr()
        assert len(output.out.splitlines()) == len(videos)
        assert f"timesformer-hf: {len(videos)} videos in " in output.err
        assert "% of the time" in output.err

    def test_no_speed_of_one(self, folder, videos, capsys):
        assert main(["classify", videos[0], "--model", folder]) == 0
        assert "of the time" not in capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--batch-size", "--num-workers"])
    def test_mistakes(self, option, capsys):
        with pytest.raises(SystemExit):
            main(["classify", "a.mp4", option, "0"])
        assert "0 must be at least 1" in capsys.readouterr().err
