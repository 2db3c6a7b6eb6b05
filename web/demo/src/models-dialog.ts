/**
 * The list of models: what they need, whether they fit, and loading, pausing, removing them. A model's
 * host is asked only when the person wants that model.
 */
import { LanguageModel, type Inspection, type StoredModel } from "../../lib/index.js";
import { ask } from "./dialogs.js";
import { button, byId, dialog, element, input, node, textButton } from "./dom.js";
import { bytes, percent, sentence } from "./format.js";
import { describeError, showError, toast } from "./page.js";
import type { ModelEntry, Settings } from "./settings.js";

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
  /** What is on this device, by address. */
  #stored = new Map<string, StoredModel>();
  /** The models whose host is being asked. */
  readonly #asked = new Set<string>();
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
      const url = fileAddress(input("own-url").value);
      const adapter = input("own-adapter").value ? fileAddress(input("own-adapter").value) : null;
      const weights = byId("own-weights", HTMLSelectElement).value as "q4" | "q8" | "f16" | "f32";
      const added = settings.addModel(url, adapter, weights);
      form.reset();
      this.#draw();
      toast(`${added.name} is in the list now.`);
    });
  }

  open(): void {
    dialog("models-dialog").showModal();
    void this.#look();
  }

  #close(): void {
    dialog("models-dialog").close();
  }

  /** Looks at what is on this device; nobody else is asked. */
  async #look(): Promise<void> {
    this.#draw();
    try {
      const stored = await LanguageModel.weights.list();
      this.#stored = new Map(stored.map((each) => [each.url, each]));
    } catch (error) {
      showError(error);
    }
    this.#draw();
  }

  /** Asks the model's host how large it is, and the GPU whether it fits; true if it can be loaded. */
  async #inspect(entry: ModelEntry): Promise<boolean> {
    this.#asked.add(entry.id);
    this.#draw();
    try {
      const found = await LanguageModel.inspect({
        model: entry.url,
        ...(entry.adapter && { adapter: entry.adapter }),
        ...(entry.weights && { weights: entry.weights }),
      });
      this.#inspections.set(entry.id, found);
      return found.availability !== "unavailable";
    } catch (error) {
      this.#inspections.set(entry.id, error instanceof Error ? error : new Error(String(error)));
      return false;
    } finally {
      this.#asked.delete(entry.id);
      this.#draw();
    }
  }

  async #use(entry: ModelEntry): Promise<void> {
    if (this.#loading) return;
    const controller = new AbortController();
    const loading: Loading = { id: entry.id, controller, stage: "download", loaded: 0 };
    this.#loading = loading;
    try {
      const isHere = entry.isBuiltIn || this.#stored.get(entry.url)?.isComplete;
      if (!isHere && !(await this.#inspect(entry))) return;
      this.#draw();
      await this.#events.use(entry, controller.signal, (stage, loaded) => {
        const isNew = stage !== loading.stage;
        loading.stage = stage;
        loading.loaded = loaded;
        if (isNew) this.#draw();
        else this.#showProgress(loading);
      });
      this.#close();
    } catch (error) {
      if (!controller.signal.aborted) showError(error);
    } finally {
      this.#loading = null;
      await this.#look();
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
      toast(`${entry.name} was removed.`);
    } catch (error) {
      showError(error);
    }
    this.#inspections.delete(entry.id);
    await this.#look();
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
    if (this.#asked.has(entry.id)) {
      card.append(element("p", "soft", `Asking ${new URL(entry.url).host} and the GPU…`));
    }
    const said = verdict(found);
    if (said) card.append(element("p", said.isBad ? "trouble" : "fits", said.text));
    if (entry.note) card.append(this.#adapterField(entry));
    if (this.#loading?.id === entry.id) card.append(...this.#progress(this.#loading));
    card.append(this.#buttons(entry, found, isCurrent));
    return card;
  }

  #facts(entry: ModelEntry, found: Inspection | Error | undefined): string[] {
    if (entry.isBuiltIn) return entry.licence ? [entry.licence] : [];
    const known = found instanceof Error ? undefined : found;
    const stored = this.#stored.get(entry.url);
    const size = known?.downloadBytes || entry.downloadBytes;
    const facts: string[] = [];
    if (stored?.isComplete) facts.push(`${bytes(stored.bytes)} on this device`);
    else if (size) facts.push(`${bytes(size)} to download`);
    if (stored && !stored.isComplete) facts.push(`${bytes(stored.bytes)} of it are here`);
    if (known?.footprint) {
      const { weightBytes, kvBytes, otherBytes, weights } = known.footprint;
      facts.push(`${bytes(weightBytes + kvBytes + otherBytes)} of GPU memory as ${weights}`);
    }
    facts.push(`from ${new URL(entry.url).host}`);
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
      this.#settings.setAdapter(entry, field.value ? fileAddress(field.value) : null);
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
      made.setAttribute("aria-label", `${label} (${entry.name})`);
      row.append(made);
      return made;
    };
    if (this.#loading?.id === entry.id) {
      const { controller } = this.#loading;
      add("pause", "Pause", "", () => controller.abort()).disabled = controller.signal.aborted;
      return row;
    }
    const stored = this.#stored.get(entry.url);
    const isHere = entry.isBuiltIn || stored?.isComplete;
    const isBusy = this.#loading !== null || this.#asked.has(entry.id);
    if (!isCurrent) {
      const label = isHere ? "Use" : stored ? "Resume" : "Download and use";
      const use = add("use", label, "primary", () => void this.#use(entry));
      use.disabled = isBusy || (found && !(found instanceof Error) && found.availability === "unavailable") === true;
      if (!entry.isBuiltIn && (!found || found instanceof Error)) {
        add("fit", "Does it fit?", "", () => void this.#inspect(entry)).disabled = isBusy;
      }
    }
    if ((stored || entry.id.startsWith("own:")) && !isCurrent) {
      add("remove", "Remove", "", () => void this.#remove(entry)).disabled = isBusy;
    }
    return row;
  }
}

/** Whether a model can be used, as far as has been asked. */
function verdict(found: Inspection | Error | undefined): { text: string; isBad: boolean } | null {
  if (!found) return null;
  if (found instanceof Error) return { text: describeError(found), isBad: true };
  const isBad = found.availability === "unavailable";
  if (found.reason) return { text: sentence(found.reason), isBad };
  if (isBad) return { text: "It cannot run here.", isBad };
  const { quotaBytes, usageBytes, downloadBytes, storedBytes } = found;
  const free = quotaBytes === null ? null : quotaBytes - (usageBytes ?? 0);
  const missing = downloadBytes - storedBytes;
  if (free !== null && found.availability !== "available" && missing > free) {
    return {
      text: `This browser gives the page ${bytes(free)} of room, ${bytes(missing)} are needed to keep the model. It can run, and is downloaded again next time.`,
      isBad: true,
    };
  }
  return { text: "It fits on this GPU, as far as can be told beforehand.", isBad: false };
}

function progressText({ controller, stage, loaded }: Loading): string {
  if (controller.signal.aborted) return "Pausing…";
  return stage === "download"
    ? `Downloading: ${percent(loaded)}. You can close this and go on talking.`
    : `Putting the weights on the GPU: ${percent(loaded)}`;
}

/**
 * A GGUF file's address as it is, a folder's with a slash at the end; a page of either on huggingface.co
 * becomes the address of the files.
 */
function fileAddress(address: string): string {
  const url = new URL(address);
  if (url.hostname === "huggingface.co") {
    const [owner, name, kind, revision] = url.pathname.split("/").filter(Boolean);
    if (owner && name && (kind === undefined || kind === "tree")) {
      url.pathname = `/${owner}/${name}/resolve/${revision ?? "main"}/`;
    } else if (kind === "blob") {
      url.pathname = url.pathname.replace("/blob/", "/resolve/");
    }
  }
  if (!/(\/|\.gguf)$/i.test(url.pathname)) url.pathname += "/";
  return url.href;
}
