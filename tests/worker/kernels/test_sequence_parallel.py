"""A row's tokens on several ranks: the same loss and gradients, in forked gloo ranks."""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import deepspeed  # noqa: E402 - before the fork, which then need not
import torch.distributed as dist  # noqa: E402
from transformers import AutoModelForCausalLM, Olmo3Config  # noqa: E402

from jobspec.errors import SpecError  # noqa: E402
from worker.data.dataset_cache import IGNORED  # noqa: E402
from worker.kernels import varlen_attention  # noqa: E402
from worker.packing.collate import Shard, find_targets, pack, shard  # noqa: E402

RANKS = 4  # two groups of two
DEGREE = 2
LONG = 512  # tokens of a row whose activations outweigh all that does not shrink
LENGTHS = (3, 17, 1, 8)  # 29 tokens: the line is filled up by one
# One head of keys for two ranks, and a window shorter than a row.
CONFIG = Olmo3Config(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=8,
    sliding_window=5,
    layer_types=["sliding_attention", "full_attention"],
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=None,
)


def line(seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Rows of random tokens; the first half of each is context."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(2, 60, (length,), generator=generator) for length in LENGTHS]
    labels = [row.clone() for row in ids]
    for row in labels:
        row[: len(row) // 2] = IGNORED
    return ids, labels


def model() -> Any:
    torch.manual_seed(0)
    config = Olmo3Config.from_dict(CONFIG.to_dict())
    made = AutoModelForCausalLM.from_config(config, attn_implementation=varlen_attention.register())
    for weight in made.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    return made.double()


def loss_and_gradients(inputs: dict[str, Any]) -> dict[str, Any]:
    """The summed loss of a line, or of a part of it, and the gradient of every weight."""
    made = model()
    if dist.is_initialized():
        varlen_attention.enable_sequence_parallel(made.config, DEGREE)
    labels = inputs.pop("shift_labels")
    logits = made(**inputs, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="sum")
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad for name, p in made.named_parameters()}}


def kept(tokens: int, part: Shard) -> int:
    """Bytes that a rank's forward pass keeps for the backward pass, weights and masks aside."""
    made = model()
    if part.count > 1:
        varlen_attention.enable_sequence_parallel(made.config, part.count)
    weights = {weight.untyped_storage().data_ptr() for weight in made.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    row = torch.arange(tokens) % 60
    inputs = shard([row], [row.clone()], 0, part) if part.count > 1 else whole_line(row)
    labels = inputs.pop("shift_labels")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = made(**inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="sum")
    assert loss.isfinite()
    for (
        mask
    ) in varlen_attention._masks.values():  # one for all layers and steps, a row's length squared
        storages.pop(mask.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def rank_main(rank: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)  # a forked OpenMP has no threads any more
    where = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=RANKS)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled
    deepspeed.init_distributed("gloo", verbose=False)
    group, part = divmod(rank, DEGREE)
    found = loss_and_gradients(shard(*line(group), 0, Shard(part, DEGREE)))
    for tensor in found.values():
        dist.all_reduce(tensor)
    torch.save(found, out / str(rank))
    (out / f"{rank}.kept").write_text(str(kept(LONG, Shard(part, DEGREE))))


def whole(seed: int) -> dict[str, Any]:
    """What `shard` cuts, in one piece."""
    return shifted(pack(*line(seed)))


def whole_line(row: Any) -> dict[str, Any]:
    return shifted(pack([row], [row.clone()]))


def shifted(packed: dict[str, Any]) -> dict[str, Any]:
    labels = torch.nn.functional.pad(packed.pop("labels")[:, 1:], (0, 1), value=IGNORED)
    return packed | {"shift_labels": labels}


def test_groups_that_share_a_line_each_have_its_loss_and_gradients(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=rank_main, args=(rank, port, tmp_path)) for rank in range(RANKS)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode == 0
    first, second = (loss_and_gradients(whole(group)) for group in range(RANKS // DEGREE))
    expected = {name: first[name] + second[name] for name in first}
    alone = kept(LONG, Shard())
    for rank in range(RANKS):
        found = torch.load(tmp_path / str(rank))
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
        assert int((tmp_path / f"{rank}.kept").read_text()) < 0.55 * alone


def test_a_part_keeps_the_lines_positions_bounds_and_next_tokens() -> None:
    uncut = pack(*line())
    parts = [shard(*line(), 0, Shard(part, DEGREE)) for part in range(DEGREE)]
    assert [part["input_ids"].shape for part in parts] == [(1, 15), (1, 15)]
    joined = {
        name: torch.cat([part[name] for part in parts], dim=1)
        for name in ("input_ids", "position_ids", "shift_labels")
    }
    assert (joined["input_ids"][:, :29] == uncut["input_ids"]).all()
    assert (joined["position_ids"][:, :29] == uncut["position_ids"]).all()
    assert (joined["shift_labels"][:, :28] == uncut["labels"][:, 1:]).all()
    assert (joined["shift_labels"][:, 28:] == IGNORED).all()
    for part in parts:
        assert part["cu_seq_lens_q"].tolist() == [0, 3, 20, 21, 29, 30]
        assert part["max_length_q"] == 17
    found = torch.cat([find_targets(part)["targets"] for part in parts])
    assert (found == find_targets(uncut)["targets"]).all()


def test_heads_that_do_not_come_out_even_are_refused() -> None:
    with pytest.raises(SpecError, match="`3` devices can't divide 4 attention heads") as caught:
        varlen_attention.enable_sequence_parallel(model().config, 3)
    assert caught.value.place == "$.train.sequence_parallel"
