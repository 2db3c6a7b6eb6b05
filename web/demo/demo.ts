/** The demo page: joins the session's events with the page's elements. The panel is in panel.ts. */
import { DeltamemError, LanguageModel, type LedgerEntry, type TurnReport } from "../lib/index.js";
import { byId, element } from "./dom.js";
import { MemoryPanel } from "./panel.js";

const MODEL = "./models/nano/";
const MODEL_NAME = "nano";
/** Earlier turns that are shown after a reload. */
const SHOWN_TURNS = 6;

type Phase = "loading" | "ready" | "replying" | "working" | "failed";

const log = byId("log", HTMLElement);
const form = byId("form", HTMLFormElement);
const promptInput = byId("prompt", HTMLTextAreaElement);
const send = byId("send", HTMLButtonElement);
const stop = byId("stop", HTMLButtonElement);
const newContext = byId("new-context", HTMLButtonElement);
const errorLine = byId("error", HTMLElement);
const noticeLine = byId("notice", HTMLElement);
const statusLine = byId("status", HTMLElement);

void start();

async function start(): Promise<void> {
  const progress = byId("progress", HTMLProgressElement);
  const label = byId("progress-label", HTMLElement);
  try {
    const session = await LanguageModel.create({
      model: new URL(MODEL, document.baseURI),
      name: MODEL_NAME,
      monitor(monitor) {
        const show = (text: string) => (event: Event) => {
          label.textContent = text;
          progress.value = (event as ProgressEvent).loaded;
        };
        monitor.addEventListener("downloadprogress", show("Downloading the model"));
        monitor.addEventListener("loadprogress", show("Putting the weights on the GPU"));
      },
    });
    byId("loading", HTMLElement).hidden = true;
    await run(session);
  } catch (error) {
    byId("loading", HTMLElement).hidden = true;
    setPhase("failed");
    statusLine.textContent = "Not running";
    showError(error);
  }
}

async function run(session: LanguageModel): Promise<void> {
  const panel = new MemoryPanel(session, { work });
  statusLine.textContent = [
    session.model.name,
    `${session.model.weights} weights`,
    session.model.adapter || "GPU without a name",
  ].join(" · ");

  const history = await session.memory.ledger();
  showHistory(session, history);
  session.addEventListener("memorychange", () => {
    showState(session);
    // Between a person's own actions another tab may have written.
    if (document.body.dataset["phase"] === "ready") void panel.refresh().catch(showError);
  });
  showState(session);
  await panel.refresh();
  setPhase("ready");
  promptInput.focus({ preventScroll: true });

  let reply: AbortController | null = null;
  const answer = async (text: string): Promise<void> => {
    reply = new AbortController();
    setPhase("replying");
    errorLine.hidden = true;
    try {
      await converse(session, text, reply.signal);
      await panel.refresh();
    } catch (error) {
      showError(error);
    } finally {
      reply = null;
      setPhase("ready");
      promptInput.focus({ preventScroll: true });
    }
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = promptInput.value.trim();
    if (!text || document.body.dataset["phase"] !== "ready") return;
    promptInput.value = "";
    void answer(text);
  });
  promptInput.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  stop.addEventListener("click", () => reply?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") reply?.abort();
  });
  newContext.addEventListener("click", () => {
    void work(async () => {
      await session.newContext();
      fadeMessages();
      addDivider("New context. What is above is known only through the memory.");
    });
  });

  /** Runs an action of the person: nothing else begins meanwhile, errors are shown. */
  async function work(job: () => Promise<void>): Promise<void> {
    setPhase("working");
    errorLine.hidden = true;
    try {
      await job();
      await panel.refresh();
    } catch (error) {
      showError(error);
    } finally {
      setPhase("ready");
      showState(session);
    }
  }

  panel.onForgotten = () => {
    log.replaceChildren();
    addDivider("Forgotten. The memory is empty and so is the context.");
  };
  panel.onUndone = () => {
    const messages = log.querySelectorAll(".message");
    for (const message of [...messages].slice(-2)) message.remove();
    addDivider("The last turn was taken back.");
  };
}

