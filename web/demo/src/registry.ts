/**
 * The models that the page offers: those of models/registry.json, which the native program reads too.
 * Owns how an entry of it becomes one of the page's list; of the formats there the page loads safetensors.
 */
import type { Weights } from "../../lib/index.js";
import registry from "../../../models/registry.json";

export interface ModelEntry {
  id: string;
  name: string;
  summary: string;
  /** A folder in Hugging Face's layout; may be relative to the page. */
  url: string;
  /** The δ-mem adapter's folder; null looks beside the model. */
  adapter: string | null;
  weights: Weights | null;
  /** About how large the download is; null if not known without asking the host. */
  downloadBytes: number | null;
  /** True for the model that comes with the page. */
  isBuiltIn: boolean;
  canThink: boolean;
  licence: string | null;
  note: string | null;
}

/** A repository of the registry; a revision that is not known there is null. */
interface Repository {
  repo: string;
  revision: string | null;
}

const HUB = "https://huggingface.co";

/** Where the files of a repository are; of the newest revision if no other is known. */
function folder({ repo, revision }: Repository): string {
  return `${HUB}/${repo}/resolve/${revision ?? "main"}/`;
}

export const LISTED: ModelEntry[] = registry.models.flatMap((model) => {
  const source = model.sources.find(({ format }) => format === "safetensors");
  if (!source && !model.isBuiltIn) return [];
  return {
    id: model.id,
    name: model.title,
    summary: model.summary,
    url: source ? folder(source) : `./models/${model.name}/`,
    adapter: model.adapter && folder(model.adapter),
    weights: (source?.weights ?? null) as Weights | null,
    downloadBytes: source?.downloadBytes ?? null,
    isBuiltIn: model.isBuiltIn,
    canThink: model.canThink,
    licence: model.licence,
    note: model.note,
  };
});
