#!/usr/bin/env python3
"""Makes the model of noise: a SmolLM3-shaped backbone with random weights, its tokenizer and a random
δ-mem adapter. Owns every file of this folder but the two scripts, the README and
chat_template.jinja.

    python3 -m venv VENV && VENV/bin/pip install numpy==2.4.6 tokenizers==0.23.3
    VENV/bin/python tests/noise/make.py            # writes beside this script
    VENV/bin/python tests/noise/make.py --check    # writes nothing, fails if a file would change
"""

import json
import pathlib
import struct
import sys

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import corpus

FOLDER = pathlib.Path(__file__).resolve().parent
SEED = 20261120
N_CONVERSATIONS = 4000
VOCAB_SIZE = 1280

# In SmolLM3's order; ids follow the byte-pair vocabulary. True = special (skipped in decoded text).
ADDED_TOKENS = {
    "<|begin_of_text|>": True,
    "<|end_of_text|>": True,
    "<think>": False,
    "</think>": False,
    "<|im_start|>": True,
    "<|im_end|>": True,
}

# Llama 3's split, which SmolLM3 uses too.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CONFIG = {
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,  # filled in by main
    "hidden_act": "silu",
    "hidden_size": 128,
    "head_dim": 32,
    "initializer_range": 0.02,
    "intermediate_size": 352,
    "layer_types": ["full_attention"] * 4,
    "max_position_embeddings": 2048,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0],
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "pad_token_id": None,  # filled in by main
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCAB_SIZE,
}

DELTA_CONFIG = {
    "rank": 8,
    "alpha": 16.0,
    "normalize_qk": True,
    "couple_lambda": True,
    "state_update_mode": "standard",
    "rankwise_gates": True,
    "num_state_heads": 1,
    "memory_write_granularity": "token",
    "target_modules": ["self_attn"],
    "target_layers": [],
    "delta_heads": ["q", "o"],
}

