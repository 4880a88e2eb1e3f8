"""Which devices each engine gets."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobspec.errors import ModelError
from worker.inference import gpu_groups
from worker.inference.engine import choose

GIB = 2**30


class Nvml:
    """NVML of a machine whose GPUs 0–3 share a socket, 4–7 another."""

    NVML_P2P_CAPS_INDEX_NVLINK = 2
    NVML_P2P_STATUS_OK = 0
    NVML_TOPOLOGY_SYSTEM = 50

    def __init__(self, count: int = 8, *, nvlink: bool = False, gib: int = 80) -> None:
        self.count, self.nvlink, self.gib = count, nvlink, gib

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - NVML's own spelling, here and below
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=self.gib * GIB)

    def nvmlDeviceGetP2PStatus(self, a: int, b: int, index: int) -> int:  # noqa: N802
        return 0 if self.nvlink else 1

    def nvmlDeviceGetTopologyCommonAncestor(self, a: int, b: int) -> int:  # noqa: N802
        return 40 if a // 4 == b // 4 else 50


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A model of 16 GiB, on paper."""
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(16 * GIB)
    return tmp_path


@pytest.fixture(autouse=True)
def nothing_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv(gpu_groups.ENGINES_VARIABLE, raising=False)


def test_each_gpu_gets_an_engine_if_the_weights_fit(weights: Path) -> None:
    found = gpu_groups.groups(weights, Nvml(4))
    assert found == [{"CUDA_VISIBLE_DEVICES": str(i)} for i in range(4)]


def test_several_gpus_share_an_engine_if_the_weights_do_not_fit(weights: Path) -> None:
    found = gpu_groups.groups(weights, Nvml(4, gib=16))
    assert [group["CUDA_VISIBLE_DEVICES"] for group in found] == ["0,1", "2,3"]
    assert all("NCCL_P2P_DISABLE" not in group for group in found)


def test_gpus_of_two_sockets_use_no_peer_access(weights: Path) -> None:
    assert gpu_groups.groups(weights, Nvml(8, gib=4)) == [
        {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7", "NCCL_P2P_DISABLE": "1"}
    ]
    linked = gpu_groups.groups(weights, Nvml(8, gib=4, nvlink=True))
    assert linked == [{"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}]


def test_only_the_visible_gpus_are_used(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5, 3")
    found = gpu_groups.groups(weights, Nvml(8))
    assert found == [{"CUDA_VISIBLE_DEVICES": "GPU-5"}, {"CUDA_VISIBLE_DEVICES": "3"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_groups.groups(weights, Nvml(8)) == [{}]


def test_weights_too_large_for_the_machine_are_refused(weights: Path) -> None:
    with pytest.raises(ModelError, match="the weights take 16 GiB, and the 2 GPUs here have 8"):
        gpu_groups.groups(weights, Nvml(2, gib=4))


def test_the_number_of_engines_on_a_cpu_can_be_set(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv(gpu_groups.ENGINES_VARIABLE, "2")
    assert gpu_groups.groups(weights) == [{}, {}]


# --- which engine


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 128}')
    return tmp_path


def test_auto_prefers_vllm_on_a_gpu_and_falls_back_to_hf(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from jobspec.spec.schema import ModelSpec

    spec = ModelSpec(name=str(model))
    assert choose("auto", spec, model, gpus=0).name == "hf"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "vllm" else name)
    for gpus in (0, 1):
        with pytest.raises(ModelError, match="vLLM is not installed") as caught:
            choose("vllm", spec, model, gpus=gpus)
        assert "backend to `auto`" in str(caught.value.hint)
    assert choose("hf", spec, model, gpus=1).name == "hf"
    assert not caplog.records
    assert choose("auto", spec, model, gpus=1).name == "hf"
    assert "because vLLM is not installed" in caplog.text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert choose("auto", spec, model, gpus=1).name == "vllm"


def test_weights_are_loaded_in_float32_on_a_cpu(model: Path) -> None:
    from jobspec.spec.schema import ModelSpec

    spec = ModelSpec(name=str(model), dtype="bfloat16")
    assert choose("hf", spec, model, gpus=0).weights.dtype == "float32"
    assert choose("hf", spec, model, gpus=1).weights.dtype == "bfloat16"


def test_a_config_that_does_not_state_its_context_is_refused(model: Path) -> None:
    from jobspec.spec.schema import ModelSpec

    (model / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="how long a sequence may be"):
        choose("hf", ModelSpec(name=str(model)), model, gpus=0)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "gpus", "size"),
    [(32, 8, 0, 1), (32, 8, 4, 4), (32, 8, 7, 4), (32, 2, 8, 8), (12, 12, 8, 4), (7, 1, 8, 1)],
)
def test_tensor_parallelism_divides_the_heads(
    tmp_path: Path, heads: int, kv_heads: int, gpus: int, size: int
) -> None:
    config = {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": config}))
    assert gpu_groups.tensor_parallel_size(tmp_path, gpus) == size
