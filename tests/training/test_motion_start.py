"""Initial values from which motion can be learnt: each does what its description says."""

import pytest
import torch
import torch.nn.functional as F
from tiny_models import SCHEMES

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification
from timesformer_hf.training.motion_start import NEIGHBOURS, start_for_motion


FRAMES, SIDE = 6, 48


@pytest.fixture(scope="module")
def clips():
    """Smooth random frames, which have strong and weak components as photographs have."""
    torch.manual_seed(0)
    rough = torch.randn(16 * FRAMES, 3, 12, 12)
    smooth = F.interpolate(rough, size=SIDE, mode="bicubic") + 0.3 * torch.randn(16 * FRAMES, 3, SIDE, SIDE)
    return smooth.unflatten(0, (16, FRAMES))


def make_started(clips, **fields) -> TimesformerForVideoClassification:
    values = {"image_size": SIDE, "num_frames": FRAMES, "hidden_size": 96, "num_attention_heads": 4}
    values |= {"num_hidden_layers": 2, "intermediate_size": 192, "num_labels": 5}
    torch.manual_seed(1)
    model = TimesformerForVideoClassification(TimesformerConfig(**values | fields)).eval()
    start_for_motion(model, clips)
    return model


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_starts_and_learns(clips, scheme):
    model = make_started(clips, attention_type=scheme)
    outputs = model(clips[:2], labels=torch.tensor([0, 1]), output_hidden_states=True)
    assert torch.equal(outputs.logits, torch.zeros(2, 5))  # the head starts without an opinion
    stds = [states.std().item() for states in outputs.hidden_states]
    assert all(0.1 < std < 10 for std in stds), stds
    outputs.loss.backward()
    assert model.classifier.weight.grad.any()


def test_patches_are_whitened(clips):
    """The embeddings of patches are uncorrelated, and a strong component is not more than a few times a weak one."""
    model = make_started(clips)
    embedded = model.timesformer.embeddings.patch_embeddings.projection(clips.flatten(0, 1)).flatten(2).transpose(1, 2)
    embedded = embedded.flatten(0, 1)[:, :80].double()
    covariance = torch.cov(embedded.T)
    deviations = covariance.diagonal().sqrt()
    correlation = covariance / deviations.outer(deviations)
    assert (correlation - torch.eye(80)).abs().max() < 1e-3
    patches = F.unfold(clips.flatten(0, 1), 16, stride=16).transpose(1, 2).flatten(0, 1)
    spread = torch.linalg.eigvalsh(torch.cov(patches.T.double())).flip(0)[:60].sqrt()
    assert spread[0] / spread[-1] > 5  # of the pixels
    assert deviations[0] / deviations[59] < 5


def test_heads_look_at_neighbouring_frames(clips):
    model = make_started(clips)
    maps = model(clips[:1], output_attentions=True).temporal_attentions[0][4]  # (heads, query frame, key frame)
    for head, offset in enumerate(NEIGHBOURS[:4]):
        for frame in range(FRAMES):
            if 0 <= frame + offset < FRAMES:
                assert maps[head, frame].argmax() == frame + offset
                assert maps[head, frame].max() > 0.8


def test_joint_heads_look_at_the_same_place(clips):
    model = make_started(clips, attention_type="joint_space_time")
    maps = model(clips[:1], output_attentions=True).attentions[0][0, 0]  # of the head that looks a frame back
    places = SIDE // 16 * (SIDE // 16)
    for place in range(places):
        for frame in range(1, FRAMES):
            query = 1 + place * FRAMES + frame
            assert maps[query].argmax() == query - 1


def test_codes_leave_the_content_alone(clips):
    model = make_started(clips)
    embeddings = model.timesformer.embeddings
    assert not embeddings.patch_embeddings.projection.weight[80:].any()
    assert not embeddings.position_embeddings[..., :80].any()
    assert not embeddings.time_embeddings[..., :80].any()
    assert len({tuple(code.tolist()) for code in embeddings.time_embeddings[0]}) == FRAMES
    assert len({tuple(code.tolist()) for code in embeddings.position_embeddings[0, 1:]}) == 9


def test_a_model_too_narrow_is_refused(clips):
    with pytest.raises(ValueError, match="hidden_size=24 must be at least 32"):
        make_started(clips, hidden_size=24)
