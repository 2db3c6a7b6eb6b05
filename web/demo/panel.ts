/** The memory panel: heat maps of the states, numbers, the ledger, and what a person can do. */
import type { LanguageModel, LedgerEntry, MemoryInfo, MemoryStates } from "../lib/index.js";
import { byId, element } from "./dom.js";

/** Turns in the ledger, newest first. */
const SHOWN_ENTRIES = 50;

type Rgb = [number, number, number];

export interface PanelOptions {
  /** Runs an action while nothing else does, then refreshes the panel; shows errors. */
  work(job: () => Promise<void>): Promise<void>;
}

export class MemoryPanel {
  onForgotten: () => void = () => undefined;
  onUndone: () => void = () => undefined;
  readonly #session: LanguageModel;
  readonly #buttons = new Map(
    ["undo", "pause", "export", "import", "forget"].map((id) => [id, byId(id, HTMLButtonElement)]),
  );
  #info: MemoryInfo | null = null;
  #states: MemoryStates | null = null;

  constructor(session: LanguageModel, { work }: PanelOptions) {
    this.#session = session;
    const memory = session.memory;
    const onClick = (id: string, job: () => Promise<void>) =>
      this.#buttons.get(id)?.addEventListener("click", () => void work(job));
    onClick("undo", async () => {
      // An import can be undone too; then no turn leaves the conversation.
      const before = (await memory.ledger()).length;
      await memory.undo();
      if ((await memory.ledger()).length < before) this.onUndone();
    });
    onClick("pause", () => (memory.paused ? memory.resume() : memory.pause()));
    onClick("export", async () => save(await memory.export(), fileName(session.model.name)));

    const file = byId("file", HTMLInputElement);
    this.#buttons.get("import")?.addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      const chosen = file.files?.[0];
      file.value = ""; // so that the same file can be chosen again
      if (chosen) void work(() => memory.import(chosen));
    });

    const dialog = byId("forget-dialog", HTMLDialogElement);
    this.#buttons.get("forget")?.addEventListener("click", () => {
      dialog.returnValue = "";
      dialog.showModal();
    });
    dialog.addEventListener("close", () => {
      if (dialog.returnValue !== "forget") return;
      void work(async () => {
        await memory.forget();
        this.onForgotten();
      });
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#drawStates());
  }

  /** Reads the memory again and shows it. */
  async refresh(): Promise<void> {
    this.#showRights();
    if (this.#session.model.identity === null) return;
    const { memory } = this.#session;
    const [info, states, ledger] = await Promise.all([
      memory.info(),
      memory.states(),
      memory.ledger(),
    ]);
    this.#info = info;
    this.#states = states;
    this.#showRights();
    this.#showNumbers(info);
    this.#drawStates();
    showLedger(ledger);
  }

  #showRights(): void {
    const { memory, model } = this.#session;
    const hasMemory = model.identity !== null;
    for (const [id, button] of this.#buttons) {
      const isWrite = id === "undo" || id === "import" || id === "forget";
      button.disabled = !hasMemory || (isWrite && memory.readOnly);
    }
    const pause = this.#buttons.get("pause");
    pause?.setAttribute("aria-pressed", String(memory.paused));
    const badges = [];
    if (!hasMemory) badges.push("no adapter");
    if (memory.readOnly) badges.push("read-only");
    if (memory.paused) badges.push("paused");
    badges.push(memory.ephemeral ? "not stored" : "kept in this browser");
    byId("badges", HTMLElement).replaceChildren(
      ...badges.map((text) => element("span", "badge", text)),
    );
  }

  #showNumbers(info: MemoryInfo): void {
    const show = (id: string, text: string) => (byId(id, HTMLElement).textContent = text);
    show("norm", info.norm.toFixed(3));
    show("generation", String(info.generation));
    show("turns", info.counters.turns.toLocaleString("en"));
    show("tokens", info.counters.tokensWritten.toLocaleString("en"));
  }

  /** One canvas a layer, one pixel a number, state heads side by side; all on the same scale. */
  #drawStates(): void {
    const [states, info] = [this.#states, this.#info];
    if (!states || !info) return;
    const { rank, stateHeads, data } = states;
    const perLayer = stateHeads * rank * rank;
    let largest = 0;
    for (const value of data) largest = Math.max(largest, Math.abs(value));
    const colours = readColours();
    const figures = states.layers.map((layer, index) => {
      const values = data.subarray(index * perLayer, (index + 1) * perLayer);
      const norm = (info.layers[index]?.norm ?? 0).toFixed(2);
      const canvas = element("canvas", "", "");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `State of layer ${layer}, norm ${norm}`);
      draw(canvas, values, rank, stateHeads, largest, colours);
      const caption = element("figcaption", "", "");
      caption.append(element("span", "", `layer ${layer}`), element("span", "", norm));
      const figure = element("figure", "", "");
      figure.append(canvas, caption);
      return figure;
    });
    byId("states", HTMLElement).replaceChildren(...figures);
    byId("scale", HTMLElement).hidden = false;
    byId("scale-low", HTMLElement).textContent = `−${largest.toPrecision(2)}`;
    byId("scale-high", HTMLElement).textContent = `+${largest.toPrecision(2)}`;
  }
}

