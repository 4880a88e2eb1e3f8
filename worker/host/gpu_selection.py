"""Which of a machine's GPUs a process may use, from the variables that CUDA and ROCm read."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

CUDA = "CUDA_VISIBLE_DEVICES"
HIP = "HIP_VISIBLE_DEVICES"
ROCR = "ROCR_VISIBLE_DEVICES"
# These hide every GPU. HIP takes an empty list as if it were not set.
HIDE_ALL = {CUDA: "", HIP: "-1", ROCR: ""}
_MIG = "MIG-"
_NAME = re.compile(r"[0-9]+|(?:GPU|MIG)-[0-9A-Za-z/-]+")
_INDEX = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_UUID = re.compile(r"GPU-.{1,16}")


def excludes_all(env: Mapping[str, str] = os.environ) -> bool:
    """Whether `CUDA_VISIBLE_DEVICES` asks to work without GPUs, whatever the driver says."""
    masked = env.get(CUDA)
    return masked is not None and not _cuda_names(masked)


def select_cuda(nvml: Any, masked: str | None) -> list[tuple[str, Any]]:
    """The GPUs that CUDA would show, in its order: the name of each, and its NVML handle.

    Args:
        nvml: the initialized library.
        masked: the value of `CUDA_VISIBLE_DEVICES`; None if it is not set.

    Source: CUDA C++ Programming Guide, CUDA Environment Variables: a name is an index, a UUID or a
    unique beginning of one; names after the first invalid one are ignored, and of MIG devices a
    process gets one. A name that is given twice hides all devices.
    """
    if masked is None:
        count = nvml.nvmlDeviceGetCount()
        return [(str(index), nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)]
    found: list[tuple[str, Any]] = []
    for name in _cuda_names(masked):
        handle = _find(nvml, name)
        if handle is None:
            break
        found.append((name, handle))
        if name.startswith(_MIG):
            break
    distinct = {nvml.nvmlDeviceGetUUID(handle) for _, handle in found}
    return found if len(distinct) == len(found) else []


def select_rocm(env: Mapping[str, str], uuids: Sequence[str]) -> list[tuple[str, int]]:
    """The GPUs that HIP would show, in its order: the name of each for HIP, and its number.

    Args:
        env: `ROCR_VISIBLE_DEVICES` chooses among all GPUs, and then `HIP_VISIBLE_DEVICES`, or
            `CUDA_VISIBLE_DEVICES` without it, among the chosen ones, by their new numbers.
        uuids: of all GPUs, as `GPU-` and 16 hexadecimal digits; empty for a GPU without one.

    Source: ROCm, GPU isolation techniques; ROCR-Runtime's `amd_filter_device.cpp`, CLR's
    `rocdevice.cpp`: names after the first invalid one are ignored. A GPU that is named twice ends
    the first list, and counts once in the second. An empty first list hides all; an empty second
    one hides none.
    """
    upper = [uuid.upper() for uuid in uuids]
    masked = env.get(ROCR)
    shown = list(range(len(upper))) if masked is None else list(_rocr_numbers(masked, upper))
    if env.get(HIP):
        chosen = _hip_numbers(env[HIP], [uuids[number] for number in shown])
    elif env.get(CUDA):
        chosen = _hip_numbers(env[CUDA], [uuids[number] for number in shown])
    else:
        chosen = range(len(shown))
    return [(str(number), shown[number]) for number in dict.fromkeys(chosen)]


def _cuda_names(masked: str) -> list[str]:
    """The names before the first that can't be one: `-1`, `NoDevFiles` or nothing."""
    names = [name.strip() for name in masked.split(",")]
    return list(itertools.takewhile(lambda name: _NAME.fullmatch(name) is not None, names))


def _find(nvml: Any, name: str) -> Any:
    """The handle of one device; None if there is none, or several, of this name."""
    count = nvml.nvmlDeviceGetCount()
    if name.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(name)) if int(name) < count else None
    if name.startswith(_MIG):
        try:
            return nvml.nvmlDeviceGetHandleByUUID(name)
        except nvml.NVMLError:
            return None
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    named = [each for each in handles if nvml.nvmlDeviceGetUUID(each).startswith(name)]
    return named[0] if len(named) == 1 else None


def _rocr_numbers(masked: str, uuids: Sequence[str]) -> Iterator[int]:
    """Names in either case, with spaces around them; a UUID may be cut short if it is unique."""
    seen: set[int] = set()
    for name in (each.strip().upper() for each in masked.split(",")):
        if _UUID.fullmatch(name):
            named = [number for number, uuid in enumerate(uuids) if uuid.startswith(name)]
        else:
            named = [_rocr_index(name)] if _INDEX.fullmatch(name) else []
        if len(named) != 1 or named[0] >= len(uuids) or named[0] in seen:
            return
        seen.add(named[0])
        yield named[0]


def _rocr_index(name: str) -> int:
    """An index in C's notation: hexadecimal after `0x`, octal after `0`."""
    if name.startswith("0X"):
        return int(name, 16)
    octal = name.startswith("0") and not set(name) & set("89")
    return int(name, 8 if octal else 10)


def _hip_numbers(masked: str, uuids: Sequence[str]) -> Iterator[int]:
    """Names without spaces; a UUID may be any part of one, and the first that has it counts."""
    for name in masked.split(","):
        if "GPU-" in name:
            number = next((n for n, uuid in enumerate(uuids) if name in uuid), None)
        else:
            number = int(name) if name.isdecimal() and name == str(int(name)) else None
        if number is None or number >= len(uuids):
            return
        yield number
