"""Features of a clip, its frames and its patches, against loops over the recorded hidden states."""

import numpy as np
import pytest
import torch
from tiny_models import FLOAT32, SCHEMES, make_clip, make_model


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(2, 4, 3, 32, 32), (1, 3, 3, 16, 40)])
def test_levels_are_means_of_the_tokens(scheme, shape):
    model, clip = make_model(scheme).timesformer.double(), make_clip(*shape, dtype=torch.float64)
    batch, frames, rows, columns = shape[0], shape[1], shape[3] // 8, shape[4] // 8
    with torch.no_grad():
        outputs = model(clip, output_hidden_states=True)
        features = {level: model.clip_features(clip, level) for level in ("clip", "frame", "patch")}
        tokens = model.layernorm(outputs.hidden_states[-1])
    assert features["patch"].shape == (batch, frames, rows, columns, 48)
    for b, f, r, c in np.ndindex(batch, frames, rows, columns):
        place = r * columns + c
        token = tokens[b * frames + f, 1 + place] if scheme == "space_only" else tokens[b, 1 + place * frames + f]
        torch.testing.assert_close(features["patch"][b, f, r, c], token, rtol=0, atol=1e-12)
    means = torch.stack([features["patch"][:, f].flatten(1, 2).mean(1) for f in range(frames)], dim=1)
    torch.testing.assert_close(features["frame"], means, rtol=0, atol=1e-12)
    torch.testing.assert_close(features["clip"], outputs.last_hidden_state[:, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_clip_feature_is_what_the_head_sees(scheme):
    model, clip = make_model(scheme), make_clip()
    logits = model.classifier(model.timesformer.clip_features(clip))
    torch.testing.assert_close(logits, model(clip).logits, **FLOAT32)


@pytest.mark.parametrize("scheme", ["divided_space_time", "space_only"])
def test_a_patch_is_at_its_place(scheme):
    """Without blocks a token has seen nothing but its patch: changing one patch changes its feature alone."""
    model = make_model(scheme).timesformer
    model.encoder.layer = torch.nn.ModuleList()
    clip, other = make_clip(1, 4, 3, 32, 32), make_clip(1, 4, 3, 32, 32)
    other[0, 2, :, 8:16, 24:32] += 1
    changed = (model.clip_features(clip, "patch") != model.clip_features(other, "patch")).any(-1)
    assert changed.nonzero().tolist() == [[0, 2, 1, 3]]


def test_unknown_level():
    with pytest.raises(ValueError, match="level='video' must be one of 'clip', 'frame', 'patch'"):
        make_model().timesformer.clip_features(make_clip(), "video")


def test_gradients_reach_every_pixel():
    clip = make_clip().requires_grad_()
    make_model("space_only").timesformer.clip_features(clip, "frame").square().sum().backward()
    assert (clip.grad.abs().amax((2, 3, 4)) > 0).all()
