"""Checkpoints that are damaged or made to do harm: a description, or an error that says what is wrong."""

import copy
import io
import json
import pickle
import struct
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mutations import mutate

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification, TimesformerVideoProcessor
from timesformer_hf.checkpoints.conversion import convert
from timesformer_hf.checkpoints.files import read_checkpoint
from timesformer_hf.checkpoints.info import describe_checkpoint
from timesformer_hf.checkpoints.limits import CheckpointLimits


GOLDEN = Path(__file__).parents[1] / "golden"


def pickled(path: Path, value, **settings) -> Path:
    torch.save(value, path, **settings)
    return path


def rezip(data: bytes, change, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive in which `change(name, content)` replaces every content."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> dict[str, bytes]:
    """The files of a small model, by name."""
    folder = tmp_path_factory.mktemp("model")
    sizes = {"image_size": 16, "patch_size": 8, "num_frames": 2, "hidden_size": 8, "num_hidden_layers": 2}
    config = TimesformerConfig(**sizes, num_attention_heads=2, intermediate_size=8, id2label={0: "a", 1: "b"})
    TimesformerForVideoClassification(config).save_pretrained(folder)
    TimesformerVideoProcessor().save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


class TestRecursion:
    @pytest.mark.parametrize("name", ["model", "state_dict", "model_state"])
    def test_dict_that_contains_itself(self, name, tmp_path):
        content = {"epoch": 3}
        content[name] = content
        with pytest.raises(ValueError, match=f"has no weights. Found: epoch, {name}"):
            describe_checkpoint(pickled(tmp_path / "a.pyth", content))

    def test_dicts_that_contain_each_other(self, tmp_path):
        first, second = {}, {}
        first["model"], second["state_dict"] = second, first
        with pytest.raises(ValueError, match="has no weights"):
            describe_checkpoint(pickled(tmp_path / "a.pyth", first))

    @pytest.mark.parametrize("new", [True, False])
    @pytest.mark.parametrize("shape", ["wide", "deep"])
    def test_tuple_as_key(self, new, shape, tmp_path):
        """Python goes through every part of a key: 2 ** 60 of them, or 100,000 one in the other."""
        head, tail = b"\x80\x02}", b"K\x01s."
        nesting = {"wide": (b"q%ch%c\x86" % (i, i) for i in range(60)), "deep": (b"\x85" for _ in range(100_000))}
        key = b")" + b"".join(nesting[shape])
        path = pickled(tmp_path / "a.pyth", {"a": torch.zeros(1)}, _use_new_zipfile_serialization=new)
        data = path.read_bytes()
        if new:
            data = rezip(data, lambda name, content: head + key + tail if name.endswith(".pkl") else content)
        else:
            parts, file = [], io.BytesIO(data)
            for _ in range(3):
                start = file.tell()
                pickle.load(file)
                parts.append(data[start : file.tell()])
            data = b"".join(parts) + head + key + tail
        path.write_bytes(data)
        start = time.monotonic()
        with pytest.raises(ValueError, match="nested too deep"):
            describe_checkpoint(path)
        assert time.monotonic() - start < 10

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors.index.json"])
    def test_json(self, name, model, tmp_path):
        folder = write(tmp_path / "model", model | {name: b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"})
        if name.endswith("index.json"):
            (folder / "model.safetensors").unlink()
        with pytest.raises(ValueError, match=rf"{name} is not JSON of a model: its values are nested too deep"):
            describe_checkpoint(folder)


class TestLimits:
    def test_json(self, model, tmp_path):
        folder = write(tmp_path / "model", model)
        with pytest.raises(ValueError, match=r"has a header of .* more than the limit max_header_bytes=100"):
            read_checkpoint(folder, limits=CheckpointLimits(max_header_bytes=100))
        assert read_checkpoint(folder).config

    def test_header_of_safetensors(self, tmp_path):
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}" * 1000)
        with pytest.raises(ValueError, match="is damaged, incomplete or not a safetensors file"):
            describe_checkpoint(tmp_path / "a.safetensors")

    @pytest.mark.parametrize("shapes_only", [True, False])
    def test_archive_that_unpacks_to_more(self, shapes_only, tmp_path):
        """A megabyte becomes a gigabyte."""
        path = pickled(tmp_path / "a.pyth", {"a": torch.zeros(8)})
        zeros = bytes(2**28 + 1)
        path.write_bytes(
            rezip(
                path.read_bytes(),
                lambda name, content: zeros if name.endswith("/data/0") else content,
                zipfile.ZIP_DEFLATED,
            )
        )
        assert path.stat().st_size < 2**20
        with pytest.raises(ValueError, match=r"would take 268,\d+,\d+ bytes of memory, but the file is only"):
            read_checkpoint(path, shapes_only)

    @pytest.mark.parametrize("shapes_only", [True, False])
    @pytest.mark.parametrize("new", [True, False])
    def test_weight_that_repeats_one_number(self, shapes_only, new, tmp_path):
        weights = {"a": torch.zeros(1).expand(10**5, 10**6)}
        path = pickled(tmp_path / "a.pyth", weights, _use_new_zipfile_serialization=new)
        with pytest.raises(ValueError, match="would take 400,000,000,000 bytes of memory"):
            read_checkpoint(path, shapes_only)

    def test_option(self, tmp_path):
        path = pickled(tmp_path / "a.pyth", {"a": torch.zeros(1).expand(1000)})
        with pytest.raises(ValueError, match="max_unpacked_bytes=3,999"):
            read_checkpoint(path, limits=CheckpointLimits(max_unpacked_bytes=3999))
        limits = CheckpointLimits(max_unpacked_bytes=10_000)
        assert read_checkpoint(path, limits=limits).state_dict["a"].shape == (1000,)
        small = CheckpointLimits(max_unpacked_bytes=3999)
        for read in (describe_checkpoint, partial(convert, out=tmp_path / "out")):
            with pytest.raises(ValueError, match="max_unpacked_bytes=3,999"):
                read(path, limits=small)

    def test_number_of_classes(self, model, tmp_path):
        config = json.loads(model["config.json"]) | {"num_labels": 10**9}
        config.pop("id2label"), config.pop("label2id")
        folder = write(tmp_path / "model", model | {"config.json": json.dumps(config).encode()})
        with pytest.raises(ValueError, match="1,000,000,000 classes, more than 1,000,000"):
            describe_checkpoint(folder)

    def test_number_of_a_block(self, tmp_path):
        state = torch.load(GOLDEN / "space_only.pyth", weights_only=True)["model_state"]
        state |= {name.replace("blocks.1.", "blocks.99999999999."): tensor for name, tensor in state.items()}
        with pytest.raises(ValueError, match=r"lacks the blocks .* of 100000000000"):
            describe_checkpoint(pickled(tmp_path / "a.pyth", {"model_state": state}))

    def test_unknown_type(self, tmp_path):
        header = json.dumps({"a": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}).encode()
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        with pytest.raises(ValueError, match=r"a\.safetensors has weights of the type F8_E8M0; known are F64"):
            read_checkpoint(tmp_path / "a.safetensors", shapes_only=True)


_ODD = (None, True, -1, 0, 2**31, 2**63, 1e308, "x", "", [], {}, [1, 2, 3], {"a": 1}, "224", -0.5, 10**30, [[]])


def mutate_json(content: bytes, rng: np.random.Generator) -> bytes:
    """Return JSON with one to three values replaced or removed."""
    values = copy.deepcopy(json.loads(content))
    for _ in range(rng.integers(1, 4)):
        node = values
        while node:
            key = (list(node) if isinstance(node, dict) else range(len(node)))[rng.integers(len(node))]
            if isinstance(node[key], (dict, list)) and rng.random() < 0.7:
                node = node[key]
                continue
            if rng.random() < 0.2:
                del node[key]
            else:
                node[key] = _ODD[rng.integers(len(_ODD))]
            break
    return json.dumps(values).encode()


class TestFuzz:
    def damage(self, index: int, originals: dict[str, bytes], model: dict, rng, folder: Path) -> Path:
        """Write a damaged checkpoint: by turns bytes of a file, a pickle in it, JSON files, and a header."""
        name = list(originals)[index // 4 % len(originals)]
        if index % 4 == 0:
            return write(folder, {name: mutate(originals[name], rng)}) / name
        if index % 4 == 1 and zipfile.is_zipfile(io.BytesIO(originals[name])):
            data = rezip(originals[name], lambda part, content: mutate(content, rng) if ".pkl" in part else content)
            return write(folder, {name: data}) / name
        files = dict(model)
        for file in files:
            if file.endswith(".json") and rng.random() < 0.7:
                files[file] = (mutate_json if index % 4 == 2 else mutate)(files[file], rng)
        data = files["model.safetensors"]
        size = int.from_bytes(data[:8], "little")
        header = (mutate_json if index % 4 == 2 else mutate)(data[8 : 8 + size], rng)
        if index % 8 > 3:
            files["model.safetensors"] = len(header).to_bytes(8, "little") + header + data[8 + size :]
        return write(folder, files)

    @pytest.mark.parametrize("number", [50, pytest.param(500, marks=pytest.mark.slow)])
    def test_description_or_an_error_with_a_reason(self, number, model, tmp_path):
        originals = {file.name: file.read_bytes() for file in GOLDEN.glob("*.pyth")}
        originals |= {file.name: file.read_bytes() for file in GOLDEN.glob("*.safetensors")}
        old = torch.load(GOLDEN / "space_only.pyth", weights_only=True)
        old = pickled(tmp_path / "old.pyth", old, _use_new_zipfile_serialization=False)
        originals[old.name] = old.read_bytes()
        described, errors = 0, []
        for index in range(number):
            rng = np.random.default_rng((number, index))
            path = self.damage(index, originals, model, rng, tmp_path / str(index))
            for read in (describe_checkpoint, read_checkpoint):
                try:
                    read(path)
                    described += 1
                except (ValueError, OSError) as error:
                    errors.append(error)
        assert 0 < described < 2 * number
        assert not [error for error in errors if isinstance(error, UnicodeError) or str(tmp_path) not in str(error)]
