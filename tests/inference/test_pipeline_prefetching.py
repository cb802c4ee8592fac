"""Reading ahead in threads: the pipeline's lists, generators and data sets."""

import threading
import time

import numpy as np
import pytest
import torch
from clips import moving_pattern
from threads import PATIENCE, Taken, no_threads, prefetch_threads
from tiny_models import LABELS, make_model, make_video_processor
from torch.utils.data import Dataset
from transformers import pipeline

from timesformer_hf import VideoReadError
from timesformer_hf.inference.pipeline_timesformer import TimesformerVideoClassificationPipeline


def make_pipeline():
    """One of its own, for tests that change it."""
    model = make_model(id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)})
    return pipeline("video-classification", model=model, video_processor=make_video_processor(), device="cpu")


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
    def test_errors_come_where_they_do_without_threads(self, classifier, serial, videos, corrupt, kind, batch_size):
        """And who goes on after one, finds what they found without threads."""
        mixed = [videos[0], videos[1], corrupt, *videos[2:]]
        expected = outcomes(serial(INPUTS[kind](mixed), batch_size=batch_size))
        assert outcomes(classifier(INPUTS[kind](mixed), batch_size=batch_size)) == expected
        assert sum("corrupt.mp4: can't be decoded" in str(outcome) for outcome in expected) == 1

    def test_an_error_in_a_list_is_raised(self, classifier, videos, corrupt):
        with pytest.raises(VideoReadError, match=r"corrupt\.mp4"):
            classifier([*videos, corrupt, videos[0]])

    @pytest.mark.parametrize("kind", ["generator", "dataset"])
    def test_an_error_of_the_input_itself_comes_in_its_turn(self, classifier, serial, videos, kind):
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

    def test_open_files_are_read_one_at_a_time(self, videos, monkeypatch):
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
            assert classifier(files, prefetch_workers=4) == classifier(files, prefetch_workers=0)
            assert max(most) == 1

    def test_arrays_are_taken_too(self, classifier, serial):
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

    def test_prefetch_workers_is_a_setting_of_the_pipeline(self, classifier, videos, monkeypatch):
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

    def test_a_bad_setting_is_refused(self, classifier, videos):
        with pytest.raises(ValueError, match="prefetch_workers=-1 must be at least 1, or 0 for no decoding ahead"):
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
