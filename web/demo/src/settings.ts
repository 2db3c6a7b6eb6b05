/**
 * What the page itself keeps between visits: the chosen model and profile, and models that the person
 * added. No word of a conversation is in here; those are in the library's store.
 */
import type { Weights } from "../../lib/index.js";
import { LISTED, type ModelEntry } from "./registry.js";
import { serverModel } from "./server.js";

export type { ModelEntry };

interface Stored {
  model: string;
  profile: string;
  /** Profiles that were made and may have nothing stored yet. */
  profiles: string[];
  ownModels: ModelEntry[];
  /** Adapters that the person gave, by model. */
  adapters: Record<string, string>;
}

const KEY = "deltamem-demo";
export const DEFAULT_PROFILE = "default";

export class Settings {
  #stored: Stored;

  constructor() {
    this.#stored = read();
  }

  get models(): ModelEntry[] {
    return [...LISTED, ...this.#stored.ownModels].map((entry) => ({
      ...entry,
      adapter: this.#stored.adapters[entry.id] ?? entry.adapter,
    }));
  }

  /** The server's model, or the chosen one; the built-in one if that is gone. */
  get model(): ModelEntry {
    return serverModel ?? this.models.find(({ id }) => id === this.#stored.model) ?? this.builtIn;
  }

  get builtIn(): ModelEntry {
    const found = this.models.find(({ isBuiltIn }) => isBuiltIn);
    if (!found) throw new Error("models/registry.json has no built-in model");
    return found;
  }

  get profile(): string {
    return this.#stored.profile;
  }

  get profiles(): string[] {
    return this.#stored.profiles;
  }

  choose(model: ModelEntry, profile: string): void {
    if (!serverModel) this.#stored.model = model.id;
    this.#stored.profile = profile;
    if (!this.#stored.profiles.includes(profile)) this.#stored.profiles.push(profile);
    this.#write();
  }

  dropProfile(profile: string): void {
    this.#stored.profiles = this.#stored.profiles.filter((name) => name !== profile);
    this.#write();
  }

  addModel(url: string, adapter: string | null, weights: Weights): ModelEntry {
    const parts = new URL(url).pathname.split("/").filter((part) => part && part !== "resolve");
    const gguf = /^(.+)\.gguf$/i.exec(parts.at(-1) ?? "");
    const entry: ModelEntry = {
      id: `own:${url}`,
      name: decodeURIComponent(gguf?.[1] ?? parts[1] ?? parts[0] ?? "model"),
      summary: "Added by you.",
      url,
      adapter,
      weights,
      downloadBytes: null,
      isBuiltIn: false,
      canThink: true,
      licence: null,
      note: null,
    };
    this.#stored.ownModels = [...this.#stored.ownModels.filter(({ id }) => id !== entry.id), entry];
    this.#write();
    return entry;
  }

  dropModel(entry: ModelEntry): void {
    this.#stored.ownModels = this.#stored.ownModels.filter(({ id }) => id !== entry.id);
    this.#write();
  }

  setAdapter(entry: ModelEntry, url: string | null): void {
    if (url) this.#stored.adapters[entry.id] = url;
    else delete this.#stored.adapters[entry.id];
    this.#write();
  }

  #write(): void {
    try {
      localStorage.setItem(KEY, JSON.stringify(this.#stored));
    } catch {
      // without storage the choices last until the page closes
    }
  }
}

function read(): Stored {
  const empty: Stored = {
    model: "nano",
    profile: DEFAULT_PROFILE,
    profiles: [DEFAULT_PROFILE],
    ownModels: [],
    adapters: {},
  };
  try {
    return { ...empty, ...(JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Stored>) };
  } catch {
    return empty;
  }
}
