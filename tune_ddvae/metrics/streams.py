"""Generators for one purpose each, so that no draw ever shifts the draws of another."""

import hashlib

import torch


def stream(seed: int, purpose: str, device: torch.device | None = None) -> torch.Generator:
    """A generator that follows from seed and purpose alone, on that device (default: CPU).

    Args:
        seed: Any integer, 0 and 2**63 - 1 included.
        purpose: What is drawn, "initial weights" for instance.
        device: Where the numbers will be drawn.
    """
    # Hashed, because the CPU's generator reads only the low 32 bits of a seed: seeds that differ
    # above them, or by a constant offset, would otherwise share their numbers.
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator(device or "cpu").manual_seed(int.from_bytes(digest[:4], "big"))
