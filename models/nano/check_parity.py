#!/usr/bin/env python3
"""Proves model.py and memory.py against a recorded fixture of the reference (tests/fixtures).

    check_parity.py ../../tests/fixtures/c_msw4
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file

import memory
import model

LIMIT = 1e-4  # max|a − b| / max|expected|, as for every implementation of the project


def worst(got, expected):
    return ((got - expected).abs().max() / expected.abs().max()).item()


def check(folder):
    c, d = (json.loads((folder / name).read_text()) for name in ("config.json", "delta_mem_config.json"))
    c.setdefault("head_dim", c["hidden_size"] // c["num_attention_heads"])
    nano, mem = model.Nano(c), memory.Memory(c, d)
    nano.load_state_dict({k.removeprefix("model."): v.float() for k, v in load_file(folder / "model.safetensors").items()})
    mem.load_state_dict({k.removeprefix("model.").replace("self_attn.", ""): v for k, v in load_file(folder / "delta_mem_adapter.safetensors").items()})
    step = json.loads((folder / "case.json").read_text())["steps"][0]
    expected = load_file(folder / "expected.safetensors")
    ids = torch.tensor([step["input_ids"]])
    with torch.no_grad():
        hidden, states = mem.run(nano, ids, mem.zero_states(1), memory.Writes(torch.ones(ids.shape)))
        error = worst(nano.logits(hidden)[0], expected[f"{step['name']}.logits"])
    for layer, state in enumerate(states):
        error = max(error, worst(state.squeeze(), expected[f"{step['name']}.state.{layer}"]))
    print(f"{folder.name}: worst error {error:.1e}")
    return error < LIMIT


if __name__ == "__main__":
    sys.exit(0 if all([check(pathlib.Path(name)) for name in sys.argv[1:]]) else 1)
