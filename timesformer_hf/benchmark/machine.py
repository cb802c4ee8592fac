"""Describes what a result depends on besides the code: the machine and the versions of packages."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..inference.processor import cpu_name
from ..video.decoding_plan import count_cores


_PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "av",
    "torchcodec",
    "onnxruntime",
    "openvino",
    "nncf",
    "torchao",
    "triton",
    "torch-tensorrt",
    "numpy",
)
# Names in /proc/cpuinfo of CPU instructions for 16 and 8 bits. Without them fewer bits are not faster than float32.
_LOW_PRECISION = ("avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_fp16")
_LOW_PRECISION += ("asimddp", "i8mm", "bf16", "fphp")  # Arm's


def describe_machine(device: str) -> dict:
    """Return a description of this machine as values for JSON: CPU, memory, load, and the GPU if `device` is one."""
    import torch

    machine = {
        "cpu": cpu_name(),
        "instructions": [torch.backends.cpu.get_cpu_capability(), *_low_precision_instructions()],
        "cores": count_cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,  # of other programs, before
        "gpu": None,
    }
    if device.startswith("cuda"):
        about = torch.cuda.get_device_properties(device)
        machine |= {"gpu": about.name, "gpu_memory_bytes": about.total_memory}
        machine |= {"gpu_capability": f"{about.major}.{about.minor}", "cuda": torch.version.cuda}
    elif device != "cpu":
        machine["gpu"] = device
    return machine


def _low_precision_instructions() -> list[str]:
    """Return those of `_LOW_PRECISION` that this CPU has."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return [name for name in _LOW_PRECISION if name in line.split()]
    return []


def memory_bytes() -> int | None:
    """Return the physical memory of this machine in bytes, or `None` where the system doesn't tell."""
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def describe_versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the installed packages that take part in measurements."""
    from ..version import __version__

    versions = {"python": platform.python_version(), "timesformer_hf": __version__}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
