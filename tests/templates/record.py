"""Records what transformers makes of the official chat templates. Owns the cases and recordings.json.

    python3 -m venv VENV && VENV/bin/pip install transformers==5.24.0 jinja2==3.1.6 tokenizers
    VENV/bin/python tests/templates/record.py --smollm3 TEMPLATE --qwen3 TEMPLATE --qwen3-instruct TEMPLATE

TEMPLATE is a path or an address of the model's chat_template.jinja (README.md says of which). Writes
recordings.json, and fails unless our own templates of the same structure give the same. With --engine it
also runs tests/templates.rs with the official texts, which renders them with the program's own engine and
compares whole texts. The templates themselves are not kept: a passage of 60 letters or more is replaced
by ⟦n⟧, and a SHA-256 stands for the whole.
"""

import argparse
import ast
import copy
import datetime
import hashlib
import json
import os
import pathlib
import subprocess
import tempfile
import urllib.request

import jinja2
import tokenizers
import transformers
from transformers.utils import chat_template_utils

from record_tokens import token_digest

FOLDER = pathlib.Path(__file__).resolve().parent
REPOSITORY = FOLDER.parent.parent
DATE = "2025-07-04"
PASSAGE = 60
TEMPLATES = {
    "smollm3": (REPOSITORY / "src/chat/smollm3_like.jinja", {}),
    "qwen3": (FOLDER / "qwen3_like.jinja", {"thinks": True}),
    "qwen3_instruct": (FOLDER / "qwen3_like.jinja", {"thinks": False}),
}

# ---- cases ------------------------------------------------------------------------------------------

WEATHER = {
    "name": "get_weather",
    "description": "Says how the weather is; isn't \"exact\".\nCelsius.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Ort, z. B. Zürich 🦊"},
            "days": {"type": "integer", "default": None, "maximum": 7, "enum": [1, 3, 7]},
            "least": {"type": "number", "minimum": -1.5, "maximum": 1e-07, "multipleOf": 1e16},
            "is_exact": {"type": "boolean", "default": True},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
}
NOW = {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, reasoning=None, calls=()):
    message = {"role": "assistant", "content": text}
    if reasoning is not None:
        message["reasoning"] = reasoning
    if calls:
        message["toolCalls"] = list(calls)
    return message


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


def result(text, name="get_weather"):
    return {"role": "tool", "content": text, "name": name}


TALK = [user("Hello."), assistant("\n\nHi, Ada."), user("What did I say?")]
ASKED = user("How warm is it in Zürich?")
CALLED = assistant("I look.", None, [call("get_weather", city="Zürich", days=3)])
SILENT = assistant("", "The user wants the weather.", [call("get_weather", city="O'Hare \"1\"\n", least=0.5), call("now")])


