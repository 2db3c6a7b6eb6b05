/**
 * The page of `deltamem serve`: a conversation over the same interface that other programs use. What a
 * model writes is put into the page as text, never as markup.
 */
const find = (id) => document.getElementById(id);
const [messages, form, prompt, send, status, profile] = ["messages", "form", "prompt", "send", "status", "profile"].map(find);

/** The conversation as it is resent each time. */
let history = [];
let token = sessionStorage.getItem("token");
/** Ends the reply under way. */
let running = null;

function headers(more = {}) {
  return {
    ...more,
    "X-Memory-Profile": profile.value.trim() || "default",
    ...(token && { Authorization: `Bearer ${token}` }),
  };
}

/** Throws with the server's own words; asks for the token where it is wanted. */
async function ask(path, options = {}) {
  for (;;) {
    const response = await fetch(path, { ...options, headers: headers(options.headers) });
    if (response.ok) return response;
    if (response.status !== 401) {
      const { error } = await response.json();
      throw Object.assign(new Error(error.message), { code: error.code });
    }
    token = await askForToken();
    sessionStorage.setItem("token", token);
  }
}

function askForToken() {
  const dialog = find("token-dialog");
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(find("token").value), { once: true });
  });
}

function say(text, isBad = false) {
  status.textContent = text;
  status.classList.toggle("bad", isBad);
}

function bubble(role, text = "") {
  find("welcome")?.remove();
  const element = document.createElement("div");
  element.className = `message ${role}`;
  element.textContent = text;
  messages.append(element);
  element.scrollIntoView({ block: "end" });
  return element;
}

/** The objects of a stream of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data === "[DONE]") return;
      if (data !== "") yield JSON.parse(data);
    }
  }
}

async function answer(text) {
  const question = { role: "user", content: text };
  bubble("user", text);
  const shown = bubble("assistant", "…");
  const reply = { role: "assistant", content: "" };
  let thoughts = "";
  running = new AbortController();
  send.textContent = "Stop";
  try {
    const response = await ask("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ messages: [...history, question], stream: true }),
      signal: running.signal,
    });
    for await (const chunk of events(response.body)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const { delta } = chunk.choices[0];
      thoughts += delta.reasoning_content ?? "";
      reply.content += delta.content ?? "";
      shown.textContent = reply.content || "…";
      if (thoughts) {
        const above = document.createElement("div");
        above.className = "thoughts";
        above.textContent = thoughts.trim();
        shown.prepend(above);
      }
      shown.scrollIntoView({ block: "end" });
      if (chunk.memory) showMemory(chunk.memory);
    }
    history = [...history, question, reply];
  } catch (error) {
    // what is given up leaves nothing behind, here as in the memory
    shown.remove();
    messages.lastElementChild?.remove();
    prompt.value = text;
    if (error.name === "AbortError") say("Stopped; nothing was remembered.");
    else say(error.message, true);
  } finally {
    running = null;
    send.textContent = "Send";
  }
}

function showMemory({ generation, norm_before: before, norm_after: after }) {
  if (generation === null) return;
  say(`Memory saved as generation ${generation}; its norm went from ${before.toFixed(3)} to ${after.toFixed(3)}.`);
}

async function load() {
  const { data } = await (await ask("/v1/models")).json();
  find("model").textContent = data[0].id;
  await showProfile();
}

async function showProfile() {
  try {
    const memory = await (await ask("/v1/memory")).json();
    say(`The memory of this profile has read ${memory.counters.turns} turns.`);
  } catch (error) {
    if (error.code === "memory_not_found") say("This profile has no memory yet.");
    else say(error.message, true);
  }
}

function begin() {
  running?.abort();
  history = [];
  messages.replaceChildren();
}

async function change(path, done) {
  try {
    await ask(path, { method: "POST" });
    begin();
    say(done);
  } catch (error) {
    say(error.message, true);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = prompt.value.trim();
  if (running) running.abort();
  else if (text) {
    prompt.value = "";
    void answer(text);
  }
});
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) form.requestSubmit();
});
profile.addEventListener("change", () => {
  begin();
  void showProfile();
});
find("new").addEventListener("click", () => {
  begin();
  say("A new chat: the context is empty, the memory stays.");
});
find("undo").addEventListener("click", () => void change("/v1/memory/undo", "The memory of before is back."));
find("forget").addEventListener("click", () => {
  const question = `Forget everything that profile “${profile.value}” remembers?`;
  if (confirm(question)) void change("/v1/memory/forget", "Forgotten: the memory is empty.");
});
find("export").addEventListener("click", async (event) => {
  event.preventDefault();
  try {
    const file = await (await ask("/v1/memory/export")).blob();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `${profile.value}.dmem`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  } catch (error) {
    say(error.message, true);
  }
});

load().catch((error) => say(error.message, true));
