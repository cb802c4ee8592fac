"""The table of cases and how they are selected."""

import pytest

from timesformer_hf.benchmark.cases import CASES, KINDS, all_labels, select_cases
from timesformer_hf.commands.bench import paths_of


class TestCases:
    def test_every_case_has_paths_that_there_are_ours_and_a_limit_among_them(self):
        assert len({case.name for case in CASES}) == len(CASES)
        for case in CASES:
            table = paths_of(case.kind)
            assert set(case.paths) <= set(table), case.name
            assert {"ours", "limit"} <= {table[name].role for name in case.paths}, case.name
        assert {case.kind for case in CASES} == set(KINDS)

    def test_every_variant_batch_size_and_dtype_has_a_case(self):
        names = {case.name for case in CASES}
        for variant in ("base", "hr", "l"):
            for size in (1, 8, 32):
                for dtype in ("fp32", "bf16", "fp16", "int8", "fp8"):
                    assert f"inference-{variant}-b{size}-{dtype}" in names
        assert {"joint-8f-fp32", "joint-96f-fp32", "decode-1080p", "file-to-label-1080p-bf16"} <= names

    def test_selectors_by_name_label_and_pattern(self):
        def names(*selectors: str) -> list[str]:
            return [case.name for case in select_cases(selectors)]

        assert names() == ["inference-base-b1-fp32", "decode-small", "import-package"]
        assert names("import-model", "decode-small") == ["decode-small", "import-model"]  # in the table's order
        assert names("inference+base+fp32") == [f"inference-base-b{size}-fp32" for size in (1, 8, 32)]
        assert names("joint-*-bf16+memory") == [f"joint-{frames}f-bf16" for frames in (8, 16, 32, 64, 96)]
        assert names("*") == [case.name for case in CASES]

    @pytest.mark.parametrize("selector", ["inference-base-b2-fp32", "decode+fp32", "", "quick+"])
    def test_unknown_selector_is_told_the_labels(self, selector):
        with pytest.raises(ValueError, match="No case is") as error:
            select_cases([selector])
        assert all(label in str(error.value) for label in all_labels(CASES))
