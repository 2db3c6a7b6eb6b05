#!/usr/bin/env python3
"""Makes smollm3.gguf and qwen3.gguf, very small models of random weights, and what llama.cpp computes
with them. Owns those two, the *-tokenizer.json that they were converted from and expected.json.

The weights are those of `RecipeSource::backbone`, so that the tests know them without a file. The
conversion is llama.cpp's own; then each tensor gets the type in TYPES from ggml's own quantiser.

    git clone https://github.com/ggml-org/llama.cpp
    pip install gguf llama-cpp-python tokenizers transformers torch sentencepiece safetensors
    python tests/gguf/make.py llama.cpp
"""
import ctypes
import json
import pathlib
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SEED = 91
VOCAB_SIZE = 402
N_UNUSED = 2
# In SmolLM3's order; ids follow the byte-pair vocabulary. True = special.
ADDED = {"<|begin_of_text|>": True, "<|end_of_text|>": True, "<think>": False, "</think>": False,
         "<|im_start|>": True, "<|im_end|>": True}
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
TEXT = """The keeper of the lighthouse wrote down what he saw in the evening, and that it was raining.
I'm sure they've said it's theirs; we'll see, you'd better not, DON'T. 2026 11 20, 3.14159, 1234567.
for (int i = 0; i < n; i++) { x[i] += y[i]; } // don't\n\n\treturn x;\r\n
Der Wärter schrieb am Abend auf, dass es regnete: größer, über, Straße. Le café déjà vu, où ça?
"""
CORPUS = [
    "Hello world", " leading", "trailing  ", "a  b   c\t\td", "\n\n\r\n \n x\n", "", " ", "\u00a0\u2003x",
    "don't DON'T I'M we'Ve 'tis ''s 'S'", "1 12 123 1234 12345 123456789 3.14 1,000,000", "x1y22z333w4444",
    "٣٤٥ ²³ ½ Ⅷ 一二三 １２３４", "größer Straße café où naïve", "cafe\u0301 A\u030angstro\u0308m \u1e9b\u0323",
    "漢字とかな 한국어 ไทย עברית العربية हिन्दी", "🦊👩‍👩‍👧🏳️‍🌈 é🦊é", "\ud55c\u1112\u1161\u11ab",
    "<|im_start|>user\nHi<|im_end|>\n<think>\n\n</think>\n\nyes<|im_end|>", "<|im_start|", "<|im_end|><|im_end|> <think>x",
    "for(i=0;i<10;i++){a[i]+=b;}//...\r\n\t\tif (!x) return;", "...!!!???---===", "a\u0000b\u0007\u001b[0m", "_under_score__ CamelCase",
    "the the\nThe  the\n\n  the", "\ufeffBOM \u200bzero\u200d", "ﬁ ﬂ Å K ℌ", "[PAD400] <unk> </s>",
]
CONFIG = {
    "attention_bias": False, "bos_token_id": None, "hidden_act": "silu", "hidden_size": 32,
    "intermediate_size": 256, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_scaling": None,
    "use_sliding_window": False, "vocab_size": VOCAB_SIZE, "torch_dtype": "float32",
    "num_attention_heads": 4, "num_key_value_heads": 2,
}
MODELS = {
    "smollm3": {
        "pre": "smaug-bpe", "digits": r"\p{N}{1,3}", "ignore_merges": True, "normalizer": None,
        "config": {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "head_dim": 16,
                   "num_hidden_layers": 4, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0],
                   "rope_theta": 5000000.0, "tie_word_embeddings": True, "mlp_bias": False},
    },
    "qwen3": {
        "pre": "qwen2", "digits": r"\p{N}", "ignore_merges": False, "normalizer": "NFC",
        "config": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 32,
                   "num_hidden_layers": 2, "rope_theta": 1000000.0, "tie_word_embeddings": False},
    },
}
# Type by tensor; everything else (norms) stays F32.
LAYERS = [
    {"attn_q": "F32", "attn_k": "F32", "attn_v": "F16", "attn_output": "BF16",
     "ffn_gate": "Q4_0", "ffn_up": "Q4_1", "ffn_down": "Q4_K"},
    {"attn_q": "Q4_0", "attn_k": "Q8_0", "attn_v": "Q5_0", "attn_output": "Q5_1",
     "ffn_gate": "Q5_0", "ffn_up": "Q5_1", "ffn_down": "Q5_K"},
    {"attn_q": "F16", "attn_k": "BF16", "attn_v": "Q4_1", "attn_output": "Q8_0",
     "ffn_gate": "Q8_0", "ffn_up": "Q4_0", "ffn_down": "Q6_K"},
    {"attn_q": "Q5_1", "attn_k": "Q5_0", "attn_v": "Q8_0", "attn_output": "Q4_0",
     "ffn_gate": "Q4_1", "ffn_up": "Q5_0", "ffn_down": "Q4_K"},
]
TYPES = {f"blk.{i}.{part}.weight": ty for i, layer in enumerate(LAYERS) for part, ty in layer.items()}
TYPES |= {"token_embd.weight": "Q8_0", "output.weight": "Q5_1"}

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def recipe(name, shape):
    """As src/weights/recipe.rs says."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        key = mix(np.uint64(h) + np.uint64(SEED) * GOLDEN)
        r = mix(key + np.arange(1, np.prod(shape) + 1, dtype=np.uint64) * GOLDEN)
    u = (r >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    part = name.split(".")[-2]
    if part.endswith("norm"):
        return (np.float32(1) + u * np.float32(0.25)).reshape(shape)
    gain = {"embed_tokens": 2.8, "lm_head": 2.8, "q_proj": 1.2, "k_proj": 1.2, "down_proj": 1.5}.get(part, 1.0)
    return (u * np.float32(gain * (3.0 / shape[1]) ** 0.5)).reshape(shape)


def shapes(config):
    c = config
    h, i, d = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    yield "model.embed_tokens.weight", (VOCAB_SIZE, h)
    for layer in range(c["num_hidden_layers"]):
        parts = {"input_layernorm": (h,), "self_attn.q_proj": (q, h), "self_attn.k_proj": (kv, h),
                 "self_attn.v_proj": (kv, h), "self_attn.o_proj": (h, q), "post_attention_layernorm": (h,),
                 "mlp.gate_proj": (i, h), "mlp.up_proj": (i, h), "mlp.down_proj": (h, i)}
        if c["model_type"] == "qwen3":
            parts |= {"self_attn.q_norm": (d,), "self_attn.k_norm": (d,)}
        for part, shape in parts.items():
            yield f"model.layers.{layer}.{part}.weight", shape
    yield "model.norm.weight", (h,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (VOCAB_SIZE, h)


def make_tokenizer(model):
    from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                            processors, trainers)
    tokenizer = Tokenizer(models.BPE(ignore_merges=model["ignore_merges"]))
    if model["normalizer"]:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(HEAD + model["digits"] + TAIL), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - N_UNUSED - len(ADDED), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[]))
    for token, special in ADDED.items():
        add = tokenizer.add_special_tokens if special else tokenizer.add_tokens
        add([AddedToken(token, normalized=False, special=special)])
    assert tokenizer.get_vocab_size() == VOCAB_SIZE - N_UNUSED
    return tokenizer


def hugging_face_folder(folder, model, tokenizer):
    import torch
    from safetensors.torch import save_file
    write = lambda name, value: (folder / name).write_text(json.dumps(value))
    end = tokenizer.token_to_id("<|im_end|>")
    config = CONFIG | model["config"] | {"eos_token_id": end}
    config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    write("config.json", config)
    write("generation_config.json", {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20,
                                     "eos_token_id": end})
    write("tokenizer_config.json", {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|end_of_text|>",
                                    "clean_up_tokenization_spaces": False,
                                    "tokenizer_class": "PreTrainedTokenizerFast"})
    tokenizer.save(str(folder / "tokenizer.json"))
    template = HERE.parent / "noise" / "chat_template.jinja"
    (folder / "chat_template.jinja").write_text(template.read_text())
    weights = {name: torch.from_numpy(recipe(name, shape)) for name, shape in shapes(config)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return config


def convert(llama_cpp, folder, out, pre):
    """llama.cpp's converter. It knows pre-tokenizers by the hash of ids that a vocabulary gives, so for
    this one it has to be told."""
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    import gguf
    from conversion import ModelBase, get_model_class
    config = ModelBase.load_hparams(folder, False)
    cls = get_model_class(config["architectures"][0])
    cls.get_vocab_base_pre = lambda self, tokenizer: pre
    cls(folder, gguf.LlamaFileType.ALL_F32, out, model_name=f"tiny {config['model_type']}").write()


def rewrite(source, out, change):
    """The same file with what `change` makes of each tensor: bytes and type, or f32 values and None."""
    import gguf
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        data, ty = change(tensor)
        writer.add_tensor(tensor.name, np.ascontiguousarray(data), raw_dtype=ty)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantized(tensor):
    """A tensor in its type of TYPES, by ggml."""
    import gguf
    import llama_cpp
    library = pathlib.Path(llama_cpp.__file__).parent / "lib"
    ggml = ctypes.CDLL(str(next(library.glob("libggml-base*.so"))))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    pointer = ctypes.c_void_p
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, *[ctypes.c_int64] * 3, pointer]
    values = np.ascontiguousarray(tensor.data, dtype=np.float32)
    ty = gguf.GGMLQuantizationType[TYPES.get(tensor.name, "F32")]
    if ty == gguf.GGMLQuantizationType.F32:
        return values, None
    rows, columns = values.shape
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[ty]
    data = np.zeros((rows, columns // block_len * block_bytes), dtype=np.uint8)
    size = ggml.ggml_quantize_chunk(ty, values.ctypes.data, data.ctypes.data, 0, rows, columns, None)
    assert size == data.nbytes, tensor.name
    return data, ty


def widened(tensor):
    """A tensor in f32, by llama.cpp's package."""
    from gguf.quants import dequantize
    return dequantize(tensor.data, tensor.tensor_type).astype(np.float32), None