async function converse(session: LanguageModel, text: string, signal: AbortSignal): Promise<void> {
  addMessage("user", text);
  const bubble = addMessage("assistant", "");
  bubble.classList.add("waiting");
  const words = document.createTextNode("");
  bubble.append(words);
  let report: TurnReport | null = null;
  const onTurn = (event: Event) => (report = (event as CustomEvent<TurnReport>).detail);
  session.addEventListener("turn", onTurn, { once: true });
  log.setAttribute("aria-busy", "true");
  try {
    const reader = session.promptStreaming(text, { signal }).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
      words.appendData(words.length === 0 ? value.trimStart() : value);
      if (isAtEnd) log.scrollTop = log.scrollHeight;
    }
  } catch (error) {
    // Stopping is what the person wanted; what was said so far stays.
    if (!signal.aborted) throw error;
  } finally {
    session.removeEventListener("turn", onTurn);
    bubble.classList.remove("waiting");
    log.removeAttribute("aria-busy");
    if (report) bubble.append(element("span", "detail", describe(report, session)));
    log.scrollTop = log.scrollHeight;
  }
}

function describe(report: TurnReport, session: LanguageModel): string {
  const [before, after] = report.memoryNorms;
  const written = report.isCommitted
    ? `memory ${before.toFixed(2)} → ${after.toFixed(2)}, saved`
    : session.memory.readOnly
      ? "memory read, not written"
      : "memory not stored";
  const speed = report.decodeSeconds > 0 ? report.generatedTokens / report.decodeSeconds : 0;
  const tokens = report.generatedTokens === 1 ? "1 token" : `${report.generatedTokens} tokens`;
  const parts = [tokens, `${speed.toFixed(1)} per second`, written];
  if (report.stopReason === "cancelled") parts.unshift("stopped");
  if (report.stopReason === "context_full") parts.unshift("the context is full");
  return parts.join(" · ");
}

function showHistory(session: LanguageModel, history: LedgerEntry[]): void {
  for (const { prompt, reply } of history.slice(-SHOWN_TURNS)) {
    addMessage("user", prompt).classList.add("past");
    addMessage("assistant", reply).classList.add("past");
  }
  const { generation } = session.memory;
  if (generation > 0) {
    addDivider(`Welcome back. The context is empty; the memory is here (generation ${generation}).`);
  } else {
    addDivider("The memory is empty. Whatever you say is written into it.");
  }
}

function showState(session: LanguageModel): void {
  const { contextUsage, contextWindow } = session;
  byId("context", HTMLElement).textContent = `context ${contextUsage} of ${contextWindow} tokens`;
  const notices = [];
  if (session.model.notice) notices.push(sentence(session.model.notice));
  if (session.memory.notice) notices.push(session.memory.notice);
  if (session.memory.readOnly) {
    notices.push(
      "Another tab writes to this memory; here it is only read. Close that tab, and this one takes over.",
    );
  }
  noticeLine.textContent = notices.join(" ");
  noticeLine.hidden = notices.length === 0;
  const persistence = byId("persistence", HTMLElement);
  if (session.isPersisted !== null) {
    persistence.textContent = session.isPersisted
      ? "The browser promised to keep the memory until you delete it."
      : "The browser did not promise to keep the memory when storage gets short.";
  }
}

function setPhase(phase: Phase): void {
  document.body.dataset["phase"] = phase;
  const isReady = phase === "ready";
  promptInput.disabled = phase === "loading" || phase === "failed";
  send.disabled = !isReady;
  send.hidden = phase === "replying";
  stop.hidden = phase !== "replying";
  newContext.disabled = !isReady;
}

function addMessage(role: "user" | "assistant", text: string): HTMLElement {
  const message = element("div", `message ${role}`, "");
  const who = role === "user" ? "You: " : "Model: ";
  message.append(element("span", "visually-hidden", who));
  if (text) message.append(text);
  log.append(message);
  log.scrollTop = log.scrollHeight;
  return message;
}

function addDivider(text: string): void {
  log.append(element("p", "divider", text));
  log.scrollTop = log.scrollHeight;
}

function fadeMessages(): void {
  for (const message of log.querySelectorAll(".message")) message.classList.add("past");
}

function showError(error: unknown): void {
  const message = error instanceof Error ? error.message : String(error);
  const code = error instanceof DeltamemError ? ` (${error.code})` : "";
  errorLine.textContent = `${sentence(message)}${code}`;
  errorLine.hidden = false;
}

function sentence(text: string): string {
  const whole = /[.!?…]$/.test(text) ? text : `${text}.`;
  return whole.charAt(0).toUpperCase() + whole.slice(1);
}
