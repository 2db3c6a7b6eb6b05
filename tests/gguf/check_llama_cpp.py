"""Checks what `deltamem convert` and `deltamem synth` write against the projects it is written for.

    python tests/gguf/check_llama_cpp.py target/debug/deltamem

Needs torch, transformers, tokenizers, gguf and, for the last part, llama-cpp-python; none of them is
needed to use or test deltamem. Small models of random weights (and the built-in one) are made with
transformers, converted to every type, and then

1. read with the `gguf` package: names, shapes, types; what it dequantises differs from the original
   weights exactly as much as `convert --json` says;
2. loaded by llama.cpp: the logits of the f32 file are those of transformers, those of the smaller
   types are near, and text becomes the same tokens;
3. converted once more with interruptions: the same bytes;
4. made up by `synth` and loaded.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, Qwen3Config, SmolLM3Config

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "models" / "nano"
TYPES = ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k", "q4_k", "q5_1", "q5_0", "q4_1", "q4_0"]
TEXTS = ["Hello there, it's 12345 o'clock!", "<|im_start|>user\nMy dog is called Rex.<|im_end|>\n",
         "  two  spaces\n\n\tand a tab", "naïve café — 東京 🙂"]
PARTS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
         "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}


def make_folder(folder, kind):
    """A Hugging Face folder with random weights and the built-in model's tokenizer."""
    sizes = dict(hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=64, vocab_size=6144, max_position_embeddings=2048,
                 bos_token_id=None, eos_token_id=6143, pad_token_id=6139, initializer_range=0.06)
    torch.manual_seed(5)
    if kind == "qwen3":
        config = Qwen3Config(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 5e6},
                             tie_word_embeddings=False)
    else:
        config = SmolLM3Config(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 5e6},
                               tie_word_embeddings=True, no_rope_layer_interval=4)
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.75, 1.25)
    model.save_pretrained(folder)
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]:
        shutil.copy(NANO / name, folder)