def logits(path, tokens):
    """llama.cpp's logits after each token, [tokens, vocabulary]; everything but its arithmetic in f32."""
    import llama_cpp
    llm = llama_cpp.Llama(str(path), n_ctx=128, n_batch=128, n_gpu_layers=0, logits_all=True, verbose=False,
                          type_k=0, type_v=0, flash_attn=False, n_threads=1)
    llm.eval(tokens)
    return np.array(llm.scores[: len(tokens)], dtype=np.float32)


def main():
    llama_cpp = pathlib.Path(sys.argv[1]).resolve()
    expected = {"seed": SEED, "corpus": CORPUS, "models": {}}
    for name, model in MODELS.items():
        tokenizer = make_tokenizer(model)
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary) / name
            folder.mkdir()
            config = hugging_face_folder(folder, model, tokenizer)
            convert(llama_cpp, folder, folder / "f32.gguf", model["pre"])
            rewrite(folder / "f32.gguf", HERE / f"{name}.gguf", quantized)
            rewrite(HERE / f"{name}.gguf", folder / "widened.gguf", widened)
            (HERE / f"{name}-tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
            tokens = np.random.default_rng(SEED).integers(0, VOCAB_SIZE - N_UNUSED, 40).tolist()
            exact = logits(folder / "widened.gguf", tokens)
        rounded = logits(HERE / f"{name}.gguf", tokens)
        best_two = np.sort(rounded, 1)[:, -2:]
        rows = lambda values: [[round(float(x), 5) for x in row] for row in values]
        expected["models"][name] = {
            "config": config, "tokens": tokens,
            # of every eighth token, the last included: the file's values in f32, so that all is f32
            "exact": {"argmax": exact.argmax(1).tolist(), "logits": rows(exact[7::8])},
            # the file itself, where activations are rounded to 8 bits before they meet blocks
            "rounded": {"argmax": rounded.argmax(1).tolist(), "logits": rows(rounded[7::16]),
                        "margin": rows([best_two[:, 1] - best_two[:, 0]])[0]},
            "ids": [tokenizer.encode(text, add_special_tokens=False).ids for text in CORPUS],
        }
    (HERE / "expected.json").write_text(json.dumps(expected, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
