"""The machine that a benchmark ran on, in words."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

LIBRARIES = ("torch", "captum", "shap", "lime", "grad-cam", "transformers")


def machine() -> dict[str, object]:
    """What a figure depends on: processor, cores, threads, accelerator, versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {library: version(library) for library in LIBRARIES},
    }


def _processor() -> str:
    """The name in /proc/cpuinfo, which the standard library does not read."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
