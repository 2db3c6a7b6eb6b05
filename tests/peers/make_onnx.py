#!/usr/bin/env python3
"""Makes an ONNX file with the weights of a GGUF file, for onnxruntime's WebGPU provider. Owns the
graph that this engine is measured against (engine-bench.mjs).

    pip install -r tests/peers/requirements.txt
    python tests/peers/make_onnx.py FILE.gguf OUT.onnx

All matrices of the file must be Q4_0: those are the 4-bit blocks of 32 that MatMulNBits has, with
another order of nibbles, so both engines compute the same and their logits can be compared. Apart
from that the graph is what onnxruntime-genai's model builder writes for WebGPU: q, k and v in one
product, GroupQueryAttention with its rotary embedding, SkipSimplifiedLayerNormalization, the logits
of the last token alone. Two things are done for the peer's speed: seqlens_k and
total_sequence_length are inputs instead of a subgraph on the attention mask, and accuracy_level is 4
(activations may be rounded to 8 bits where the provider finds that faster) unless --accuracy says otherwise.
"""
import argparse
import json

import numpy as np
import onnx
from gguf import GGUFReader
from onnx import TensorProto, helper, numpy_helper

BLOCK = 32
MICROSOFT = "com.microsoft"


class Graph:
    def __init__(self, reader, accuracy):
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.accuracy = accuracy
        self.nodes, self.constants = [], []

    def constant(self, name, values):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, op, inputs, outputs, domain=MICROSOFT, **attributes):
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def blocks(self, name):
        """Nibbles [rows, blocks, 16] in MatMulNBits' order, two neighbours a byte, and f32 scales."""
        tensor = self.tensors[name]
        if tensor.tensor_type.name != "Q4_0":
            raise SystemExit(f"{name} is {tensor.tensor_type.name}, not Q4_0: "
                             "deltamem synth --type q4_0 --tensor-type token_embd=q4_0")
        columns, rows = (int(n) for n in tensor.shape)
        bytes_ = np.asarray(tensor.data).reshape(rows, columns // BLOCK, 18)
        scales = bytes_[..., :2].copy().view(np.float16)[..., 0].astype(np.float32)
        # a byte of Q4_0 has elements j and j + 16
        packed = bytes_[..., 2:]
        values = np.concatenate([packed & 15, packed >> 4], axis=-1)
        return values[..., 0::2] | values[..., 1::2] << 4, scales

    def product(self, x, name, out, parts, heads=None):
        """x·Wᵀ for matrices stacked on top of each other."""
        found = [self.blocks(part) for part in parts]
        if heads:
            found = [halves(pair, heads[i]) if heads[i] else pair for i, pair in enumerate(found)]
        nibbles = np.concatenate([nibbles for nibbles, _ in found])
        scales = np.concatenate([scales for _, scales in found])
        rows, n_blocks = scales.shape
        inputs = [x, self.constant(f"{name}.q4", nibbles), self.constant(f"{name}.scales", scales.reshape(-1))]
        return self.node("MatMulNBits", inputs, [out], K=n_blocks * BLOCK, N=rows, bits=4, block_size=BLOCK,
                         accuracy_level=self.accuracy)

    def norm(self, name):
        return self.constant(name, np.asarray(self.tensors[name].data, dtype=np.float32))


def halves(pair, n_heads):
    """Rows of q or k that rotate as neighbours (llama.cpp), as ones that rotate as halves."""
    def move(rows):
        by_head = rows.reshape(n_heads, -1, 2, *rows.shape[1:])
        return by_head.swapaxes(1, 2).reshape(rows.shape)
    return tuple(move(part) for part in pair)


def number(reader, key):
    field = reader.fields[key]
    return field.contents()


def build(path, accuracy):
    reader = GGUFReader(path)
    if number(reader, "general.architecture") != "smollm3":
        raise SystemExit(f"{path}: only SmolLM3's architecture is written")
    get = lambda key: number(reader, f"smollm3.{key}")
    hidden, n_layers = get("embedding_length"), get("block_count")
    heads, kv_heads = get("attention.head_count"), get("attention.head_count_kv")
    d, epsilon, theta = hidden // heads, get("attention.layer_norm_rms_epsilon"), get("rope.freq_base")
    graph = Graph(reader, accuracy)

    positions = 4096
    angles = np.outer(np.arange(positions), theta ** (-np.arange(0, d, 2, dtype=np.float64) / d))
    cos = graph.constant("cos_cache", np.cos(angles).astype(np.float32))
    sin = graph.constant("sin_cache", np.sin(angles).astype(np.float32))

    nibbles, scales = graph.blocks("token_embd.weight")
    vocab_size = scales.shape[0]
    table = [graph.constant("embed.q4", nibbles.reshape(vocab_size, -1)), "input_ids",
             graph.constant("embed.scales", scales)]
    graph.node("GatherBlockQuantized", table, ["embed"], bits=4, block_size=BLOCK, gather_axis=0, quantize_axis=1)

    feeds = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "n"]),
             helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, [1]),
             helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, [1])]
    fetches = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, vocab_size])]
    x, normed = "embed", graph.node("SimplifiedLayerNormalization",
                                    ["embed", graph.norm("blk.0.attn_norm.weight")], ["blk.0.in"], domain="",
                                    axis=-1, epsilon=epsilon, stash_type=1)
    for layer in range(n_layers):
        at = f"blk.{layer}"
        qkv = graph.product(normed, f"{at}.qkv", f"{at}.qkv.out",
                            [f"{at}.attn_{part}.weight" for part in "qkv"], heads=[heads, kv_heads, None])
        cache = [f"past.{layer}.key", f"past.{layer}.value"]
        present = [f"present.{layer}.key", f"present.{layer}.value"]
        for past, now in zip(cache, present):
            feeds.append(helper.make_tensor_value_info(past, TensorProto.FLOAT, [1, kv_heads, "past", d]))
            fetches.append(helper.make_tensor_value_info(now, TensorProto.FLOAT, [1, kv_heads, "all", d]))
        # every fourth layer has no positions
        rotates = (layer + 1) % 4 != 0
        tables = [cos, sin] if rotates else []
        attention = graph.node("GroupQueryAttention",
                               [qkv, "", "", *cache, "seqlens_k", "total_sequence_length", *tables],
                               [f"{at}.attention", *present], num_heads=heads, kv_num_heads=kv_heads,
                               do_rotary=int(rotates), rotary_interleaved=0)
        out = graph.product(attention, f"{at}.o", f"{at}.o.out", [f"{at}.attn_output.weight"])
        normed = graph.node("SkipSimplifiedLayerNormalization",
                            [x, out, graph.norm(f"{at}.ffn_norm.weight")],
                            [f"{at}.ffn.in", "", "", f"{at}.middle"], epsilon=epsilon)
        gate = graph.product(normed, f"{at}.gate", f"{at}.gate.out", [f"{at}.ffn_gate.weight"])
        up = graph.product(normed, f"{at}.up", f"{at}.up.out", [f"{at}.ffn_up.weight"])
        graph.node("Sigmoid", [gate], [f"{at}.sigmoid"], domain="")
        graph.node("Mul", [gate, f"{at}.sigmoid"], [f"{at}.silu"], domain="")
        graph.node("Mul", [f"{at}.silu", up], [f"{at}.act"], domain="")
        down = graph.product(f"{at}.act", f"{at}.down", f"{at}.down.out", [f"{at}.ffn_down.weight"])
        is_last = layer + 1 == n_layers
        weight = "output_norm.weight" if is_last else f"blk.{layer + 1}.attn_norm.weight"
        x, normed = f"{at}.x", graph.node("SkipSimplifiedLayerNormalization",
                                          [f"{at}.middle", down, graph.norm(weight)],
                                          [f"{at}.normed", "", "", *([] if is_last else [f"{at}.x"])],
                                          epsilon=epsilon)
    ends = [graph.constant(name, np.array([value], dtype=np.int64))
            for name, value in [("last", -1), ("end", np.iinfo(np.int64).max), ("axis", 1)]]
    last = graph.node("Slice", [normed, *ends], ["last.hidden"], domain="")
    head = "output.weight" if "output.weight" in graph.tensors else "token_embd.weight"
    graph.product(last, "head", "logits", [head])

    whole = helper.make_graph(graph.nodes, "deltamem-peer", feeds, fetches, graph.constants)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(whole, ir_version=10, opset_imports=versions), n_layers


def main():
    parser = argparse.ArgumentParser(description="A GGUF file of Q4_0 as ONNX")
    parser.add_argument("gguf")
    parser.add_argument("onnx")
    parser.add_argument("--accuracy", type=int, default=4, help="MatMulNBits' accuracy_level")
    options = parser.parse_args()
    model, n_layers = build(options.gguf, options.accuracy)
    onnx.save_model(model, options.onnx)
    print(json.dumps({"layers": n_layers}))


if __name__ == "__main__":
    main()
