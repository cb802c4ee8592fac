"""The loss of clips against torch and loops, and the weights of classes."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from timesformer_hf.training.losses import ClipLoss, balanced_class_weights


def call(loss: ClipLoss, logits, labels, count=None) -> torch.Tensor:
    return loss({"logits": logits}, labels, num_items_in_batch=count)


class TestClipLoss:
    LOGITS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    LABELS = torch.tensor([0, 2, 1, 2, 0])

    def test_is_torchs_cross_entropy(self):
        assert call(ClipLoss(), self.LOGITS, self.LABELS).item() == pytest.approx(
            F.cross_entropy(self.LOGITS, self.LABELS).item(), rel=1e-6
        )

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 3.0])])
    @pytest.mark.parametrize("shares", [False, True])
    def test_weights_shares_and_smoothing_are_those_of_a_loop(self, shares, weights, smoothing):
        labels = F.one_hot(self.LABELS, 3).double()
        labels = 0.7 * labels + 0.3 * labels.roll(1, 0) if shares else labels
        expected = 0.0
        for row, target in zip(self.LOGITS.log_softmax(dim=1), labels, strict=True):
            target = (1 - smoothing) * target + smoothing / 3
            expected -= sum(target[i] * row[i] * (1 if weights is None else weights[i]) for i in range(3)) / 5
        found = call(ClipLoss(False, weights, smoothing), self.LOGITS, labels if shares else self.LABELS)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 3.0])])
    def test_several_labels_are_those_of_a_loop(self, weights):
        labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]]).double()
        expected = 0.0
        for row, target in zip(self.LOGITS.sigmoid(), labels, strict=True):
            for i in range(3):
                yes = (1 if weights is None else weights[i]) * target[i] * row[i].log()
                expected -= (yes + (1 - target[i]) * (1 - row[i]).log()) / 15
        assert call(ClipLoss(True, weights), self.LOGITS, labels).item() == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("multi_label", [False, True])
    def test_unreadable_clips_count_for_nothing(self, multi_label):
        """Loss and gradient are those of the batch without them; of none at all they are zero."""
        labels = F.one_hot(self.LABELS, 3).float() if multi_label else self.LABELS
        partly = labels.clone()
        partly[[1, 4]] = -100
        logits, kept = self.LOGITS.clone().requires_grad_(), self.LOGITS[[0, 2, 3]].clone().requires_grad_()
        loss, expected = (call(ClipLoss(multi_label), *pair) for pair in ((logits, partly), (kept, labels[[0, 2, 3]])))
        loss.backward()
        expected.backward()
        assert loss.item() == pytest.approx(expected.item())
        assert torch.allclose(logits.grad[[0, 2, 3]], kept.grad)
        assert not logits.grad[[1, 4]].any()
        none = call(ClipLoss(multi_label), logits, torch.full_like(labels, -100))
        none.backward()
        assert none.item() == 0

    @pytest.mark.parametrize("multi_label", [False, True])
    def test_parts_of_a_batch_add_up(self, multi_label):
        """With the count of the whole, as Trainer gives it for gradient accumulation and several processes."""
        labels = F.one_hot(self.LABELS, 3).float() if multi_label else self.LABELS.clone()
        labels[3] = -100
        count = labels.ne(-100).sum()
        loss = ClipLoss(multi_label)
        parts = [call(loss, self.LOGITS[part], labels[part], count) for part in (slice(0, 2), slice(2, 5))]
        assert sum(parts).item() == pytest.approx(call(loss, self.LOGITS, labels).item())

    def test_smoothing_is_for_training(self):
        loss = ClipLoss(label_smoothing=0.1)
        smoothed = call(loss, self.LOGITS, self.LABELS)
        loss.training = False
        assert call(loss, self.LOGITS, self.LABELS) == call(ClipLoss(), self.LOGITS, self.LABELS) != smoothed


class TestClassWeights:
    LABELS = [("a",)] * 6 + [("b",)] * 3 + [("c",)]

    def test_every_class_has_the_same_say(self):
        weights = balanced_class_weights(self.LABELS, ["c", "a", "b", "unseen"])
        assert weights.tolist() == pytest.approx([10 / 3, 10 / 18, 10 / 9, 1])
        say = [weight * count for weight, count in zip(weights.tolist(), (1, 6, 3), strict=False)]
        assert say == pytest.approx([10 / 3] * 3)  # whose sum is the number of videos: the mean weight is 1

    def test_several_labels_are_weighted_each(self):
        weights = balanced_class_weights([("a",), ("a", "b"), (), ()], ["a", "b", "unseen"], multi_label=True)
        assert weights.tolist() == [1, 3, 1]  # videos without the label, for one with it

    def test_training_with_them_is_training_on_repeated_videos(self):
        """The gradient is that of a set in which the rare class comes as often as the others."""
        generator = torch.Generator().manual_seed(1)
        logits = torch.randn(4, 2, generator=generator, dtype=torch.float64)
        labels = torch.tensor([0, 0, 0, 1])
        weights = balanced_class_weights([("a",)] * 3 + [("b",)], ["a", "b"])
        repeated = [0, 1, 2, 3, 3, 3]
        expected = F.cross_entropy(logits[repeated], labels[repeated])
        assert call(ClipLoss(False, weights), logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
        assert np.isclose(weights[1] / weights[0], 3)
