"""The files of `classify`, read ahead: one that is bad is alone, and how long the model was busy."""

from concurrent.futures import Future

import pytest

from timesformer_hf.inference.file_classification import BusyTime, classify_files, label_batch


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

    def test_bad_files_alone_give_errors_alone(self, classifier, corrupt):
        assert ["error" in row for row in classify_files(classifier, [corrupt] * 4, **self.settings())] == [True] * 4

    def test_a_batch_that_is_too_large_is_taken_one_by_one(self):
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

    def test_busy_time_by_hand(self):
        """A clock by hand: busy from 3 to 5 and from 8 to 9 of 0 to 10."""
        times = iter([0, 3, 5, 8, 9, 10, 10, 10])
        busy = BusyTime(clock=lambda: next(times))
        with busy.measured():
            pass
        with pytest.raises(OSError, match="counts as well"), busy.measured():
            raise OSError("counts as well")
        assert busy.busy_seconds == 3
        assert busy.share == pytest.approx(0.3)

    def test_no_time_at_all_is_no_share(self):
        assert BusyTime(clock=lambda: 7.0).share == 0
