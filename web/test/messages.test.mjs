import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./load.mjs";

const { Caller, Queue, serve } = await load("messages");
const { DeltamemError, errorFromWire, errorToWire } = await load("errors");

/** Both ends of a channel; `end` lets the process finish. */
function connect(handlers) {
  const { port1, port2 } = new MessageChannel();
  const states = [];
  serve(port2, handlers, new Queue());
  const caller = new Caller(port1, (state) => states.push(state));
  port1.start();
  port2.start();
  return { caller, states, worker: port2, end: () => port1.close() };
}

test("an answer finds its call, whatever the order in which they were made", async () => {
  const { caller, end } = connect({ measure: async (text) => text.length });
  const lengths = await Promise.all(["a", "bb", "ccc"].map((text) => caller.call("measure", text)));
  assert.deepEqual(lengths, [1, 2, 3]);
  end();
});

test("requests run one at a time, and a failed one does not stop the next", async () => {
  let running = 0;
  let most = 0;
  const { caller, end } = connect({
    measure: async (text) => {
      running += 1;
      most = Math.max(most, running);
      await new Promise((resolve) => setTimeout(resolve, 2));
      running -= 1;
      if (text === "bad") throw Object.assign(new Error("no"), { name: "DeltamemError", code: "gpu" });
      return text.length;
    },
  });
  const results = await Promise.allSettled(["a", "bad", "c"].map((t) => caller.call("measure", t)));
  assert.deepEqual(results.map((result) => result.status), ["fulfilled", "rejected", "fulfilled"]);
  assert.equal(results[1].reason.code, "gpu");
  assert.equal(results[1].reason.message, "no");
  assert.equal(most, 1);
  end();
});

test("notices come before the result and stay with their call", async () => {
  const { caller, end } = connect({
    turn: async ({ text }, { notify }) => {
      for (const letter of text) notify({ kind: "answer", text: letter });
      return text;
    },
  });
  const pieces = { ab: [], cd: [] };
  await Promise.all(
    Object.keys(pieces).map((text) =>
      caller.call("turn", { text }, { onNotice: (piece) => pieces[text].push(piece.text) }),
    ),
  );
  assert.deepEqual(pieces, { ab: ["a", "b"], cd: ["c", "d"] });
  end();
});

test("an abort reaches the running call, and drops a waiting one before it begins", async () => {
  const begun = [];
  const { caller, end } = connect({
    turn: async ({ text }, { signal }) => {
      begun.push(text);
      if (!signal.aborted) await new Promise((resolve) => (signal.onabort = resolve));
      return "stopped";
    },
  });
  const [first, second] = [new AbortController(), new AbortController()];
  const running = caller.call("turn", { text: "first" }, { signal: first.signal });
  const waiting = caller.call("turn", { text: "second" }, { signal: second.signal });
  second.abort(new Error("enough"));
  setTimeout(() => first.abort(), 10);
  assert.equal(await running, "stopped");
  await assert.rejects(waiting, /enough/);
  assert.deepEqual(begun, ["first"]);
  await assert.rejects(
    caller.call("turn", { text: "third" }, { signal: AbortSignal.abort() }),
    (error) => error.name === "AbortError",
  );
  end();
});

test("closing ends what is under way and all that follows", async () => {
  const { caller, end } = connect({ measure: () => new Promise(() => {}) });
  const call = caller.call("measure", "a");
  caller.close(new Error("over"));
  await assert.rejects(call, /over/);
  await assert.rejects(caller.call("measure", "b"), /over/);
  end();
});

test("errors keep their code; what is no error becomes one", () => {
  const error = errorFromWire(errorToWire(new DeltamemError("read_only", "no")));
  assert.ok(error instanceof DeltamemError);
  assert.equal(error.code, "read_only");
  assert.equal(errorFromWire(errorToWire("text")).message, "text");
  assert.equal(errorFromWire(errorToWire(new DOMException("x", "AbortError"))).name, "AbortError");
});

test("the library is imported without a browser", async () => {
  const { LanguageModel } = await load("index");
  assert.equal(await LanguageModel.availability(), "unavailable");
  await assert.rejects(LanguageModel.create({ model: "https://example.org/" }), {
    code: "no_adapter",
  });
});
