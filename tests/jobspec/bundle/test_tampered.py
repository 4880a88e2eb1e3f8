"""One changed byte anywhere: the bundle is rejected, and the file is named."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from jobspec.bundle import read_bundle
from jobspec.errors import JobspecError
from jobspec.storage.layout import BundlePaths
from tests.support.bundles import DEMO, sign, unpack
from tests.support.commands import jobspec

COPIES = 30


def with_every_kind(directory: Path) -> BundlePaths:
    """The demo's bundle with weights and a data file too."""
    bundle = unpack(directory)
    model = bundle.attempt(1).final_model
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    bundle.model_card.write_text("# A model\n")
    sign(bundle)
    return bundle


def changed(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << (at % 7)
    path.write_bytes(data)


def test_thirty_copies_with_one_changed_byte_are_rejected(tmp_path: Path) -> None:
    """Every file once, then again until there are thirty, always at another place."""
    bundle = with_every_kind(tmp_path)
    with read_bundle.opened(bundle.dir):
        pass  # as it is, it is accepted
    chosen = random.Random(22)
    files = sorted(path for path in bundle.dir.rglob("*") if path.is_file())
    assert {bundle.sums, bundle.crate, bundle.about, bundle.spec} < set(files)
    copies = files + [chosen.choice(files) for _ in range(COPIES - len(files))]
    for path in copies:
        before = path.read_bytes()
        at = chosen.randrange(len(before))
        changed(path, at)
        name = path.relative_to(bundle.dir).as_posix()
        with pytest.raises(JobspecError) as refused, read_bundle.opened(bundle.dir):
            pass
        assert name in str(refused.value), f"byte {at} of {name}: {refused.value}"
        path.write_bytes(before)
    assert len(copies) >= COPIES
    with read_bundle.opened(bundle.dir):
        pass


def test_every_byte_of_the_sums_counts(tmp_path: Path) -> None:
    bundle = unpack(tmp_path)
    before = bundle.sums.read_bytes()
    for at in range(len(before)):
        changed(bundle.sums, at)
        with pytest.raises(JobspecError, match=BundlePaths.SUMS), read_bundle.opened(bundle.dir):
            pass
        bundle.sums.write_bytes(before)


@pytest.mark.parametrize("seed", range(2))
def test_a_changed_byte_of_the_tar_is_rejected(tmp_path: Path, seed: int) -> None:
    """Of the compressed file, and of the tar in it with a gzip checksum that fits."""
    chosen = random.Random(seed)
    packed = tmp_path / "packed.tar.gz"
    data = DEMO.read_bytes()
    for at in [*range(10), *chosen.sample(range(len(data)), 40), *range(len(data) - 8, len(data))]:
        packed.write_bytes(data)
        changed(packed, at)
        named = pytest.raises(JobspecError, match=r"packed\.tar\.gz|manifest-sha256|\.json")
        with named, read_bundle.opened(packed):
            pass
    tar = bytearray(gzip.decompress(data))
    for at in chosen.sample(range(len(tar)), 40):
        tar[at] ^= 0x10
        packed.write_bytes(gzipped(bytes(tar)))
        tar[at] ^= 0x10
        with pytest.raises(JobspecError), read_bundle.opened(packed):
            pass
    packed.write_bytes(gzipped(bytes(tar)))
    with read_bundle.opened(packed):
        pass


def gzipped(data: bytes) -> bytes:
    packed = bytearray(gzip.compress(data, mtime=0))
    packed[8:10] = b"\0\xff"
    return bytes(packed)


def test_the_command_names_the_file(tmp_path: Path) -> None:
    bundle = unpack(tmp_path)
    changed(bundle.attempt(1).metrics, 500)
    refused = jobspec("verify", bundle.dir, code=1)
    assert "error: attempts/1/metrics.jsonl: changed: its SHA-256 is" in refused.stderr
