"""How many samples each engine of a pool may hold at a time."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from worker.inference import pool
from worker.inference.engine import EngineChoice, Weights
from worker.inference.pool import EnginePool, StartEngine


@pytest.mark.parametrize(
    ("engines", "others", "samples", "in_flight"),
    [(1, 0, 10, 256), (2, 0, 40, 10), (1, 1, 40, 10), (2, 1, 60, 10), (1, 1, 10_000, 256)],
)
def test_an_engine_beside_others_holds_half_of_its_share(
    monkeypatch: pytest.MonkeyPatch, engines: int, others: int, samples: int, in_flight: int
) -> None:
    started: list[int] = []

    def start(message: StartEngine, switches: Mapping[str, str]) -> None:
        started.append(message.in_flight)

    monkeypatch.setattr(pool, "_Child", start)
    choice = EngineChoice(name="vllm", weights=Weights(directory="model"), context=64)
    EnginePool(choice, [{}] * engines, samples=samples, others=others)
    assert started == [in_flight] * engines
