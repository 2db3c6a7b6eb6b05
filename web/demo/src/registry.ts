/**
 * The models that the page offers: those of models/registry.json, which the native program reads too.
 * Owns how an entry of it becomes one of the page's list: a model's first source, as in the program.
 */
import type { Weights } from "../../lib/index.js";
import registry from "../../../models/registry.json";

export interface ModelEntry {
  id: string;
  name: string;
  summary: string;
  /** A folder in Hugging Face's layout, or a GGUF file; may be relative to the page. */
  url: string;
  /** Hashes of files by name, where they are known. */
  sha256?: Record<string, string>;
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

interface Source extends Repository {
  format: string;
  weights: Weights | null;
  downloadBytes: number;
  files: { name: string; sha256: string | null }[];
}

const HUB = "https://huggingface.co";

/** Where the files of a repository are; of the newest revision if no other is known. */
function folder({ repo, revision }: Repository): string {
  return `${HUB}/${repo}/resolve/${revision ?? "main"}/`;
}

/** Of a source: its folder, or the GGUF file that it names. */
function address(source: Source): string | null {
  if (source.format === "safetensors") return folder(source);
  const [file] = source.files;
  return source.format === "gguf" && file ? folder(source) + encodeURIComponent(file.name) : null;
}

export const LISTED: ModelEntry[] = registry.models.flatMap((model) => {
  const [source] = model.sources as Source[];
  const url = model.isBuiltIn ? `./models/${model.name}/` : source ? address(source) : null;
  if (url === null) return [];
  const hashes = (source?.files ?? []).flatMap(({ name, sha256 }) => (sha256 ? [[name, sha256]] : []));
  return {
    id: model.id,
    name: model.title,
    summary: model.summary,
    url,
    sha256: Object.fromEntries(hashes) as Record<string, string>,
    adapter: model.adapter && folder(model.adapter),
    weights: source?.weights ?? null,
    downloadBytes: source?.downloadBytes ?? null,
    isBuiltIn: model.isBuiltIn,
    canThink: model.canThink,
    licence: model.licence,
    note: model.note,
  };
});
