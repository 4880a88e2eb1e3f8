"""Peak speed and memory of devices, by the driver's name and by the names of `--device`."""

from __future__ import annotations

import msgspec

from jobspec.errors import JobspecError

# Dense bf16 FLOP/s. The first entry whose name is part of the device's name is used.
# Source: the vendors' data sheets.
PEAKS = (
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("GH200", 989e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("A40", 150e12),
    ("V100", 125e12),
)
# Those that multiply float8 matrices with a scale for each row: Hopper and newer.
_FLOAT8 = ("H100", "H200", "GH200", "B200")
# A CUDA context, NCCL's buffers and the allocator's fragmentation use the rest of the memory.
USABLE_FRAC, CONTEXT_GIB = 0.97, 1.5


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of device that `--device` names. `memory_gib`: all of it, as the driver reports."""

    name: str
    memory_gib: float

    @property
    def usable_gib(self) -> float:
        """The part of the memory that tensors can use."""
        return USABLE_FRAC * self.memory_gib - CONTEXT_GIB

    @property
    def peak(self) -> float | None:
        return peak(self.name)

    @property
    def multiplies_float8(self) -> bool:
        return any(mark in self.name for mark in _FLOAT8)


DEVICES = {
    "h100-80": Device(name="H100", memory_gib=79.6),
    "h100-94": Device(name="H100", memory_gib=93.6),
    "h100-nvl": Device(name="H100 NVL", memory_gib=93.6),
    "h200": Device(name="H200", memory_gib=140.4),
    "gh200-96": Device(name="GH200", memory_gib=95.0),
    "b200": Device(name="B200", memory_gib=178.4),
    "a100-40": Device(name="A100", memory_gib=39.5),
    "a100-80": Device(name="A100", memory_gib=79.2),
    "l40s": Device(name="L40S", memory_gib=44.5),
    "a40": Device(name="A40", memory_gib=44.5),
}


def peak(name: str) -> float | None:
    """A device's dense bf16 peak in FLOP/s; None for devices that are not in the table."""
    return next((value for mark, value in PEAKS if mark in name), None)


def device(name: str) -> Device:
    """The device of a name as `--device` takes it. Raises JobspecError for others."""
    if (found := DEVICES.get(name.lower())) is not None:
        return found
    raise JobspecError(
        f"`{name}` is no device we know the memory of", hint=f"known are {', '.join(DEVICES)}"
    )
