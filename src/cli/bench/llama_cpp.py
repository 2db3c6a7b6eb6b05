"""llama.cpp as `deltamem bench --against llama-cpp` asks it: a line of JSON on standard input is a
question, a line on standard output its answer.

    python llama_cpp.py FILE.gguf CONTEXT THREADS

First {"about": {name, version, engine}}, or {"missing": why} without llama-cpp-python. Then
{"prefill": n} and {"decode": n, "context": m} are answered with {"time": {seconds, cpu_seconds}},
anything that fails with {"error": why}. Only llama.cpp's own calls are timed: a batch and the greedy choice of a token.
"""

import json
import os
import sys
import time

# standard output is for answers alone, whatever llama.cpp prints
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def say(answer):
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


try:
    import llama_cpp as api
except (ImportError, OSError, RuntimeError) as error:
    say({"missing": str(error)})
    sys.exit()

silent = api.llama_log_callback(lambda level, text, data: None)
api.llama_log_set(silent, None)


def stopwatch():
    wall, cpu = time.perf_counter(), time.process_time()
    return lambda: {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


class Engine:
    def __init__(self, path, context, threads):
        api.llama_backend_init()
        options = api.llama_model_default_params()
        options.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(path.encode(), options)
        if not self.model:
            raise ValueError(f"llama.cpp cannot load {path}")
        options = api.llama_context_default_params()
        options.n_ctx = context
        options.n_threads = options.n_threads_batch = threads
        self.context = api.llama_init_from_model(self.model, options)
        if not self.context:
            raise ValueError(f"no room for a context of {context} tokens")
        self.n_batch = api.llama_n_batch(self.context)
        self.vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.greedy = api.llama_sampler_init_greedy()
        self.memory = api.llama_get_memory(self.context)
        # tokens of the usual prompt at the front of the cache
        self.n_read = 0

    def feed(self, tokens):
        """Takes tokens in and gives the one that follows."""
        for start in range(0, len(tokens), self.n_batch):
            piece = tokens[start:start + self.n_batch]
            # the batch has only their address
            ids = (api.llama_token * len(piece))(*piece)
            batch = api.llama_batch_get_one(ids, len(piece))
            if api.llama_decode(self.context, batch) != 0:
                raise ValueError(f"llama_decode failed on {len(piece)} tokens")
        return api.llama_sampler_sample(self.greedy, self.context, -1)

    def read(self, n):
        """Has the first n tokens of the usual prompt in the cache, and nothing behind them."""
        kept = min(self.n_read, n)
        api.llama_memory_seq_rm(self.memory, 0, kept, -1)
        if kept < n:
            self.feed([(i * 2654435761 + 12345) % self.vocab_size for i in range(kept, n)])
        self.n_read = n

    def prefill(self, n):
        self.read(0)
        took = stopwatch()
        self.read(n)
        return took()

    def decode(self, n, context):
        self.read(context)
        token = 1
        took = stopwatch()
        for _ in range(n):
            token = self.feed([token])
        return took()


def main(path, context, threads):
    try:
        engine = Engine(path, int(context), int(threads))
    except ValueError as error:
        say({"error": str(error)})
        return
    system = api.llama_print_system_info().decode()
    used = [part.split("=")[0].strip() for part in system.split("|") if part.strip().endswith("= 1")]
    say({"about": {"name": "llama.cpp", "version": f"llama-cpp-python {api.__version__}",
                   "engine": f"CPU, {threads} threads; {', '.join(used)}"}})
    for line in sys.stdin:
        try:
            question = json.loads(line)
            if "prefill" in question:
                took = engine.prefill(question["prefill"])
            else:
                took = engine.decode(question["decode"], question["context"])
            say({"time": took})
        except (ValueError, KeyError) as error:
            say({"error": str(error)})


main(*sys.argv[1:])
