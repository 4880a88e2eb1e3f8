from __future__ import annotations

import pytest

from jobspec.models import devices
from worker.training.flops import FlopModel


def test_peaks_are_found_by_name():
    assert devices.peak("NVIDIA H100 80GB HBM3") == 989e12
    assert devices.peak("NVIDIA H100 NVL") == 835e12
    assert devices.peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert devices.peak("Some CPU") is None


def test_work_is_six_a_weight_and_token_and_attention_over_the_causal_half():
    shape = FlopModel(body=1000, head=100, attention_width=8, windows=(None, 2))
    # 4 tokens: pairs 1+2+3+4 = 10 in the full layer, 1+2+2+2 = 7 within a window of 2.
    assert shape.forward([4], trained_tokens=3) == 2 * (4 * 1000 + 3 * 100) + 4 * 8 * (10 + 7)
    assert shape.step([4], 3) == 3 * shape.forward([4], 3)
    rows, one = shape.forward([4, 4], 0), shape.forward([8], 0)
    assert rows < one


def test_a_models_shape_is_read_off_it():
    transformers = pytest.importorskip("transformers")
    config = transformers.Olmo3Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=8,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = transformers.Olmo3ForCausalLM(config)
    shape = FlopModel.of(model)
    assert shape.head == 50 * 16
    assert shape.body == sum(p.numel() for p in model.parameters()) - 2 * 50 * 16
    assert shape.windows == (8, 8, 8, None)
    assert shape.attention_width == 16


def test_what_is_computed_twice_counts_for_the_hardware_alone():
    shape = FlopModel(body=1000, head=100, attention_width=8, windows=(None,))
    assert shape.recomputed([4], 3, share=1.0) == shape.forward([4], 3)
    half = (shape.forward([4], 3) + 2 * 3 * 100) / 2
    assert shape.recomputed([4], 3, share=0.5) == half
    assert shape.recomputed([4], 3, share=0.0) == 2 * 3 * 100


def test_frozen_weights_get_no_gradient():
    shape = FlopModel(body=1000, head=100, attention_width=8, windows=(None,), frozen=True)
    # Forward, and backward to the inputs: 4 a weight; attention has no weights to spare.
    assert shape.step([4], 3) == 4 * (4 * 1000 + 3 * 100) + 3 * 4 * 8 * 10
