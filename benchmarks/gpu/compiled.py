"""The train phase with its layers compiled: `python -m benchmarks.gpu.compiled ATTEMPT_DIR`.

No spec can ask for this; the route measures what a setting for it would bring.
"""

from __future__ import annotations

from typing import Any

import torch

from worker.training import train  # first: it keeps out of the imports what no phase uses

from worker.kernels import liger  # isort: skip

_apply = liger.apply


def _apply_and_compile(model: Any, *args: Any, **kwargs: Any) -> str | None:
    kernels = _apply(model, *args, **kwargs)
    # Without a GPU only the tracing is tried: inductor would compile C++ for half a minute.
    backend = "inductor" if torch.cuda.is_available() else "eager"
    for layer in model.base_model.layers:
        layer.compile(backend=backend)
    return kernels


if __name__ == "__main__":
    liger.apply = _apply_and_compile
    train.main()