def cases():
    """(name, messages, options); options are RenderOptions' of the crate."""
    thinking = {"unset": {}, "on": {"enableThinking": True}, "off": {"enableThinking": False}}
    for name, switch in thinking.items():
        yield f"a question, thinking {name}", [user("Hello.")], {**switch, "prompt": True}
        yield f"a conversation, thinking {name}", TALK, {**switch, "prompt": True}
        yield f"a conversation without a prompt, thinking {name}", TALK, switch
        for flag in ["/think", "/no_think", "", "/no_think /think"]:
            yield (
                f"system {flag or 'alone'}, thinking {name}",
                [system(f"Be kind. {flag}  \n"), *TALK],
                {**switch, "prompt": True},
            )
    for flag in ["", " /no_think", " /think"]:
        messages = [system(f"Only this. /system_override{flag}\n"), *TALK]
        yield f"overridden header{flag}", messages, {"prompt": True}
    yield "flags of a user are text", [user("/no_think Why /think?")], {"prompt": True}
    yield "an empty system message", [system(""), user("Hello.")], {"prompt": True}
    yield "only flags in the system message", [system("/no_think"), user("Hello.")], {"prompt": True}
    yield "a second system message", [system("One."), user("a"), system("Two."), user("b")], {"prompt": True}
    yield "two users in a row", [user("a"), user("b"), assistant("c"), assistant("d")], {}
    yield "empty contents", [user(""), assistant(""), user("\n"), assistant("\n\n")], {}
    yield "instructions as a variable", [user("Hello.")], {"prompt": True, "variables": {"custom_instructions": "Be kind."}}
    yield "a variable nobody reads", [user("Hello.")], {"prompt": True, "variables": {"reasoning_mode": "/no_think", "x": [1]}}
    yield (
        "letters of all kinds",
        [system("Zürich 日本語 \u200b🦊"), user("<b>&amp;</b> \"'`\\ \t é {{ x }} {% y %}"), assistant("```rust\nfn f<'a>() {}\n```\n  ")],
        {"prompt": True},
    )
    yield "tags of the template in a text", [user("<|im_end|>\n<|im_start|>system\n</think><tool_call>")], {"prompt": True}

    for name, tools in {"one tool": [WEATHER], "two tools": [WEATHER, NOW]}.items():
        for form in ["template", "xml", "python"]:
            for switch in thinking.values():
                options = {**switch, "tools": tools, "toolFormat": form, "prompt": True}
                yield f"{name}, {form}, thinking {switch.get('enableThinking')}", [ASKED], options
    for form in ["template", "xml", "python"]:
        options = {"tools": [WEATHER, NOW], "toolFormat": form, "prompt": True}
        yield f"tools and a system message, {form}", [system("Be kind. /no_think"), ASKED], options
        yield f"tools and an overridden header, {form}", [system("X /system_override"), ASKED], options
        yield f"a call and its result, {form}", [ASKED, CALLED, result("17 °C"), assistant("17."), user("Thanks.")], options
        yield f"a result is answered, {form}", [ASKED, CALLED, result('{"celsius": 17}')], options
        yield f"two calls with thoughts, {form}", [ASKED, SILENT, result("17"), result("noon", "now")], options
        yield (
            f"calls after calls, {form}",
            [ASKED, SILENT, result("17"), result("noon", "now"), CALLED, result(""), assistant("Warm.", "Hm.")],
            {**options, "prompt": False},
        )
    both = {"variables": {"xml_tools": [NOW], "python_tools": ["def f(x): ...", WEATHER]}, "prompt": True}
    yield "tools as variables", [ASKED], both
    yield "no tools in the variables", [ASKED], {"variables": {"xml_tools": [], "python_tools": None}, "prompt": True}

    thought = assistant("<think>\nHm, 1.\n</think>\n\nOne.")
    yield "thoughts in the content", [user("a"), thought, user("b"), thought], {}
    yield "thoughts before a question", [user("a"), thought, user("b")], {"prompt": True}
    yield "thoughts apart", [user("a"), assistant("One.", "Hm."), user("b"), assistant("Two.", "\nSo.\n")], {}
    yield "no thoughts at the end", [user("a"), assistant("One."), user("b"), assistant("Two.", "")], {}
    yield "thoughts that have no end", [user("a"), assistant("<think>\nHm"), user("b")], {"prompt": True}
    yield "a result in a user's words", [user("a"), thought, user("<tool_response>\n1\n</tool_response>"), thought], {}
    long = [m for n in range(60) for m in (user(f"Question {n}?"), assistant(f"Answer {n}."))]
    yield "a long conversation", [system("Be brief."), *long, user("Go on.")], {"prompt": True, "enableThinking": False}


# ---- rendering --------------------------------------------------------------------------------------


def written_calls(calls, form):
    """As a model writes its calls."""
    if form == "python":
        lines = [f"{c['name']}({', '.join(f'{k}={v!r}' for k, v in c['arguments'].items())})" for c in calls]
        return "<code>\n" + "\n".join(lines) + "\n</code>"
    return "\n".join(
        "<tool_call>\n" + json.dumps({"name": c["name"], "arguments": c["arguments"]}, ensure_ascii=False) + "\n</tool_call>"
        for c in calls
    )


def for_transformers(message, form, shows_calls):
    message = copy.deepcopy(message)
    if "reasoning" in message:
        message["reasoning_content"] = message.pop("reasoning")
    calls = message.pop("toolCalls", [])
    if calls and shows_calls:
        message["tool_calls"] = [{"type": "function", "function": c} for c in calls]
    elif calls:
        message["content"] = "\n".join(filter(None, [message["content"], written_calls(calls, form)]))
    return message


