/** The list of models: what they need, whether they fit, and loading, pausing, removing them. */
import { LanguageModel } from "../../lib/index.js";
import { ask } from "./dialogs.js";
import { button, byId, dialog, element, input, node, textButton } from "./dom.js";
import { bytes, percent, sentence } from "./format.js";
import { describeError, showError, toast } from "./page.js";
import type { ModelEntry, Settings } from "./settings.js";

type Inspection = Awaited<ReturnType<typeof LanguageModel.inspect>>;

export interface ModelsEvents {
  /** Loads and shows a model; rejects with an `AbortError` when `signal` says so. */
  use(model: ModelEntry, signal: AbortSignal, onProgress: OnProgress): Promise<void>;
  /** The id of the model that is shown. */
  current(): string | null;
}

export type OnProgress = (stage: "download" | "load", loaded: number) => void;

interface Loading {
  id: string;
  controller: AbortController;
  stage: "download" | "load";
  loaded: number;
}

export class ModelsDialog {
  readonly #settings: Settings;
  readonly #events: ModelsEvents;
  readonly #inspections = new Map<string, Inspection | Error>();
  /** Models whose download was paused in this visit. */
  readonly #paused = new Set<string>();
  #loading: Loading | null = null;

  constructor(settings: Settings, events: ModelsEvents) {
    this.#settings = settings;
    this.#events = events;
    for (const id of ["open-models", "failure-models"]) {
      button(id).addEventListener("click", () => this.open());
    }
    const form = byId("own-form", HTMLFormElement);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const url = folder(input("own-url").value);
      const adapter = input("own-adapter").value ? folder(input("own-adapter").value) : null;
      const weights = byId("own-weights", HTMLSelectElement).value as "q4" | "q8" | "f16" | "f32";
      const added = settings.addModel(url, adapter, weights);
      form.reset();
      void this.#inspect(added);
      this.#draw();
      toast(`${added.name} is in the list now.`);
    });
  }

  open(): void {
    dialog("models-dialog").showModal();
    this.#draw();
    for (const entry of this.#settings.models) void this.#inspect(entry);
  }

  #close(): void {
    dialog("models-dialog").close();
  }

  async #inspect(entry: ModelEntry): Promise<void> {
    if (entry.isBuiltIn) return;
    try {
      const found = await LanguageModel.inspect({
        model: entry.url,
        ...(entry.adapter && { adapter: entry.adapter }),
        ...(entry.weights && { weights: entry.weights }),
      });
      this.#inspections.set(entry.id, found);
    } catch (error) {
      this.#inspections.set(entry.id, error instanceof Error ? error : new Error(String(error)));
    }
    this.#draw();
  }

  async #use(entry: ModelEntry): Promise<void> {
    if (this.#loading) return;
    const loading: Loading = { id: entry.id, controller: new AbortController(), stage: "download", loaded: 0 };
    this.#loading = loading;
    this.#draw();
    try {
      await this.#events.use(entry, loading.controller.signal, (stage, loaded) => {
        const isNew = stage !== loading.stage;
        loading.stage = stage;
        loading.loaded = loaded;
        if (isNew) this.#draw();
        else this.#showProgress(loading);
      });
      this.#paused.delete(entry.id);
      this.#close();
    } catch (error) {
      if (loading.controller.signal.aborted) this.#paused.add(entry.id);
      else showError(error);
    } finally {
      this.#loading = null;
      void this.#inspect(entry);
      this.#draw();
    }
  }

  async #remove(entry: ModelEntry): Promise<void> {
    const answer = await ask({
      title: `Remove ${entry.name}?`,
      text: "Its downloaded files are deleted from this browser. Memories stay; they work again when the model is back.",
      ok: "Remove",
      cancel: "Keep it",
      isDangerous: true,
    });
    if (!answer) return;
    try {
      await LanguageModel.weights.remove(entry.url);
      if (entry.adapter) await LanguageModel.weights.remove(entry.adapter);
      if (entry.id.startsWith("own:")) this.#settings.dropModel(entry);
      this.#paused.delete(entry.id);
      toast(`${entry.name} was removed.`);
    } catch (error) {
      showError(error);
    }
    this.#inspections.delete(entry.id);
    void this.#inspect(entry);
    this.#draw();
  }

  // ---- looks --------------------------------------------------------------------------------------

  /** Draws the list again and leaves the focus where it was. */
  #draw(): void {
    const list = node("models");
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement : null;
    const key = focused && list.contains(focused) ? focused.dataset["key"] : undefined;
    list.replaceChildren(...this.#settings.models.map((entry) => this.#card(entry)));
    if (!key) return;
    const again =
      list.querySelector<HTMLElement>(`[data-key="${CSS.escape(key)}"]`) ??
      list.querySelector<HTMLElement>(`[data-key^="${CSS.escape(key.split("|")[0] ?? "")}"]`);
    again?.focus();
  }

  #card(entry: ModelEntry): HTMLElement {
    const isCurrent = this.#events.current() === entry.id;
    const found = this.#inspections.get(entry.id);
    const head = element("div", "model-head", element("h3", "", entry.name));
    if (isCurrent) head.append(element("span", "badge on", "in use"));
    if (entry.isBuiltIn) head.append(element("span", "badge", "built in"));
    const card = element("li", "model", head, element("p", "", entry.summary));
    if (entry.note && !entry.adapter) card.append(element("p", "soft", entry.note));
    const facts = this.#facts(entry, found);
    if (facts.length > 0) card.append(element("p", "soft facts", facts.join(" · ")));
    const trouble = problem(found);
    if (trouble) card.append(element("p", "trouble", trouble));
    if (entry.note) card.append(this.#adapterField(entry));
    if (this.#loading?.id === entry.id) card.append(...this.#progress(this.#loading));
    card.append(this.#buttons(entry, found, isCurrent));
    return card;
  }

  #facts(entry: ModelEntry, found: Inspection | Error | undefined): string[] {
    const facts: string[] = [];
    if (found && !(found instanceof Error)) {
      const { downloadBytes, storedBytes, footprint } = found;
      if (found.availability === "available") facts.push(`${bytes(storedBytes)} on this device`);
      else facts.push(`${bytes(downloadBytes)} to download`);
      if (storedBytes > 0 && found.availability !== "available") {
        facts.push(`${bytes(storedBytes)} of it are here`);
      }
      if (footprint) {
        const total = footprint.weightBytes + footprint.kvBytes + footprint.otherBytes;
        facts.push(`${bytes(total)} of GPU memory as ${footprint.weights}`);
      }
    } else if (!found && !entry.isBuiltIn) {
      facts.push("asking the model's host…");
    }
    if (!entry.isBuiltIn) facts.push(`from ${new URL(entry.url).host}`);
    if (entry.licence) facts.push(entry.licence);
    return facts;
  }

  #adapterField(entry: ModelEntry): HTMLElement {
    const field = element("input");
    field.type = "url";
    field.id = `adapter-${entry.id}`;
    field.placeholder = "https://…";
    field.value = entry.adapter ?? "";
    const label = element("label", "", "Address of a δ-mem adapter's folder");
    label.htmlFor = field.id;
    const form = element("form", "inline", label, field, element("button", "", "Set"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#settings.setAdapter(entry, field.value ? folder(field.value) : null);
      toast(field.value ? "The adapter is used from the next load on." : "No adapter any more.");
      this.#draw();
    });
    return form;
  }

  #progress(loading: Loading): HTMLElement[] {
    const bar = element("progress");
    bar.id = "model-progress";
    bar.max = 1;
    bar.value = loading.loaded;
    const label = element("label", "soft", progressText(loading));
    label.htmlFor = bar.id;
    label.id = "model-progress-label";
    return [label, bar];
  }

  #showProgress(loading: Loading): void {
    const bar = document.getElementById("model-progress");
    if (bar instanceof HTMLProgressElement) bar.value = loading.loaded;
    const label = document.getElementById("model-progress-label");
    if (label) label.textContent = progressText(loading);
  }

  #buttons(entry: ModelEntry, found: Inspection | Error | undefined, isCurrent: boolean): HTMLElement {
    const row = element("div", "row");
    const add = (name: string, label: string, className: string, run: () => void) => {
      const made = textButton(label, className, run);
      made.dataset["key"] = `${entry.id}|${name}`;
      made.setAttribute("aria-label", `${label} ${entry.name}`);
      row.append(made);
      return made;
    };
    if (this.#loading?.id === entry.id) {
      const { controller } = this.#loading;
      add("pause", "Pause", "", () => controller.abort()).disabled = controller.signal.aborted;
      return row;
    }
    const state = found && !(found instanceof Error) ? found : null;
    const isHere = entry.isBuiltIn || state?.availability === "available";
    const isPartial = !isHere && ((state?.storedBytes ?? 0) > 0 || this.#paused.has(entry.id));
    if (!isCurrent) {
      const label = isHere ? "Use" : isPartial ? "Resume" : "Download and use";
      const use = add("use", label, "primary", () => void this.#use(entry));
      use.disabled = this.#loading !== null || state?.availability === "unavailable";
    }
    const canRemove = (!entry.isBuiltIn && (state?.storedBytes ?? 0) > 0) || entry.id.startsWith("own:");
    if (canRemove && !isCurrent) add("remove", "Remove", "", () => void this.#remove(entry));
    return row;
  }
}

/** Why a model cannot be used, or cannot be asked about. */
function problem(found: Inspection | Error | undefined): string | null {
  if (!found) return null;
  if (found instanceof Error) return describeError(found);
  if (found.reason) return sentence(found.reason);
  const { quotaBytes, usageBytes, downloadBytes, storedBytes } = found;
  if (quotaBytes === null || found.availability === "available") return null;
  const free = quotaBytes - (usageBytes ?? 0);
  const missing = downloadBytes - storedBytes;
  if (missing <= free) return null;
  return `This browser gives the page ${bytes(free)} of room, ${bytes(missing)} are needed to keep it. It can run, and is downloaded again next time.`;
}

function progressText({ controller, stage, loaded }: Loading): string {
  if (controller.signal.aborted) return "Pausing…";
  return stage === "download"
    ? `Downloading: ${percent(loaded)}. You can close this and go on talking.`
    : `Putting the weights on the GPU: ${percent(loaded)}`;
}

/** With a slash at the end; a page of a model on huggingface.co becomes the address of its files. */
function folder(address: string): string {
  const url = new URL(address);
  if (url.hostname === "huggingface.co") {
    const [owner, name, kind, revision] = url.pathname.split("/").filter(Boolean);
    if (owner && name && (kind === undefined || kind === "tree")) {
      url.pathname = `/${owner}/${name}/resolve/${revision ?? "main"}/`;
    }
  }
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url.href;
}
