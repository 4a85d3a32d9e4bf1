#!/usr/bin/env python3
"""Writes what torch.randn draws on the CPU, for tests/unit/test_rng.c.

usage: make_rng_reference.py > tests/unit/data/rng_reference.txt

"seed S" begins a generator; each line after it is its next call:
COUNT VALUE... (of more than 40 values, the last 40)."""
import torch

SEEDS = [0, 1, 42, 1234567, 2**32 - 1, 2**32 + 5, 2**63 + 11]
COUNTS = [3, 16, 5, 17, 1, 33, 15, 20, 2, 625, 1000, 4]

for seed in SEEDS:
    generator = torch.Generator("cpu").manual_seed(seed)
    print("seed", seed)
    for count in COUNTS:
        values = torch.randn(count, generator=generator)
        print(count, *(f"{float(value):.9g}" for value in values[-40:]))