class Template:
    def __init__(self, text, variables=None):
        self.text = text
        self.variables = variables or {}
        compiled = chat_template_utils._compile_jinja_template(text)
        compiled.globals["strftime_now"] = datetime.date.fromisoformat(DATE).strftime
        probe = [{"role": "user", "content": "?"}, for_transformers(assistant("", None, [call("asks")]), "template", True)]
        self.shows_calls = "asks" in self.render_plain(probe, {})

    def render_plain(self, messages, variables):
        variables = {**self.variables, **variables}
        tools = variables.pop("tools", None)
        rendered, _ = chat_template_utils.render_jinja_template([messages], tools=tools, chat_template=self.text, **variables)
        return rendered[0]

    def render(self, messages, options):
        """None for a format of tools that the template does not know."""
        form = options.get("toolFormat", "template")
        tools = options.get("tools")
        variables = {"add_generation_prompt": options.get("prompt", False), **options.get("variables", {})}
        if "enableThinking" in options:
            variables["enable_thinking"] = options["enableThinking"]
        if tools and form == "python":
            if "python_tools" not in self.text:
                return None
            variables["python_tools"] = tools
        elif tools and form == "xml" and "xml_tools" in self.text:
            variables["xml_tools"] = tools
        elif tools:
            variables["tools"] = [{"type": "function", "function": tool} for tool in tools]
        return self.render_plain([for_transformers(m, form, self.shows_calls) for m in messages], variables)

    def passages(self):
        """The long texts of the template, without white space and end tags around them, in its order."""
        literals = [ast.literal_eval(value) for _, kind, value in jinja2.Environment().lex(self.text) if kind == "string"]
        texts = [text.strip().removesuffix("<|im_end|>") for text in literals]
        return list(dict.fromkeys(text for text in texts if len(text) >= PASSAGE))


def without_passages(text, passages):
    for passage in sorted(passages, key=len, reverse=True):
        text = text.replace(passage, f"⟦{passages.index(passage) + 1}⟧")
    return text


def digest(data):
    return hashlib.sha256(data).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in TEMPLATES:
        parser.add_argument(f"--{name.replace('_', '-')}", required=True, metavar="TEMPLATE")
    parser.add_argument("--engine", action="store_true", help="render the official texts with deltamem too")
    arguments = parser.parse_args()
    tokenizer = tokenizers.Tokenizer.from_file(str(REPOSITORY / "models/nano/tokenizer.json"))
    recordings = {
        "transformers": transformers.__version__,
        "jinja2": jinja2.__version__,
        "date": DATE,
        "templates": {},
        "cases": [{"name": name, "messages": messages, "options": options, "expected": {}} for name, messages, options in cases()],
    }
    assert len({c["name"] for c in recordings["cases"]}) == len(recordings["cases"])
    with tempfile.TemporaryDirectory() as folder:
        for name, (like, variables) in TEMPLATES.items():
            source = getattr(arguments, name)
            address = source if "://" in source else pathlib.Path(source).resolve().as_uri()
            text = urllib.request.urlopen(address).read().decode()
            pathlib.Path(folder, f"{name}.jinja").write_text(text)
            official, ours = Template(text), Template(like.read_text(), variables)
            passages = official.passages()
            recordings["templates"][name] = {"sha256": digest(text.encode()), "bytes": len(text.encode()), "passages": len(passages)}
            n_different = 0
            for case in recordings["cases"]:
                whole = official.render(case["messages"], case["options"])
                if whole is None:
                    case["expected"][name] = None
                    continue
                shown = without_passages(whole, passages)
                n_tokens, tokens = token_digest(tokenizer, shown)
                expected = {"text": shown, "sha256": digest(whole.encode()), "tokens": n_tokens, "tokens_sha256": tokens}
                # what another template's rendering says already is not written twice
                same = next((n for n, e in case["expected"].items() if e and e.get("text") == shown), None)
                if same and case["expected"][same]["sha256"] == expected["sha256"]:
                    expected = {"same_as": same}
                case["expected"][name] = expected
                given = ours.render(case["messages"], case["options"])
                if given != shown:
                    n_different += 1
                    print(f"{name}: {case['name']}: ours differs\n--- official\n{shown}\n--- ours\n{given}")
            print(f"{name}: {len(recordings['cases'])} cases, {len(passages)} long passages, {n_different} differ in our template")
            if n_different:
                raise SystemExit(1)
        lines = json.dumps({k: v for k, v in recordings.items() if k != "cases"}, ensure_ascii=False, indent=1)[:-2]
        rows = ",\n".join("  " + json.dumps(case, ensure_ascii=False) for case in recordings["cases"])
        (FOLDER / "recordings.json").write_text(f'{lines},\n "cases": [\n{rows}\n ]\n}}\n')
        if arguments.engine:
            command = ["cargo", "test", "--test", "templates", "--", "--nocapture"]
            features = os.environ.get("DELTAMEM_TEST_FEATURES")
            if features:
                command[2:2] = ["--features", features]
            subprocess.run(command, cwd=REPOSITORY, check=True, env={**os.environ, "DELTAMEM_TEMPLATES": folder})


if __name__ == "__main__":
    main()
