"""δ-mem on nano in PyTorch: projections, gates, reads, writes and corrections of every layer.

Owns the adapter's parameters and the placement of writes; the recurrence is in delta_scan.py.
Shapes: B episodes, T tokens, h hidden, H state heads of rank r, R = H·r.
"""

import math

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import delta_scan

DELTA_CONFIG = {
    "rank": 8, "alpha": 16.0, "normalize_qk": True, "couple_lambda": True, "state_update_mode": "no_lambda",
    "rankwise_gates": True, "num_state_heads": 8, "memory_write_granularity": "token",
    "target_modules": ["self_attn"], "target_layers": [], "delta_heads": ["q", "o"],
}


class LayerMemory(nn.Module):
    """The adapter of one layer."""

    def __init__(self, c, d, beta_bias=-1.5):
        super().__init__()
        h, n_rows = c["hidden_size"], d["rank"] * d["num_state_heads"]
        self.d = d
        into = lambda o, gain: nn.Parameter(torch.randn(o, h) * gain / math.sqrt(h))
        self.memory_q_proj, self.memory_k_proj, self.memory_v_proj = into(n_rows, 1.0), into(n_rows, 1.0), into(n_rows, 1.0)
        self.beta_proj, self.beta_bias = into(n_rows, 0.1), nn.Parameter(torch.full((n_rows,), beta_bias))
        if not d["couple_lambda"]:
            self.lambda_proj, self.lambda_bias = into(n_rows, 0.1), nn.Parameter(torch.full((n_rows,), 4.0))
        sizes = {"q": c["num_attention_heads"] * c["head_dim"], "k": c["num_key_value_heads"] * c["head_dim"],
                 "v": c["num_key_value_heads"] * c["head_dim"], "o": h}
        for x, size in sizes.items():
            gain = 0.02 if x in d["delta_heads"] else 0.0
            self.register_parameter(f"delta_{x}_proj", nn.Parameter(torch.randn(size, n_rows) * gain, requires_grad=gain > 0))

    def forward(self, n, state, writes):
        """n [B, T, h], state [B, H, r, r] -> corrections by target, next state."""
        b, t, _ = n.shape
        heads, r = self.d["num_state_heads"], self.d["rank"]
        split = lambda x: x.view(b, t, heads, r)
        unit = lambda y: F.normalize(torch.tanh(split(y)), dim=-1, eps=1e-6)
        source = writes.source(n)
        mq, mk, mv = unit(n @ self.memory_q_proj.T), unit(source @ self.memory_k_proj.T), split(source @ self.memory_v_proj.T)
        written = writes.mask[:, :, None, None]
        beta = torch.sigmoid(split(source @ self.beta_proj.T + self.beta_bias)) * written
        if self.d["state_update_mode"] == "no_lambda":
            keep = torch.ones_like(beta)
        elif self.d["couple_lambda"]:
            keep = 1 - beta
        else:
            keep = 1 - (1 - torch.sigmoid(split(source @ self.lambda_proj.T + self.lambda_bias))) * written
        rows = lambda x: x.transpose(1, 2).reshape(b * heads, t, r).float()
        read, state = delta_scan.delta_scan(*map(rows, (mq, mk, mv, beta, keep)), state.reshape(b * heads, r, r))
        read = read.view(b, heads, t, r).transpose(1, 2).reshape(b, t, heads * r) * (self.d["alpha"] / r)
        return {x: read @ getattr(self, f"delta_{x}_proj").T for x in self.d["delta_heads"]}, state.view(b, heads, r, r)


class Writes:
    """Which tokens write, and what: mask [B, T] f32, and for message means a matrix [B, T, T]."""

    def __init__(self, mask, means=None):
        self.mask, self.means = mask, means

    def source(self, n):
        return n if self.means is None else self.means @ n


class Memory(nn.Module):
    def __init__(self, c, d=DELTA_CONFIG, beta_bias=-1.5):
        super().__init__()
        self.c, self.d = c, d
        self.layers = nn.ModuleList(LayerMemory(c, d, beta_bias) for _ in range(c["num_hidden_layers"]))

    def zero_states(self, b):
        heads, r = self.d["num_state_heads"], self.d["rank"]
        return [torch.zeros(b, heads, r, r) for _ in self.layers]

    def run(self, nano, ids, states, writes):
        """Hidden states [B, T, h] of a fresh context read with `states`, and the states afterwards."""
        after = [None] * len(self.layers)

        def delta(i):
            def correct(n):
                more, after[i] = self.layers[i](n, states[i], writes)
                return more
            return correct

        return nano.hidden(ids, [delta(i) for i in range(len(self.layers))]), after


def load_adapter(path):
    """The weights of an adapter.pt, or of a folder as export.py writes it (bf16)."""
    if not path.is_dir():
        return torch.load(path)["weights"]
    # model.layers.N.self_attn.memory_q_proj -> layers.N.memory_q_proj
    return {".".join((name.split(".")[1], name.split(".")[2], name.split(".")[-1])): w.float() for name, w in load_file(path / "delta_mem_adapter.safetensors").items()}
