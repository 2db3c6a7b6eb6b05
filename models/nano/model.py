"""nano in PyTorch: the SmolLM3 backbone and δ-mem on it, for training only.

The mathematics is that of the program's own forward pass; names of parameters are those of the files.
Shapes: B episodes, T tokens, h hidden, H state heads of rank r.
"""

import json
import math

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

CONFIG = {
    "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "intermediate_size": 352, "vocab_size": 6144, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "no_rope_layer_interval": 4,
}


class RmsNorm(nn.Module):
    def __init__(self, h, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(h)), eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rope_tables(length, d, theta):
    angles = torch.arange(length)[:, None] * theta ** (-torch.arange(0, d, 2) / d)
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def causal_attention(q, k, v):
    """q [B, Hq, T, d], k and v [B, Hkv, T, d] -> [B, Hq, T, d]. Written out: on CPUs short rows are several times as fast so as fused."""
    (b, nq, t, d), nkv = q.shape, k.shape[1]
    q, k, v = q.reshape(b * nkv, nq // nkv * t, d), k.reshape(b * nkv, t, d), v.reshape(b * nkv, t, d)
    scores = (q * d**-0.5 @ k.mT).float().view(b * nkv, nq // nkv, t, t)
    later = torch.arange(t)[:, None] < torch.arange(t)
    shares = scores.masked_fill(later, -torch.inf).softmax(-1)
    return (shares.view(b * nkv, -1, t).to(v.dtype) @ v).view(b, nq, t, d)


class Layer(nn.Module):
    def __init__(self, c, index):
        super().__init__()
        h, d = c["hidden_size"], c["head_dim"]
        self.nq, self.nkv, self.d = c["num_attention_heads"], c["num_key_value_heads"], d
        self.uses_rope = (index + 1) % c["no_rope_layer_interval"] != 0
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.input_layernorm, self.post_attention_layernorm = RmsNorm(h, c["rms_norm_eps"]), RmsNorm(h, c["rms_norm_eps"])
        self.self_attn = nn.ModuleDict({
            "q_proj": linear(h, self.nq * d), "k_proj": linear(h, self.nkv * d),
            "v_proj": linear(h, self.nkv * d), "o_proj": linear(self.nq * d, h),
        })
        i = c["intermediate_size"]
        self.mlp = nn.ModuleDict({"gate_proj": linear(h, i), "up_proj": linear(h, i), "down_proj": linear(i, h)})

    def forward(self, x, cos, sin, delta=None):
        """delta: None or a function of n that gives the corrections by target name."""
        b, t, _ = x.shape
        n = self.input_layernorm(x)
        a = self.self_attn
        q, k, v = a["q_proj"](n), a["k_proj"](n), a["v_proj"](n)
        more = delta(n) if delta else {}
        if "q" in more: q = q + more["q"]
        if "k" in more: k = k + more["k"]
        if "v" in more: v = v + more["v"]
        q, k, v = (z.view(b, t, -1, self.d).transpose(1, 2) for z in (q, k, v))
        if self.uses_rope:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        o = causal_attention(q, k, v)
        o = a["o_proj"](o.transpose(1, 2).reshape(b, t, -1))
        if "o" in more: o = o + more["o"]
        x = x + o
        m = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](m)) * self.mlp["up_proj"](m))


class Nano(nn.Module):
    def __init__(self, c=CONFIG):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = RmsNorm(c["hidden_size"], c["rms_norm_eps"])
        nn.init.normal_(self.embed_tokens.weight, std=0.05)
        for name, p in self.layers.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=1 / math.sqrt(p.shape[1]) * (0.0 if "o_proj" in name or "down_proj" in name else 1.0))
        cos, sin = rope_tables(4096, c["head_dim"], c["rope_theta"])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def hidden(self, ids, deltas=None):
        """The last norm's output, [B, T, h]. deltas: one correction function a layer, or None."""
        x = self.embed_tokens(ids)
        t = ids.shape[1]
        for i, layer in enumerate(self.layers):
            x = layer(x, self.cos[:t], self.sin[:t], deltas[i] if deltas else None)
        return self.norm(x)

    def logits(self, hidden):
        return hidden @ self.embed_tokens.weight.T

    def n_parameters(self):
        return sum(p.numel() for p in self.parameters())


@torch.no_grad()
def round_to_bf16(module):
    """The weights as shipped."""
    for p in module.parameters():
        p.copy_(p.bfloat16().float())
    return module


def load_backbone(path):
    """{"config", "weights"} of a backbone.pt, or of a folder as export.py writes it (bf16)."""
    if not path.is_dir():
        return torch.load(path)
    config = json.loads((path / "config.json").read_text())
    config |= {"no_rope_layer_interval": config["no_rope_layers"].index(0) + 1}
    weights = {name.removeprefix("model."): w.float() for name, w in load_file(path / "model.safetensors").items()}
    return {"config": {key: config[key] for key in CONFIG}, "weights": weights}


def tokenizer_of(path):
    return (path if path.is_dir() else path.parent) / "tokenizer.json"
