"""
Measures the peak memory of one path in a fresh process: the peak minus the memory in use once the weights are loaded.

On the CPU this is the resident memory of the process, on CUDA the memory of torch's allocator. The process may not take
more memory than is free. So a path that needs more fails, and no other program on the machine is killed.
"""

import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from .cases import KINDS, Case, Clip
from .measuring import Environment, UnavailableError


_KIB = 1024
_RESET_HIGH_WATER = "5"  # resets the peak of resident memory, see /proc/PID/clear_refs in proc(5)
# kind of an error in the child -> the error that the parent raises
_ERRORS = {"missing": UnavailableError, "import": ImportError, "memory": MemoryError, "other": RuntimeError}


def peak_in_child(case: Case, environment: Environment, path: str, calls: int = 1) -> int:
    """
    Return the peak memory in bytes of a path, without what was in use after its weights were loaded.

    Args:
        case: what to compute.
        environment: where to compute it.
        path: the name of the path.
        calls: how often it runs. A training step needs two, because the optimizer's state exists only after the first.

    Raises:
        ImportError, UnavailableError: where the path can't run here.
        MemoryError: where memory was not enough.
        RuntimeError: where the path failed for another reason.
    """
    task = {
        "case": dataclasses.asdict(case),
        "environment": dataclasses.asdict(environment) | {"folder": str(environment.folder)},
        "path": path,
        "calls": calls,
    }
    package_folder = str(Path(__file__).parents[2])  # so that the child finds the package even where it isn't installed
    search_path = os.pathsep.join(filter(None, (package_folder, os.environ.get("PYTHONPATH"))))
    child = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": search_path},
    )
    if child.returncode < 0:
        raise MemoryError(f"its process was ended by signal {-child.returncode}, which happens where memory runs out")
    answer = child.stdout.strip().splitlines()
    if child.returncode or not answer:
        raise RuntimeError((child.stderr.strip().splitlines() or ["its process failed"])[-1])
    result = json.loads(answer[-1])
    if "error" in result:
        raise _ERRORS[result["kind"]](result["error"])
    return result["peak_bytes"]


def main() -> None:
    """Run the child process: read a task from standard input, and print the answer as the last line of the output."""
    task = json.load(sys.stdin)
    clip = task["case"]["clip"]
    case = Case(**task["case"] | {"clip": clip and Clip(**clip)})
    environment = Environment(**task["environment"] | {"folder": Path(task["environment"]["folder"])})
    try:
        answer = {"peak_bytes": peak_of(case, environment, task["path"], task["calls"])}
    except Exception as error:  # the parent raises it again
        kind = next((name for name, type in _ERRORS.items() if isinstance(error, type)), "other")
        reason = (str(error).strip().splitlines() or ["not enough memory"])[0]
        answer = {"error": reason, "kind": "memory" if _is_out_of_memory(error) else kind}
    print(json.dumps(answer))


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out. torch's CPU allocator has no error class for that, only a message."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def peak_of(case: Case, environment: Environment, path: str, calls: int) -> int:
    """Return the peak memory in bytes of a path in this process, which should be a fresh one."""
    import torch
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(environment.threads)
    if environment.device == "cpu":
        _limit_to_free_memory()
    workload = import_module(f".{KINDS[case.kind]}", __package__).make_workload(case, environment)
    prepared = workload.prepare[path]()
    read_peak = start_peak(environment.device)
    for _ in range(calls):
        prepared.run()
    return max(0, read_peak())


def start_peak(device: str):
    """
    Reset the peak memory. Return a function that returns, in bytes, how far the peak then exceeds what is in use now.
    """
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        in_use = torch.cuda.memory_allocated(device)
        return lambda: torch.cuda.max_memory_allocated(device) - in_use
    # Give freed memory back to the system, because using it again wouldn't raise the peak. (glibc has this function.)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET_HIGH_WATER)
    in_use = _resident_bytes("VmRSS")
    return lambda: _resident_bytes("VmHWM") - in_use


def _resident_bytes(field: str) -> int:
    """
    Return the resident memory of this process: now for `"VmRSS"`, its peak for `"VmHWM"` or where there is no /proc.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * _KIB
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _KIB


def _limit_to_free_memory() -> None:
    """
    Limit the memory of this process to what is free, so that it gets an error instead of being killed by the kernel.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource

        free = _memory_field("/proc/meminfo", "MemAvailable")
        taken = _memory_field("/proc/self/status", "VmSize")
        resource.setrlimit(resource.RLIMIT_AS, (taken + free, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _memory_field(file: str, field: str) -> int:
    """
    Return a field of a file in /proc, in bytes.

    Raises:
        ValueError: where the file doesn't have the field.
    """
    for line in Path(file).read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * _KIB
    raise ValueError(f"{file} has no {field}")


if __name__ == "__main__":
    main()
