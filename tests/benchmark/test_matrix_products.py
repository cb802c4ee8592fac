"""The products of matrices that are the limit: counted as torch counts them."""

import pytest
import torch
from tiny_benchmark import TINY
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.timesformer.configuration_timesformer import TimesformerConfig as NativeConfig
from transformers.models.timesformer.modeling_timesformer import (
    TimesformerForVideoClassification as NativeForVideoClassification,
)

from timesformer_hf import TimesformerConfig
from timesformer_hf.benchmark import matrix_products
from timesformer_hf.benchmark.matrix_products import (
    Product,
    model_products,
    prepare_products,
    split,
    total_multiply_accumulates,
    training_products,
)
from timesformer_hf.inference.int8_linear import has_int8_products
from timesformer_hf.inference.linear_kernels import KERNELS
from timesformer_hf.model.cost import count_multiply_accumulates


class TestMatrixProducts:
    @pytest.mark.parametrize("scheme", ["divided_space_time", "joint_space_time", "space_only"])
    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_inference_is_counted_as_torch_counts_the_built_in_model(self, scheme, batch_size):
        """What torch counts of the built-in model."""
        config = TimesformerConfig(**TINY, attention_type=scheme)
        native = NativeForVideoClassification(NativeConfig.from_dict(config.to_dict())).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            native(torch.zeros(batch_size, 4, 3, 32, 32))
        assert total_multiply_accumulates(model_products(config, batch_size)) == counter.get_total_flops() // 2

    def test_training_is_counted_as_torch_counts_the_built_in_model(self):
        config = TimesformerConfig(**TINY)
        native = NativeForVideoClassification(NativeConfig.from_dict(config.to_dict()))
        with FlopCounterMode(display=False) as counter:
            native(torch.zeros(2, 4, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
        products = training_products(model_products(config, 2))
        assert total_multiply_accumulates(products) == counter.get_total_flops() // 2

    def test_count_is_at_least_what_our_own_model_takes(self):
        """The paper's arithmetic, whatever ours saves of it: at least what our own model takes."""
        config = TimesformerConfig(**TINY)
        assert total_multiply_accumulates(model_products(config, 1)) >= count_multiply_accumulates(config)

    @pytest.mark.parametrize("product", [Product(7, 5, 3, 4, weights=False), Product(1, 11, 3, 4, weights=True)])
    @pytest.mark.parametrize("largest", [1, 4, 9, 50, 1000])
    def test_parts_of_a_product_add_up_and_fit(self, product, largest):
        parts = split(product, largest)
        assert total_multiply_accumulates(parts) == product.multiply_accumulates
        assert all(part.groups * part.rows * part.columns <= max(largest, part.columns) for part in parts)
        assert all((part.inner, part.columns) == (product.inner, product.columns) for part in parts)

    @pytest.mark.parametrize(("dtype", "quantized"), [("float32", None), ("bfloat16", None), ("float32", torch.int8)])
    def test_runs_what_is_counted(self, dtype, quantized, monkeypatch):
        monkeypatch.setattr(matrix_products, "_prepare_packed", lambda *args: None)  # torch doesn't count what it runs
        products = model_products(TimesformerConfig(**TINY), 2)
        run = prepare_products(products, getattr(torch, dtype), "cpu", quantized)
        with FlopCounterMode(display=False) as counter:
            run()
        integer = 0 if quantized is None else sum(p.multiply_accumulates for p in products if p.weights and p.rows > 16)
        total = total_multiply_accumulates(products)
        assert counter.get_total_flops() // 2 in (total, total - integer)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
    def test_the_fastest_library_runs_each_product(self, dtype, monkeypatch):
        monkeypatch.setattr(matrix_products, "fastest_kernel", lambda weights, rows: "onednn")
        if not (
            has_int8_products() if dtype is torch.int8 else KERNELS["onednn"].supports(torch.empty(1, 1).to(dtype))
        ):
            pytest.skip("this CPU or torch does not have oneDNN's packed products")
        calls = []
        pack = KERNELS["onednn"].pack if dtype is not torch.int8 else torch.ops.onednn.qlinear_prepack
        if dtype is torch.int8:
            monkeypatch.setattr(torch.ops.onednn, "qlinear_prepack", lambda *args: calls.append(args) or pack(*args))
        else:
            monkeypatch.setattr(KERNELS["onednn"], "pack", lambda *args: calls.append(args) or pack(*args))
        products = model_products(TimesformerConfig(**TINY), 2)
        half = torch.float32 if dtype is torch.int8 else dtype
        prepare_products(products, half, "cpu", torch.int8 if dtype is torch.int8 else None)()
        packed = [product for product in products if product.weights]
        packed = [product for product in packed if dtype is not torch.int8 or product.rows > 16]
        assert len(calls) == len(packed) > 10
