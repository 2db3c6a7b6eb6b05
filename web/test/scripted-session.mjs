/**
 * A session that gives the replies it was told to, and remembers what it was asked: for tests of the
 * shapes of other libraries, where what a model makes of a prompt does not matter.
 */
export function scriptedSession(...replies) {
  const calls = [];
  return {
    calls,
    model: { name: "scripted" },
    history: async () => [],
    async newContext() {
      calls.push("newContext");
    },
    async complete(history, options) {
      calls.push({ history, options });
      const { pieces = [], fail, ...rest } = replies.shift() ?? {};
      for (const [kind, text] of pieces) {
        await new Promise((resolve) => setTimeout(resolve));
        options.signal?.throwIfAborted();
        (kind === "answer" ? options.onAnswer : options.onThought)?.(text);
      }
      if (fail) throw fail;
      const text = (wanted) => pieces.map(([kind, piece]) => (kind === wanted ? piece : "")).join("");
      return {
        answer: text("answer"),
        thoughts: text("thought"),
        stopReason: "end_of_sequence",
        generatedTokens: 7,
        promptTokens: 20,
        prefixTokens: 12,
        promptSeconds: 0.1,
        decodeSeconds: 0.1,
        memoryNorms: [0, 1],
        rollback: null,
        evictedMessages: 0,
        toolCalls: [],
        gauges: null,
        isCommitted: true,
        ...rest,
      };
    },
  };
}