def convert(program, folder, out, ty):
    command = [program, "convert", folder, out, "--type", ty, "--json", "--force"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return json.loads(done.stdout)


def original(state, name, n_heads, d):
    """The weights that GGUF calls `name`, q and k of SmolLM3 in llama.cpp's order (n_heads > 0)."""
    if name.startswith("blk."):
        _, layer, part, _ = name.split(".")
        theirs = f"model.layers.{layer}.{PARTS[part]}.weight"
    else:
        theirs = {"token_embd.weight": "model.embed_tokens.weight",
                  "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}[name]
    weights = state[theirs].float().numpy()
    if n_heads and (".attn_q." in name or ".attn_k." in name):
        rows = weights.reshape(-1, 2, d // 2, weights.shape[-1])
        weights = rows.swapaxes(1, 2).reshape(weights.shape)
    return weights


def check_package(path, report, state, config):
    reader = GGUFReader(path)
    told = {tensor["name"]: tensor for tensor in report["tensors"]}
    assert {t.name for t in reader.tensors} == set(told)
    is_moved = config["model_type"] == "smollm3"
    d = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    worst = 0.0
    for tensor in reader.tensors:
        ours = told[tensor.name]
        assert tensor.tensor_type.name == ours["type"], tensor.name
        assert list(reversed(tensor.shape.tolist())) == ours["shape"], tensor.name
        found = dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        expected = original(state, tensor.name, config["num_attention_heads"] * is_moved, d)
        assert found.shape == expected.shape, (tensor.name, found.shape, expected.shape)
        error = np.sqrt(((found - expected) ** 2).sum() / (expected.astype(np.float64) ** 2).sum())
        assert abs(error - ours["relative_rms_error"]) < 1e-6, (tensor.name, error, ours)
        worst = max(worst, error)
    return worst


def kl(logits, reference):
    a, b = torch.log_softmax(torch.tensor(reference), -1), torch.log_softmax(torch.tensor(logits), -1)
    return float((a.exp() * (a - b)).sum(-1).mean())


def llama_logits(path, ids):
    from llama_cpp import Llama
    model = Llama(str(path), n_ctx=256, logits_all=True, verbose=False, n_threads=2)
    model.eval(ids)
    logits = np.array(model.scores[:len(ids)], dtype=np.float64)
    tokens = [model.tokenize(text.encode(), add_bos=False, special=True) for text in TEXTS]
    return logits, tokens


def check_llama(path, ids, reference, ty, tokenizer, vocab_size):
    logits, tokens = llama_logits(path, ids)
    logits = logits[:, :vocab_size]
    same = float((logits.argmax(-1) == reference.argmax(-1)).mean())
    distance, divergence = np.abs(logits - reference).max(), kl(logits, reference)
    print(f"    llama.cpp {ty}: same argmax {same:.0%}, KL {divergence:.2e}, "
          f"largest difference {distance:.2e}")
    if ty == "f32":
        assert distance < 2e-2 and same == 1.0, "f32 is not what transformers computes"
    assert divergence < 0.5
    assert tokens == [tokenizer.encode(t, add_special_tokens=False).ids for t in TEXTS], ty


def check_interruptions(program, folder, out, expected):
    """Kills a conversion again and again; what remains in the end must be the same file."""
    command = [program, "convert", folder, out, "--type", "q4_k"]
    kills = 0
    for delay in [0.02, 0.05, 0.08, 0.12, 0.2]:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        if out.exists():
            break
    if not out.exists():
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert out.read_bytes() == expected.read_bytes()
    print(f"    the same bytes after {kills} interruptions")


def main():
    program = str(Path(sys.argv[1]).resolve())
    try:
        import llama_cpp
        print("llama-cpp-python", llama_cpp.__version__)
        has_llama = True
    except ImportError:
        print("llama-cpp-python is not installed: files are read by the gguf package only")
        has_llama = False
    tokenizer = Tokenizer.from_file(str(NANO / "tokenizer.json"))
    with tempfile.TemporaryDirectory() as temporary:
        temporary = Path(temporary)
        for kind in ["nano", "smollm3", "qwen3"]:
            folder = NANO if kind == "nano" else temporary / kind
            if kind != "nano":
                make_folder(folder, kind)
            print(kind)
            config = json.loads((folder / "config.json").read_text())
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            ids = tokenizer.encode(" ".join(TEXTS[:2]), add_special_tokens=False).ids
            with torch.no_grad():
                reference = model(torch.tensor([ids])).logits[0].double().numpy()
            for ty in TYPES:
                path = temporary / f"{kind}-{ty}.gguf"
                report = convert(program, folder, path, ty)
                worst = check_package(path, report, model.state_dict(), config)
                print(f"  {ty}: {path.stat().st_size} bytes, worst tensor {worst:.3%}")
                if has_llama:
                    check_llama(path, ids, reference, ty, tokenizer, reference.shape[1])
            if kind == "qwen3":
                out = temporary / "interrupted.gguf"
                check_interruptions(program, folder, out, temporary / "qwen3-q4_k.gguf")
        for kind in ["smollm3", "qwen3"]:
            config = temporary / kind / "config.json"
            for ty in TYPES:
                path = temporary / f"synth-{kind}-{ty}.gguf"
                subprocess.run([program, "synth", "--config", config, "--type", ty, path],
                               check=True, stdout=subprocess.DEVNULL)
                reader = GGUFReader(path)
                for tensor in reader.tensors:
                    assert np.isfinite(dequantize(tensor.data, tensor.tensor_type)).all()
                if has_llama:
                    from llama_cpp import Llama
                    made_up = Llama(str(path), n_ctx=64, logits_all=True, verbose=False)
                    made_up.eval([1, 2, 300, 301])
                    assert np.isfinite(made_up.scores[:4]).all()
                    assert made_up.detokenize([300, 301])
        print("synth: all types are read" + (" and run" if has_llama else ""))


main()
