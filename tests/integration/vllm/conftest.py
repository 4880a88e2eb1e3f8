from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobspec.spec.schema import ModelSpec
from tests.support.models import vllm_model
from tests.support.vllm import CPU_SETTINGS
from worker.inference.engine import EngineChoice, choose


@pytest.fixture(scope="session", autouse=True)
def cpu_settings() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CPU_SETTINGS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vllm_model(tmp_path_factory.mktemp("vllm"))


@pytest.fixture(scope="session")
def choice(model: Path) -> EngineChoice:
    """vLLM, with a context that is quickly warmed up."""
    found = choose("vllm", ModelSpec(name=str(model)), model, gpus=0)
    return EngineChoice(name=found.name, weights=found.weights, context=512)
