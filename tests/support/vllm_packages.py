"""Lays down a vLLM as an installer would, for tests of one that can't run."""

from __future__ import annotations

from pathlib import Path


def install(
    directory: Path, distribution: str, *requirements: str, package: bool = True, info: bool = True
) -> None:
    """Write a distribution's metadata and its empty package, or only one of the two."""
    if info:
        metadata = directory / f"{distribution.replace('-', '_')}-0.32.0.dist-info"
        metadata.mkdir(parents=True)
        needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requirements)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.32.0\n{needs}"
        )
    if package:
        (directory / "vllm").mkdir(parents=True)
        (directory / "vllm" / "__init__.py").touch()
