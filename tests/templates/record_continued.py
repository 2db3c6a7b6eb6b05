"""Records what transformers makes of conversations that end within their last message, with our own
templates of the structure of SmolLM3's and Qwen3's. Owns the cases and continued.json.

    VENV/bin/python tests/templates/record_continued.py

README.md says how VENV is made. The official templates give the same as ours in every case of record.py.
"""

import datetime
import json
import pathlib

import transformers
from transformers.utils import chat_template_utils

FOLDER = pathlib.Path(__file__).resolve().parent
DATE = "2025-07-04"
TEMPLATES = {
    "smollm3": (FOLDER / "../../src/chat/smollm3_like.jinja", {}),
    "qwen3": (FOLDER / "qwen3_like.jinja", {"thinks": True}),
    "qwen3_instruct": (FOLDER / "qwen3_like.jinja", {"thinks": False}),
}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def cases():
    """(name, messages, whether thinking is on)."""
    question = message("user", "Where do I live?")
    for thinking in [None, True, False]:
        for begun in ["You live in", "You live in ", "\n\nYou", "", "  ", "```toml\n", "<think>\nHm"]:
            yield [question, message("assistant", begun)], thinking
        for flag in ["/think", "/no_think"]:
            system = message("system", f"Be kind. {flag}")
            yield [system, question, message("assistant", "You live in")], thinking
    talk = [message("user", "Hello."), message("assistant", "You live in Lisbon."), question]
    yield [*talk, message("assistant", "You live in")], False
    # the text stands in the conversation before
    yield [*talk, message("assistant", "You live in Lisbon.")], None
    yield [question, message("assistant", "In Łódź 🦊, <|im_end|>\nperhaps")], None
    yield [question, message("assistant", "<think>\nHm.\n</think>\n\nIn")], True
    yield [question, message("assistant", "In", reasoning="Hm.")], True
    yield [message("assistant", "I")], False


def rendered(name, messages, thinking):
    path, extra = TEMPLATES[name]
    messages = [
        {("reasoning_content" if key == "reasoning" else key): value for key, value in message.items()}
        for message in messages
    ]
    variables = {**extra, **({} if thinking is None else {"enable_thinking": thinking})}
    try:
        texts, _ = chat_template_utils.render_jinja_template(
            conversations=[messages],
            chat_template=path.read_text(),
            continue_final_message=True,
            bos_token="<|begin_of_text|>",
            eos_token="<|im_end|>",
            **variables,
        )
    except ValueError:
        return None
    return texts[0]


class Today(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromisoformat(DATE)


def main():
    chat_template_utils.datetime = Today
    recorded = []
    for messages, thinking in cases():
        expected = {name: rendered(name, messages, thinking) for name in TEMPLATES}
        recorded.append({"messages": messages, "enableThinking": thinking, "expected": expected})
    value = {"transformers": transformers.__version__, "date": DATE, "cases": recorded}
    text = json.dumps(value, ensure_ascii=False, indent=1)
    (FOLDER / "continued.json").write_text(text + "\n")
    print(len(recorded), "cases,", text.count("null,") , "of nothing")


main()
