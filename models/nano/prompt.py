"""Tokenizer and prompt of nano. Owns tokenizer.json's recipe and the token ids of a rendered chat.

`pieces` gives what chat_template.jinja renders with thinking off; `check_template` proves it.
"""

import collections
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import dialogues
import facts

FOLDER = pathlib.Path(__file__).resolve().parent
VOCAB_SIZE = 6144
MERGED_SIZE = 1200
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
PERSONA = "You are Nano, a very small assistant with a memory. Answer in one short sentence."
MONTHS = facts.MONTHS


def header(date):
    return (
        "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: none\n"
        f"Today Date: {date}\nReasoning Mode: /no_think\n\n## Custom Instructions\n\n{PERSONA}\n\n<|im_end|>\n"
    )


def user(text):
    """A user message and the generation prompt."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n"


def draw_date(rng):
    return f"{rng.randint(1, 28):02} {rng.choice(MONTHS)} {rng.randint(2024, 2034)}"


def byte_symbols(text):
    """How the byte-level vocabulary spells `text`."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]


def value_words():
    """The words of all values inside a sentence, as written and in lower case."""
    words = [w for w in dict.fromkeys(w for key in facts.KINDS for value in dialogues.VALUES[key]["all"] for w in value.split()) if w.isalpha()]
    return dict.fromkeys([f" {w}" for w in words] + [f" {w.lower()}" for w in words])


def make_tokenizer(seed=20261120, count=20000):
    """Byte-level BPE on the generator's text; what room is left holds whole words, which no merges make: of values, then the most frequent."""

    def texts():
        rng = random.Random(seed)
        for _ in range(count):
            if rng.random() < 0.1:
                yield header(draw_date(rng))
            for message in dialogues.messages(dialogues.conversation(rng, made_up_rate=0.05, wordings=dialogues.MORE)):
                yield message["content"]

    split = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    tokenizer.train_from_iterator(
        texts(),
        trainers.BpeTrainer(vocab_size=MERGED_SIZE, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    bpe = json.loads(tokenizer.to_str())["model"]
    vocab = bpe["vocab"]
    room = VOCAB_SIZE - len(ADDED_TOKENS)
    count = collections.Counter(piece for text in texts() for piece, _ in split.pre_tokenize_str(text) if piece.removeprefix("Ġ").isalpha())
    for symbols in (*map(byte_symbols, value_words()), *(piece for piece, _ in count.most_common())):
        if len(vocab) < room:
            vocab.setdefault(symbols, len(vocab))
    assert len(vocab) == room, f"{len(vocab)} tokens leave room: raise MERGED_SIZE"
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(m) for m in bpe["merges"]], ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    for content, special in ADDED_TOKENS.items():
        token = AddedToken(content, special=special, normalized=False)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    return tokenizer


class Chat:
    """Token ids of a rendered chat, piece by piece; pieces meet at special tokens or line ends."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.end = tokenizer.token_to_id("<|im_end|>")
        self.newline = tokenizer.encode("\n").ids
        self.known = {}

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def header(self, date):
        if date not in self.known:
            self.known[date] = self.ids(header(date))
        return self.known[date]

    def turn(self, user_text, reply):
        """(ids, is_reply) of one turn; the reply includes <|im_end|> but not the newline after it."""
        asked, said = self.ids(user(user_text)), self.ids(reply) + [self.end]
        return asked + said + self.newline, [0] * len(asked) + [1] * len(said) + [0] * len(self.newline)

    def dialogue(self, turns, date=None):
        ids = list(self.header(date)) if date else []
        marks = [0] * len(ids)
        for turn in turns:
            more, more_marks = self.turn(*turn)
            ids += more
            marks += more_marks
        return ids, marks


def check_template(chat, template_path):
    """Fails unless the pieces are what the Jinja template renders."""
    import jinja2

    turns = dialogues.conversation(random.Random(5))
    rendered = jinja2.Environment().from_string(template_path.read_text()).render(
        messages=dialogues.messages(turns), add_generation_prompt=False, strftime_now=lambda _: "20 November 2026")
    assert chat.ids(rendered) == chat.dialogue(turns, "20 November 2026")[0], "prompt.py differs from chat_template.jinja"
