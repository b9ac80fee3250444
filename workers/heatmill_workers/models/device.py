"""Whether the device computes: `python -m heatmill_workers.models.device [NAME]`, one line and a status.

It is asked in a process of its own, before a worker takes a shard.
"""

import sys

import torch

from heatmill.errors import DeviceUnusable

SIDE = 8
USE_THE_CPU = "HEATMILL_DEVICE=cpu would use the processor"


def check_device(asked: str | None) -> str:
    """Compute something on the device that the worker will use.

    Args:
        asked: `cpu`, `cuda`, `cuda:1`; what is found where None.

    Returns:
        Why the CPU is used although the machine has a GPU; empty where nothing is to be said.

    Raises:
        DeviceUnusable: The message names the device and the reason.
    """
    if asked is None and not torch.cuda.is_available():
        return f"{_no_cuda()}; the worker uses the processor"
    device = _device(asked or "cuda")
    if device.type == "cuda":
        _check_count(device, asked)
    try:
        _compute(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceUnusable(
            f"the device {device} is there and computes nothing: {_first(error)}; {USE_THE_CPU}"
        ) from error
    return ""


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise DeviceUnusable(
            f"HEATMILL_DEVICE={name}: PyTorch knows no such device; cpu, cuda and cuda:1 are some"
        ) from error


def _check_count(device: torch.device, asked: str | None) -> None:
    wanted = f"HEATMILL_DEVICE={asked}" if asked else "this machine's GPU"
    if not torch.cuda.is_available():
        raise DeviceUnusable(f"{wanted}: {_no_cuda()}; {USE_THE_CPU}")
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise DeviceUnusable(f"{wanted}: there are {count} CUDA devices, numbered from 0")


def _no_cuda() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "this PyTorch is built without CUDA"
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        return f"PyTorch cannot use CUDA: {_first(error)}"
    return "PyTorch finds no CUDA device"


def _compute(device: torch.device) -> None:
    """A product and a convolution, whose libraries are loaded at the first call of each."""
    ones = torch.ones(1, SIDE, SIDE, SIDE, device=device)
    product = (ones @ ones).sum().item()
    convolved = torch.nn.functional.conv2d(ones, torch.ones(1, SIDE, 1, 1, device=device)).sum().item()
    if (product, convolved) != (float(SIDE**4), float(SIDE**3)):
        raise RuntimeError(f"a product of ones came out as {product}, and a convolution as {convolved}")


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0]


def main(arguments: list[str]) -> int:
    """Print what there is to say; 1 where the worker cannot work."""
    try:
        sys.stdout.write(check_device(arguments[0] if arguments else None))
    except DeviceUnusable as error:
        sys.stdout.write(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
