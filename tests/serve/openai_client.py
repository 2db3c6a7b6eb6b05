"""`deltamem serve` asked by OpenAI's own client for Python, on the built-in model and the CPU twin.

By hand: `pip install openai`, build the program, then
`python tests/serve/openai_client.py target/debug/deltamem`. Exits with 0 if all is well. The same
conversations as in openai.test.mjs, which is part of `./dev test`.
"""

import json
import os
import subprocess
import sys
import tempfile

import openai

TOKEN = "a-token"
ADA = {"role": "user", "content": "My name is Ada and I live in Lisbon."}
WHERE = {"role": "user", "content": "Where do I live?"}


class Server:
    """The program, serving while this is open."""

    def __init__(self, program: str, home: str) -> None:
        env = {**os.environ, "DELTAMEM_DATA_DIR": home, "DELTAMEM_TOKEN": TOKEN}
        command = [program, "serve", "--cpu", "--port", "0"]
        self.child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        line = self.child.stdout.readline()
        assert line.startswith("listening on http://"), line
        self.address = line.split()[-1]

    def client(self, profile: str, api_key: str = TOKEN) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.address}/v1",
            api_key=api_key,
            default_headers={"X-Memory-Profile": profile},
            max_retries=0,
        )

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.child.terminate()
        assert self.child.wait(timeout=30) == 0


def ask(client: openai.OpenAI, messages: list, **more: object):
    return client.chat.completions.create(model="nano", messages=messages, **more)


def text(client: openai.OpenAI, messages: list, **more: object) -> str:
    return ask(client, messages, **more).choices[0].message.content


def check_stream(server: Server) -> None:
    stream = ask(server.client("stream"), [ADA], stream=True, stream_options={"include_usage": True})
    said, reasons, usage = "", [], None
    for chunk in stream:
        for choice in chunk.choices:
            said += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
        usage = chunk.usage or usage
    assert "Lisbon" in said and reasons == ["stop"], (said, reasons)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


def check_schema_and_tools(server: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Lisbon", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    held = {"type": "json_schema", "json_schema": {"name": "home", "schema": schema, "strict": True}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    client = server.client("schema")
    with client.chat.completions.stream(model="nano", messages=[ADA], tools=[tool]) as stream:
        reply = stream.get_final_completion().choices[0].message
    assert "Lisbon" in reply.content, reply
    history = [ADA, {"role": "assistant", "content": reply.content}, WHERE]
    found = text(client, history, tools=[tool], tool_choice="none", response_format=held)
    assert json.loads(found)["city"] in ("Lisbon", "Oslo"), found
    parameters = {**tool, "function": {**tool["function"], "parameters": schema}}
    forced = {"tools": [parameters], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 200}
    called = ask(client, [ADA], **forced).choices[0]
    assert called.finish_reason == "tool_calls" and len(called.message.tool_calls) == 1, called
    assert json.loads(called.message.tool_calls[0].function.arguments)["city"] in ("Lisbon", "Oslo"), called


def check_what_goes_on(server: Server) -> None:
    client = server.client("begun")
    told = text(client, [ADA])
    begun = {"role": "assistant", "content": "You live in"}
    history = [ADA, {"role": "assistant", "content": told}, WHERE, begun]
    found = text(client, history, temperature=0, extra_body={"continue_final_message": True})
    assert "Lisbon" in found and "You live in" not in found, found
    whole = client.completions.create(model="nano", prompt="My name is", max_tokens=4, echo=True)
    assert whole.choices[0].text.startswith("My name is"), whole


def check_errors(server: Server) -> None:
    def refused(kind: type, client: openai.OpenAI, **more: object) -> openai.APIStatusError:
        try:
            ask(client, **{"messages": [ADA], **more})
        except kind as error:
            return error
        raise AssertionError(f"{kind.__name__} expected of {more}")

    client = server.client("errors")
    refused(openai.AuthenticationError, server.client("errors", "wrong"))
    assert refused(openai.BadRequestError, client, n=2).param == "n"
    refused(openai.BadRequestError, client, messages=[], stream=True)
    refused(openai.BadRequestError, server.client("No Name"))


def main(program: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        with Server(program, home) as server:
            assert [model.id for model in server.client("default").models.list()] == ["nano"]
            check_stream(server)
            check_schema_and_tools(server)
            check_what_goes_on(server)
            check_errors(server)
            text(server.client("ada"), [ADA])
            text(server.client("ben"), [{"role": "user", "content": "My name is Ben and I live in Oslo."}])
        with Server(program, home) as server:
            assert "Lisbon" in text(server.client("ada"), [WHERE])
            ben = text(server.client("ben"), [WHERE])
            assert "Oslo" in ben and "Lisbon" not in ben, ben
            nobody = text(server.client("nobody"), [WHERE])
            assert "Oslo" not in nobody and "Lisbon" not in nobody, nobody
    print("all is well")


if __name__ == "__main__":
    main(sys.argv[1])