# Root mean square of a tensor's rows' outputs for unit input, by last name part.
WEIGHT_GAIN = {
    "q_proj": 1.2, "k_proj": 1.2, "v_proj": 1.0, "o_proj": 1.0, "gate_proj": 1.0, "up_proj": 1.0, "down_proj": 1.5,
    "memory_q_proj": 1.0, "memory_k_proj": 1.0, "memory_v_proj": 1.0, "beta_proj": 0.7,
    # Strong enough to change replies, weak enough to leave the residual stream its size.
    "delta_q_proj": 0.5, "delta_o_proj": 0.25,
    # Not in delta_heads: zero, as in a trained adapter.
    "delta_k_proj": 0.0, "delta_v_proj": 0.0,
}
EMBED_GAIN = 2.8
# The head is the embedding, so the length of a row is the spread of that token's logit. A shrunk row
# stays near logit 0 and is never chosen: broken UTF-8, control characters and chat markup would only
# garble the terminal. The stretched one lets an untrained model end a reply now and then.
UNSPEAKABLE_SCALE = 0.1
END_SCALE = 1.6


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(
        corpus.lines(SEED, N_CONVERSATIONS),
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE - len(ADDED_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    for content, special in ADDED_TOKENS.items():
        token = AddedToken(content, special=special, normalized=False)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        sys.exit(f"the corpus is too small: {tokenizer.get_vocab_size()} tokens, wanted {VOCAB_SIZE}")
    return tokenizer


def backbone_shapes():
    c = CONFIG
    h, i = c["hidden_size"], c["intermediate_size"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    layer = {
        "input_layernorm": [h],
        "self_attn.q_proj": [q, h], "self_attn.k_proj": [kv, h], "self_attn.v_proj": [kv, h], "self_attn.o_proj": [h, q],
        "post_attention_layernorm": [h],
        "mlp.gate_proj": [i, h], "mlp.up_proj": [i, h], "mlp.down_proj": [h, i],
    }
    yield "model.embed_tokens.weight", [VOCAB_SIZE, h]
    for n in range(c["num_hidden_layers"]):
        for name, shape in layer.items():
            yield f"model.layers.{n}.{name}.weight", shape
    yield "model.norm.weight", [h]


def adapter_shapes():
    c, r = CONFIG, DELTA_CONFIG["rank"]
    h, q, kv = c["hidden_size"], c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    layer = {
        "memory_q_proj": [r, h], "memory_k_proj": [r, h], "memory_v_proj": [r, h],
        "delta_q_proj": [q, r], "delta_k_proj": [kv, r], "delta_v_proj": [kv, r], "delta_o_proj": [h, r],
        "beta_proj": [r, h], "beta_bias": [r],
    }
    for n in range(c["num_hidden_layers"]):
        for name, shape in layer.items():
            yield f"model.layers.{n}.self_attn.{name}", shape


def uniform(name, shape):
    """f32 in [-1, 1): element i is a hash of the seed, the tensor's name and i (splitmix64)."""
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 & mask
    key = mix((key + SEED * golden) & mask)
    with np.errstate(over="ignore"):
        z = np.uint64(key) + np.arange(1, np.prod(shape) + 1, dtype=np.uint64) * np.uint64(golden)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)).reshape(shape)


def make_tensor(name, shape):
    if name == "model.embed_tokens.weight":
        return uniform(name, shape) * np.float32(EMBED_GAIN * (3.0 / shape[1]) ** 0.5)
    if name.endswith("norm.weight"):
        return np.float32(1.0) + uniform(name, shape) * np.float32(0.25)
    if name.endswith("beta_bias"):
        return np.float32(-1.5) + uniform(name, shape) * np.float32(0.8)
    part = name.removesuffix(".weight").rsplit(".", 1)[-1]
    return uniform(name, shape) * np.float32(WEIGHT_GAIN[part] * (3.0 / shape[1]) ** 0.5)


def is_unspeakable(tokenizer, token_id):
    """True for tokens that alone are no printable text."""
    if tokenizer.id_to_token(token_id) in ADDED_TOKENS:
        return True
    text = tokenizer.decode([token_id])
    return "\ufffd" in text or any(c != "\n" and not c.isprintable() for c in text)


def bfloat16(x):
    """Rounds to nearest, ties to even; returns the upper halves as u16."""
    bits = np.ascontiguousarray(x, dtype="<f4").view("<u4")
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")


def safetensors(tensors, dtype):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, x in tensors.items():
        data = (bfloat16(x) if dtype == "BF16" else x.astype("<f4")).tobytes()
        header[name] = {"dtype": dtype, "shape": list(x.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + body


def as_json(value):
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def main():
    tokenizer = make_tokenizer()
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|end_of_text|>")
    backbone = {name: make_tensor(name, shape) for name, shape in backbone_shapes()}
    embedding = backbone["model.embed_tokens.weight"]
    for token_id in range(VOCAB_SIZE):
        if token_id == end:
            embedding[token_id] *= np.float32(END_SCALE)
        elif is_unspeakable(tokenizer, token_id):
            embedding[token_id] *= np.float32(UNSPEAKABLE_SCALE)
    adapter = {name: make_tensor(name, shape) for name, shape in adapter_shapes()}
    files = {
        "config.json": as_json(CONFIG | {"eos_token_id": end, "pad_token_id": pad}),
        "generation_config.json": as_json({
            "do_sample": True, "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 48,
            "eos_token_id": [end], "pad_token_id": pad,
        }),
        "tokenizer.json": (tokenizer.to_str(pretty=True) + "\n").encode(),
        "tokenizer_config.json": as_json({
            "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|end_of_text|>",
            "clean_up_tokenization_spaces": False, "model_max_length": CONFIG["max_position_embeddings"],
            "tokenizer_class": "PreTrainedTokenizerFast",
        }),
        "model.safetensors": safetensors(backbone, "BF16"),
        "delta_mem_config.json": as_json(DELTA_CONFIG),
        "delta_mem_adapter.safetensors": safetensors(adapter, "F32"),
    }
    changed = []
    for name, data in files.items():
        path = FOLDER / name
        if not path.exists() or path.read_bytes() != data:
            changed.append(name)
            if "--check" not in sys.argv[1:]:
                path.write_bytes(data)
        print(f"{name}: {len(data):,} bytes")
    print(f"changed: {', '.join(changed) or 'nothing'}")
    if "--check" in sys.argv[1:] and changed:
        sys.exit(1)


if __name__ == "__main__":
    main()
