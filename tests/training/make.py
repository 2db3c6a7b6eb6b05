#!/usr/bin/env python3
"""Training steps of δ-mem adapters in PyTorch, recorded for src/train/tests.rs.

Written from the equations of SPEC.md alone: token by token, one episode at a time, in f64, with
torch's own autograd, AdamW and clipping. Nothing is shared with the trainer in this repository.
A development tool: needs torch, numpy and safetensors; `./make.py` writes the JSON files beside it.
"""
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
OPTIONS = dict(
    peak=0.003, floor_share=0.1, warmup_steps=2, n_steps=6, beta1=0.9, beta2=0.999, epsilon=1e-8,
    weight_decay=0.1, max_gradient_norm=2.0,
)


def rms_norm(x, weight, eps):
    return weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


class Model:
    def __init__(self, folder):
        read = lambda name: json.loads((folder / name).read_text())
        double = lambda name: {k: v.double() for k, v in load_file(folder / name).items()}
        self.c, self.d = read("config.json"), read("delta_mem_config.json")
        self.w = double("model.safetensors")
        self.a = double("delta_mem_adapter.safetensors")
        plain = dict(normalize_qk=True, couple_lambda=True, state_update_mode="standard",
                     rankwise_gates=True, delta_o_rmsnorm=False, trainable_delta_scale=False)
        assert all(self.d[key] == value for key, value in plain.items()), "not written down here"
        for tensor in self.a.values():
            tensor.requires_grad_(True)
        self.head_dim = self.c.get("head_dim") or self.c["hidden_size"] // self.c["num_attention_heads"]

    def rope(self, x, position):
        half = self.head_dim // 2
        exponent = torch.arange(half, dtype=torch.float64) * 2 / self.head_dim
        angle = position * self.c["rope_theta"] ** -exponent
        low, high = x[:, :half], x[:, half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([low * cos - high * sin, high * cos + low * sin], 1)

    def project(self, layer, n):
        """q, k, v, beta of one token (or mean) n [h], all [heads, rank]."""
        a = lambda name: self.a[f"model.layers.{layer}.self_attn.{name}"]
        heads, rank = self.d["num_state_heads"], self.d["rank"]
        unit = lambda y: F.normalize(torch.tanh(y.view(heads, rank)), dim=-1, eps=1e-6)
        beta = torch.sigmoid(a("beta_proj") @ n + a("beta_bias")).view(heads, rank)
        q, k = unit(a("memory_q_proj") @ n), unit(a("memory_k_proj") @ n)
        return q, k, (a("memory_v_proj") @ n).view(heads, rank), beta

    @staticmethod
    def write(state, k, v, beta):
        predicted = torch.einsum("hij,hj->hi", state, k)
        return (1 - beta)[..., None] * state + (beta * (v - predicted))[..., None] * k[:, None, :]

    def call(self, call, cache, states):
        """Logits [T, vocab]; cache[l] is a list of (k, v), states[l] is [heads, rank, rank]."""
        c, w, past = self.c, self.w, len(cache[0])
        ids = call["message_ids"] if self.d["memory_write_granularity"] == "message_mean" else None
        eps, n_heads, n_kv = c["rms_norm_eps"], c["num_attention_heads"], c["num_key_value_heads"]
        x = w["model.embed_tokens.weight"][call["tokens"]]
        for layer in range(c["num_hidden_layers"]):
            weight = lambda name: w[f"model.layers.{layer}.{name}.weight"]
            a = lambda name: self.a[f"model.layers.{layer}.self_attn.{name}"]
            normed = rms_norm(x, weight("input_layernorm"), eps)
            before, rows = states[layer], []
            for t, n in enumerate(normed):
                q, k, v, beta = self.project(layer, n)
                read = torch.einsum("hij,hj->hi", before if ids else states[layer], q).reshape(-1)
                if not ids:
                    states[layer] = self.write(states[layer], k, v, beta)
                scale = self.d["alpha"] / self.d["rank"]
                correct = lambda y, head: (
                    y + scale * (a(f"delta_{head}_proj") @ read) if head in self.d["delta_heads"] else y
                )
                queries = correct(weight("self_attn.q_proj") @ n, "q").view(n_heads, -1)
                keys = correct(weight("self_attn.k_proj") @ n, "k").view(n_kv, -1)
                values = correct(weight("self_attn.v_proj") @ n, "v").view(n_kv, -1)
                if c["no_rope_layers"][layer]:
                    queries, keys = self.rope(queries, past + t), self.rope(keys, past + t)
                cache[layer].append((keys, values))
                all_keys = torch.stack([k for k, _ in cache[layer]])
                all_values = torch.stack([v for _, v in cache[layer]])
                seen = []
                for head in range(n_heads):
                    kv = head // (n_heads // n_kv)
                    scores = all_keys[:, kv] @ queries[head] / math.sqrt(self.head_dim)
                    seen.append(scores.softmax(0) @ all_values[:, kv])
                rows.append(correct(weight("self_attn.o_proj") @ torch.cat(seen), "o"))
            if ids:
                for group in sorted({i for i in ids if i >= 0}):
                    members = [t for t, i in enumerate(ids) if i == group]
                    _, k, v, beta = self.project(layer, normed[members].mean(0))
                    states[layer] = self.write(states[layer], k, v, beta)
            x = x + torch.stack(rows)
            m = rms_norm(x, weight("post_attention_layernorm"), eps)
            gate, up = m @ weight("mlp.gate_proj").T, m @ weight("mlp.up_proj").T
            x = x + (F.silu(gate) * up) @ weight("mlp.down_proj").T
        x = rms_norm(x, w["model.norm.weight"], eps)
        return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T

    def nll(self, episode):
        """Summed loss of an episode and the number of its targets."""
        n_layers, heads, rank = self.c["num_hidden_layers"], self.d["num_state_heads"], self.d["rank"]
        states = [torch.zeros(heads, rank, rank, dtype=torch.float64) for _ in range(n_layers)]
        cache, loss, n_targets = None, 0.0, 0
        for call in episode:
            if not call["continues"]:
                cache = [[] for _ in range(n_layers)]
            if not call["tokens"]:
                continue
            logits = self.call(call, cache, states)
            for row, target in zip(logits, call["targets"]):
                if target is not None:
                    loss = loss - row.log_softmax(0)[target]
                    n_targets += 1
        return loss, n_targets


def episode(seed, n_context, n_question, n_answer, grouped, vocab_size):
    tokens = lambda n, s: [(7 + 37 * t + 11 * s + t * t * s) % vocab_size for t in range(n)]
    ids = lambda n: [t // 4 - 1 for t in range(n)] if grouped else None
    answer = [(5 * seed + 3 * t + 1) % vocab_size for t in range(n_answer + 1)]
    none = lambda n: [None] * n
    call = lambda tokens, message_ids, continues, targets: dict(
        tokens=tokens, message_ids=message_ids, continues=continues, targets=targets
    )
    return [
        call(tokens(n_context, seed), ids(n_context), False, none(n_context)),
        call(tokens(n_question, seed + 1), ids(n_question), False, none(n_question - 1) + answer[:1]),
        # As decoded: every token writes on its own.
        call(answer[:-1], None, True, answer[1:]),
    ]


def learning_rate(step):
    o = OPTIONS
    if step < o["warmup_steps"]:
        return o["peak"] * (step + 1) / o["warmup_steps"]
    share = (step - o["warmup_steps"]) / (o["n_steps"] - o["warmup_steps"])
    return o["peak"] * (o["floor_share"] + (1 - o["floor_share"]) * (0.5 + 0.5 * math.cos(math.pi * share)))


def record(name, fixture):
    model = Model(FIXTURES / fixture)
    grouped = model.d["memory_write_granularity"] == "message_mean"
    vocab_size = model.c["vocab_size"]
    episodes = [episode(s, 9 + 5 * s, 5 + s % 2, 2 + s % 3, grouped, vocab_size) for s in range(4)]
    o = OPTIONS
    groups = [
        dict(params=[p for p in model.a.values() if p.dim() > 1], weight_decay=o["weight_decay"]),
        dict(params=[p for p in model.a.values() if p.dim() == 1], weight_decay=0.0),
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(o["beta1"], o["beta2"]), eps=o["epsilon"])
    steps = []
    for step in range(o["n_steps"]):
        chosen = [(2 * step + i) % 4 for i in range(2)] if step else [0, 3]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.zero_grad()
        sums = [model.nll(episodes[i]) for i in chosen]
        loss = sum(s for s, _ in sums) / sum(n for _, n in sums)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.a.values(), o["max_gradient_norm"])
        optimizer.step()
        steps.append(dict(episodes=chosen, loss=loss.item(), gradient_norm=norm.item()))
        print(name, step, steps[-1], flush=True)
    with torch.no_grad():
        sums = [model.nll(e) for e in episodes]
    final = (sum(s for s, _ in sums) / sum(n for _, n in sums)).item()
    case = dict(fixture=fixture, options=o, episodes=episodes, steps=steps, final_loss=final)
    (HERE / f"{name}.json").write_text(json.dumps(case) + "\n")


torch.set_num_threads(1)
record("tsw", "g_carry")
record("msw", "c_msw4")
record("ssw", "s2_session_ssw_smollm3")
