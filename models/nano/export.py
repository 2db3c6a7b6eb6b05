#!/usr/bin/env python3
"""Writes trained weights as the files that the program loads: backbone in bf16, adapter in bf16 or f32.

    export.py --backbone B/backbone.pt --adapter A/adapter.pt --out FOLDER
"""

import argparse
import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import prompt


def as_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def export_backbone(path, out):
    backbone = torch.load(path)
    c, tokenizer_path = backbone["config"], path.with_name("tokenizer.json")
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|end_of_text|>")
    n_layers, interval = c["num_hidden_layers"], c["no_rope_layer_interval"]
    as_json(out / "config.json", {
        "architectures": ["SmolLM3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": None,
        "eos_token_id": end, "hidden_act": "silu", "initializer_range": 0.02, "layer_types": ["full_attention"] * n_layers,
        "max_position_embeddings": 2048, "mlp_bias": False, "model_type": "smollm3",
        "no_rope_layers": [int((i + 1) % interval != 0) for i in range(n_layers)], "pad_token_id": pad, "rope_scaling": None,
        "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
        "use_sliding_window": False, **c,
    })
    as_json(out / "generation_config.json", {"do_sample": False, "max_new_tokens": 64, "eos_token_id": [end], "pad_token_id": pad})
    as_json(out / "tokenizer_config.json", {
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|end_of_text|>", "clean_up_tokenization_spaces": False,
        "model_max_length": 2048, "tokenizer_class": "PreTrainedTokenizerFast",
    })
    shutil.copyfile(tokenizer_path, out / "tokenizer.json")
    for source in (prompt.FOLDER / "chat_template.jinja",):
        if source.resolve().parent != out.resolve():
            shutil.copyfile(source, out / source.name)
    weights = {f"model.{k}": v.bfloat16().contiguous() for k, v in backbone["weights"].items()}
    save_file(weights, str(out / "model.safetensors"), metadata={"format": "pt"})


def export_adapter(path, out):
    adapter = torch.load(path)
    as_json(out / "delta_mem_config.json", adapter["config"])
    # layers.N.memory_q_proj -> model.layers.N.self_attn.memory_q_proj; rounded to bf16.
    named = {}
    for k, v in adapter["weights"].items():
        _, layer, name = k.split(".")
        named[f"model.layers.{layer}.self_attn.{name}"] = v.bfloat16().contiguous()
    save_file(named, str(out / "delta_mem_adapter.safetensors"), metadata={"format": "pt"})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", type=pathlib.Path, required=True)
    parser.add_argument("--adapter", type=pathlib.Path)
    parser.add_argument("--adapter-only", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    o = parser.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    if not o.adapter_only:
        export_backbone(o.backbone, o.out)
    if o.adapter:
        export_adapter(o.adapter, o.out)
    for path in sorted(o.out.iterdir()):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