/** `values` is `[heads, rank, rank]`, row-major. */
function draw(
  canvas: HTMLCanvasElement,
  values: Float32Array,
  rank: number,
  heads: number,
  largest: number,
  [low, zero, high]: [Rgb, Rgb, Rgb],
): void {
  canvas.width = heads * rank;
  canvas.height = rank;
  const context = canvas.getContext("2d");
  if (!context) return;
  const image = context.createImageData(canvas.width, canvas.height);
  for (let head = 0; head < heads; head += 1) {
    for (let row = 0; row < rank; row += 1) {
      for (let column = 0; column < rank; column += 1) {
        const value = values[(head * rank + row) * rank + column] ?? 0;
        // The square root brings out small numbers beside large ones.
        const strength = largest > 0 ? Math.sqrt(Math.abs(value) / largest) : 0;
        const end = value < 0 ? low : high;
        const pixel = 4 * (row * canvas.width + head * rank + column);
        zero.forEach((from, channel) => {
          image.data[pixel + channel] = from + strength * ((end[channel] ?? 0) - from);
        });
        image.data[pixel + 3] = 255;
      }
    }
  }
  context.putImageData(image, 0, 0);
}

function readColours(): [Rgb, Rgb, Rgb] {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string): Rgb => {
    const hex = style.getPropertyValue(name).trim().slice(1);
    const channel = (index: number) => Number.parseInt(hex.slice(2 * index, 2 * index + 2), 16);
    return [channel(0), channel(1), channel(2)];
  };
  return [read("--low"), read("--zero"), read("--high")];
}

function showLedger(entries: LedgerEntry[]): void {
  const rows = entries
    .slice(-SHOWN_ENTRIES)
    .reverse()
    .map((entry) => {
      const row = document.createElement("tr");
      const norms = `${entry.normBefore.toFixed(2)} → ${entry.normAfter.toFixed(2)}`;
      const said = element("td", "said", entry.prompt);
      said.title = entry.prompt;
      row.append(
        element("td", "", shortTime(entry.savedMs)),
        said,
        element("td", "number", String(entry.tokensWritten)),
        element("td", "number", norms),
      );
      return row;
    });
  byId("ledger", HTMLElement).replaceChildren(...rows);
  byId("ledger-empty", HTMLElement).hidden = rows.length > 0;
}

/** The time of day for today's, the day for others. */
function shortTime(unixMs: number): string {
  const date = new Date(unixMs);
  return date.toDateString() === new Date().toDateString()
    ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : date.toLocaleDateString([], { day: "numeric", month: "short" });
}

function fileName(model: string): string {
  return `${model.replaceAll(/[^\w.-]+/g, "-")}-${new Date().toISOString().slice(0, 10)}.dmem`;
}

function save(file: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  // The download reads the address after this task.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
