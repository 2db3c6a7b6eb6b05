import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./load.mjs";

const { Connection, Queue, serve } = await load("messages");
const { DeltamemError, errorFromWire, errorToWire } = await load("errors");

/** Both ends of a channel; `end` lets the process finish. */
function connect(handlers) {
  const { port1, port2 } = new MessageChannel();
  serve(port2, handlers, new Queue());
  const connection = new Connection(port1);
  const caller = connection.openSession(() => undefined);
  port1.start();
  port2.start();
  return { connection, caller, worker: port2, end: () => port1.close() };
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

test("an abort reaches the running call, and ends a waiting one at once, before it begins", async () => {
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
  await assert.rejects(waiting, /enough/);
  first.abort();
  assert.equal(await running, "stopped");
  assert.deepEqual(begun, ["first"]);
  await assert.rejects(
    caller.call("turn", { text: "third" }, { signal: AbortSignal.abort() }),
    (error) => error.name === "AbortError",
  );
  end();
});

test("sessions share a worker: each has its number, its events, and its own end", async () => {
  const told = [];
  const { connection, caller, worker, end } = connect({
    measure: async (text, { session, signal }) => {
      if (text === "wait") await new Promise((resolve) => (signal.onabort = resolve));
      return session;
    },
  });
  const other = connection.openSession((event) => told.push(event.kind));
  assert.deepEqual(await Promise.all([caller, other].map((each) => each.call("measure", ""))), [0, 1]);
  const event = { kind: "devicerestored" };
  for (const session of [0, 1]) worker.postMessage({ kind: "event", session, event });
  const waiting = caller.call("measure", "wait");
  assert.equal(caller.close(new Error("destroyed")), false);
  await assert.rejects(waiting, /destroyed/);
  await assert.rejects(caller.call("measure", ""), /destroyed/);
  assert.equal(await other.call("measure", ""), 1); // the first one's call was cancelled
  assert.deepEqual(told, ["devicerestored"]);
  assert.equal(other.close(new Error("destroyed")), true);
  end();
});

test("what is no data is refused, and the connection goes on", async () => {
  const { caller, end } = connect({ measure: async (text) => text.length });
  await assert.rejects(caller.call("measure", () => "x"), { code: "unsupported" });
  assert.equal(await caller.call("measure", "ab"), 2);
  end();
});

test("closing ends what is under way and all that follows", async () => {
  const { connection, caller, end } = connect({ measure: () => new Promise(() => {}) });
  const call = caller.call("measure", "a");
  connection.close(new Error("over"));
  await assert.rejects(call, /over/);
  await assert.rejects(caller.call("measure", "b"), /over/);
  end();
});

test("errors keep their code; what is no error becomes one", () => {
  const error = errorFromWire(errorToWire(new DeltamemError("read_only", "no")));
  assert.ok(error instanceof DeltamemError);
  assert.equal(error.code, "read_only");
  assert.equal(errorFromWire(errorToWire("text")).message, "text");
  const full = new DeltamemError("quota", "full", { requested: 9, quota: 5 });
  const { requested, quota } = errorFromWire(structuredClone(errorToWire(full)));
  assert.deepEqual([requested, quota], [9, 5]);
  assert.equal(errorFromWire(errorToWire(new DOMException("x", "AbortError"))).name, "AbortError");
});

test("the library is imported without a browser", async () => {
  const { LanguageModel } = await load("index");
  assert.equal(await LanguageModel.availability(), "unavailable");
  assert.equal(typeof LanguageModel.weights.list, "function");
  await assert.rejects(LanguageModel.create({ model: "https://example.org/" }), {
    code: "no_adapter",
  });
});
