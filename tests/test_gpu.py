"""What needs a CUDA device: `pytest -m gpu`. Each has its twin on the CPU in the other files, or here."""

from contextlib import contextmanager

import pytest
import torch
from tiny_models import SCHEMES, make_clip, make_model
from transformers import pipeline
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from timesformer_hf import (
    TimesformerForVideoClassification,
    TimesformerImageProcessor,
    TimesformerVideoProcessor,
    optimize_for_inference,
)
from timesformer_hf.inference.quantization import quantize
from timesformer_hf.model.backends import has_short_group_kernel
from timesformer_hf.video.video_decoding import decode_frames


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_equals_the_cpu(scheme):
    model, clip, labels = make_model(scheme).double(), make_clip(2, 6, 3, 40, 24).double(), torch.tensor([0, 1])
    expected = model(clip, labels=labels)
    outputs = model.to("cuda")(clip.cuda(), labels=labels.cuda())
    torch.testing.assert_close(outputs.logits.cpu(), expected.logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(outputs.loss.cpu(), expected.loss, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("backend", ["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"])
def test_attention_backends_in_half_precision(scheme, backend):
    """bfloat16 has 8 bits; three blocks of rounding on logits of about 1."""
    flash = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
    if backend in flash and not flash[backend]():
        pytest.skip(f"needs the package of {backend}")
    model, clip = make_model(scheme, hidden_size=128).cuda(), make_clip(2, 5, 3, 24, 40).cuda()  # some groups padded
    expected = model(clip).logits
    model.set_attn_implementation(backend)
    logits = model.to(torch.bfloat16)(clip).logits
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=0.15)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_training_step_in_bfloat16(scheme):
    model = make_model(scheme, drop_path_rate=0.1).to("cuda", torch.bfloat16).train()
    model.gradient_checkpointing_enable()
    model(make_clip().cuda(), labels=torch.tensor([0, 1]).cuda()).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_optimized_for_inference(scheme):
    """Its twin on the CPU is in test_inference.py."""
    model, clip = make_model(scheme).double(), make_clip(2, 6, 3, 40, 24).double()
    with torch.no_grad():
        logits = optimize_for_inference(model.cuda())(clip.cuda()).logits
        torch.testing.assert_close(logits.cpu(), model.cpu()(clip).logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_optimized_and_compiled(mode):
    """With CUDA graphs, too. bfloat16 has 8 bits; three blocks of rounding on logits of about 1."""
    torch.compiler.reset()
    model, clip = make_model().cuda(), make_clip().cuda()
    with torch.inference_mode():
        expected = model(clip).logits
        fast = torch.compile(optimize_for_inference(model.to(torch.bfloat16)), mode=mode)
        for _ in range(3):  # a graph is recorded in the second
            logits = fast(clip.to(torch.bfloat16)).logits.float()
        torch.testing.assert_close(logits, expected, rtol=0, atol=0.15)


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_quantized(name):
    """fp8 has 4 bits, the rest as in test_quantization.py. torch's kernels ask for sides that are multiples of 16."""
    pytest.importorskip("torchao.quantization", reason="needs torchao")
    if name == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("fp8 needs Ada or Hopper")
    model, clip = make_model(hidden_size=64, intermediate_size=128, num_labels=16).cuda(), make_clip().cuda()
    with torch.inference_mode():
        expected = model(clip).logits
        fast = quantize(optimize_for_inference(model.to(torch.bfloat16)), name)
        logits = torch.compile(fast)(clip.to(torch.bfloat16)).logits.float()
    assert (logits - expected).abs().max() < 0.2 * expected.abs().max()


def test_training_keeps_less_and_gets_the_same():
    """Its twin on the CPU is in test_activation_recompute.py."""
    model, clip, labels = make_model().double(), make_clip().double(), torch.tensor([0, 1])
    model(clip, labels=labels).loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    twin = make_model().double().cuda()
    twin(clip.cuda(), labels=labels.cuda()).loss.backward()
    got = {name: parameter.grad.cpu() for name, parameter in twin.named_parameters()}
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_bad_labels_are_an_error_and_no_device_assert():
    model = make_model().cuda()
    with pytest.raises(ValueError, match=r"got \[7\]"):
        model(make_clip().cuda(), labels=torch.tensor([0, 7]).cuda())
    assert model(make_clip().cuda()).logits.isfinite().all()  # the device still works


@contextmanager
def compiling():
    """Inductor of torch 2.11, for CUDA, raises one of its own exceptions without arguments; 2.14 doesn't."""
    torch.compiler.reset()
    try:
        yield
    except Exception as error:
        if "CantSplit.__init__() missing" not in str(error):
            raise
        pytest.skip(f"torch {torch.__version__} can't compile this: {error}")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compiled(scheme):
    """In float64, since the patch convolution in float32 takes TF32, differently from one kernel to the next."""
    model = make_model(scheme).double().cuda()
    compiled = torch.compile(model, fullgraph=True)
    with compiling():
        for shape in [(2, 4, 3, 32, 32), (3, 6, 3, 32, 32), (4, 5, 3, 32, 32)]:
            clip = make_clip(*shape).double().cuda()
            torch.testing.assert_close(compiled(clip).logits, model(clip).logits, rtol=0, atol=1e-10)


# bfloat16 has 8 bits and float16 11: sums of numbers of about 1, rounded once or twice. float32: in another order.
SHORT_GROUP_TOLERANCES = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@pytest.mark.parametrize("dtype", SHORT_GROUP_TOLERANCES)
@pytest.mark.parametrize("shape", [(7, 3, 8, 64), (5, 2, 5, 16), (3, 2, 31, 24), (9, 2, 1, 32), (2, 12, 32, 64)])
def test_short_groups(shape, dtype):
    """The kernels against plain attention in float64; their twin on the CPU is in test_short_groups.py."""
    attend_in_short_groups = pytest.importorskip("timesformer_hf.model.short_groups").attend_in_short_groups
    groups, heads, length, head_dim = shape
    qkv = torch.randn(groups, length, 3, heads, head_dim, device="cuda", dtype=dtype, requires_grad=True)
    grad = torch.randn(groups, length, heads, head_dim, device="cuda", dtype=dtype)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    assert has_short_group_kernel(query, key)
    context = attend_in_short_groups(query, key, value, head_dim**-0.5)
    context.backward(grad)
    exact = qkv.detach().double().requires_grad_()
    query, key, value = exact.permute(2, 0, 3, 1, 4).unbind(0)
    expected = ((query @ key.mT * head_dim**-0.5).softmax(-1) @ value).transpose(1, 2)
    expected.backward(grad.double())
    tolerance = SHORT_GROUP_TOLERANCES[dtype]
    torch.testing.assert_close(context.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(qkv.grad.double(), exact.grad, rtol=tolerance, atol=tolerance)


def test_short_groups_compiled():
    """Loss and gradients; float32, but for the patch convolution in TF32: 10 bits."""
    model, clip, labels = make_model().cuda().train(), make_clip().cuda(), torch.tensor([0, 1]).cuda()
    assert model.config._attn_implementation == "sdpa"
    model(clip, labels=labels).loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    with compiling():
        torch.compile(model, fullgraph=True)(clip, labels=labels).loss.backward()
    got = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)


def test_device_map(tmp_path):
    make_model().save_pretrained(tmp_path)
    model = TimesformerForVideoClassification.from_pretrained(tmp_path, device_map="auto")
    assert model.device.type == "cuda"
    logits = model(make_clip().to(model.device)).logits
    torch.testing.assert_close(logits.cpu(), make_model()(make_clip()).logits, rtol=1e-2, atol=1e-2)  # TF32


@pytest.mark.parametrize("scheme", SCHEMES)
def test_cpu_offload(scheme, tmp_path):
    """What doesn't fit on the device stays on the CPU, and comes over for its turn."""
    model = make_model(scheme)
    model.save_pretrained(tmp_path)
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    offloaded = TimesformerForVideoClassification.from_pretrained(
        tmp_path, device_map="auto", max_memory={0: int(size * 0.6), "cpu": size * 10}
    )
    assert {"cpu", 0} <= set(offloaded.hf_device_map.values())
    torch.testing.assert_close(offloaded(make_clip()).logits.cpu(), model(make_clip()).logits, rtol=1e-2, atol=1e-2)


def test_processor_on_the_device():
    frames = [torch.randint(0, 255, (3, 60, 80), dtype=torch.uint8) for _ in range(4)]
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = TimesformerImageProcessor(**size, do_normalize=False, do_rescale=False)
    on_cpu = processor(frames, return_tensors="pt").pixel_values.float()
    on_gpu = processor(frames, device="cuda", return_tensors="pt").pixel_values
    assert on_gpu.device.type == "cuda"
    assert (on_gpu.cpu().float() - on_cpu).abs().max() <= 1  # a grey level: fixed point against floating point


def test_video_processor_on_the_device():
    """Its twin on the CPU is in test_processors.py."""
    clip = torch.randint(0, 255, (4, 60, 80, 3), dtype=torch.uint8).permute(0, 3, 1, 2)  # as from a decoder
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = TimesformerVideoProcessor(**size, do_normalize=False, do_rescale=False, do_sample_frames=False)
    on_cpu = processor(clip, return_tensors="pt").pixel_values.float()
    on_gpu = processor(clip, device="cuda", return_tensors="pt").pixel_values
    assert on_gpu.device.type == "cuda"
    assert (on_gpu.cpu().float() - on_cpu).abs().max() <= 1  # a grey level: fixed point against floating point


@pytest.mark.parametrize("settings", [{}, {"batch_size": 2}, {"num_clips": 2}, {"num_workers": 1}])
def test_pipeline_on_the_device(settings):
    """Frames are resized where the model is, up to a grey level as on the CPU; the twin is in test_prefetching.py."""
    pytest.importorskip("av", reason="transformers' pipeline asks for PyAV, even where it gets arrays")
    processor = TimesformerVideoProcessor(size={"height": 32, "width": 32}, do_center_crop=False, num_frames=4)
    clips = [torch.randint(0, 255, (9, 40 + i, 60, 3), dtype=torch.uint8).numpy() for i in range(5)]
    on_cpu, on_gpu = (
        pipeline("video-classification", model=make_model(), video_processor=processor, device=device)
        for device in ("cpu", "cuda")
    )
    assert on_gpu.preprocess(clips[0])["pixel_values"].device.type == "cuda"
    for got, expected in zip(on_gpu(clips, **settings), on_cpu(clips, **settings), strict=True):
        scores = {row["label"]: row["score"] for row in expected}
        assert all(row["score"] == pytest.approx(scores[row["label"]], abs=1e-2) for row in got)


def test_decoding_by_nvdec(tmp_path):
    """NVDEC's frames against FFmpeg's: the same picture up to the roundings of the conversion to RGB."""
    clips = pytest.importorskip("clips", reason="making a video needs PyAV")
    pytest.importorskip("torchcodec.decoders", reason="needs torchcodec", exc_type=(ImportError, RuntimeError))
    path = clips.write_video(tmp_path / "a.mp4", clips.moving_pattern(30, 240, 320), options={"g": "12"})
    expected, _ = decode_frames(path, lambda about: [0, 17, 29])
    frames, about = decode_frames(path, lambda about: [0, 17, 29], backend="torchcodec-cuda")
    assert about.total_num_frames == 30
    assert abs(frames.astype(int) - expected).mean() < 3
