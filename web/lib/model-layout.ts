/**
 * Which files a model and an adapter consist of, in Hugging Face's layout or around a GGUF file, and
 * which of them a server has. Owns the names; small files are read whole, weights in pieces.
 */
import { DeltamemError } from "./errors.js";
import { type Net, NetworkError, type Remote, probe, readText } from "./http.js";
import { fileName, isGgufUrl, shardUrls } from "./model-address.js";

const WEIGHTS = "model.safetensors";
const INDEX = "model.safetensors.index.json";
const ADAPTER_CONFIG = "delta_mem_config.json";
/** In the order in which they are tried. */
const ADAPTER_WEIGHTS = ["delta_mem_adapter.safetensors", "delta_mem_adapter.pt"];
const REQUIRED = ["config.json", "tokenizer.json"];
const OPTIONAL = ["tokenizer_config.json", "chat_template.jinja", "generation_config.json"];
/** What comes before the same in a GGUF file. */
const BESIDE_GGUF = ["tokenizer.json", "chat_template.jinja", "generation_config.json"];
const MAX_SHARDS = 1 << 12;

/** What a folder is asked for. */
export interface Wanted {
  model: boolean;
  /** "optional" looks for an adapter beside the model. */
  adapter: "required" | "optional" | "none";
}

export interface NamedRemote extends Remote {
  name: string;
}

/** True for files that the model reads in pieces. */
export function isWeights(name: string): boolean {
  return /\.(safetensors|pt)$/.test(name) || isGguf(name);
}

/** True for names of GGUF files. */
export function isGguf(name: string): boolean {
  return /\.gguf$/i.test(name);
}

/**
 * Every file that is needed and there; `base` is a folder's address or a GGUF file's. Throws `network`,
 * naming the one that is missing.
 */
export async function discover(base: string, wanted: Wanted, net: Net): Promise<NamedRemote[]> {
  const [model, adapter] = await Promise.all([
    wanted.model ? (isGgufUrl(base) ? discoverGguf(base, net) : discoverModel(base, net)) : [],
    wanted.adapter === "none" ? [] : discoverAdapter(base, wanted.adapter === "required", net),
  ]);
  return [...model, ...adapter];
}

async function discoverModel(base: string, net: Net): Promise<NamedRemote[]> {
  const others = Promise.all([
    Promise.all(OPTIONAL.map((name) => find(base, name, net))),
    discoverWeights(base, net),
  ]);
  // What is wrong with a required file says more than what follows from it.
  others.catch(() => undefined);
  const required = await Promise.all(REQUIRED.map((name) => need(base, name, net)));
  const [optional, weights] = await others;
  return [...required, ...optional.filter((file) => file !== null), ...weights];
}

/** The file or all its shards, and what lies beside it. */
async function discoverGguf(url: string, net: Net): Promise<NamedRemote[]> {
  const shards = shardUrls(url);
  if (shards.length > MAX_SHARDS) {
    throw new DeltamemError("format", `${url}: ${shards.length} shards are too many.`);
  }
  const beside = Promise.all(BESIDE_GGUF.map((name) => find(url, name, net)));
  // What is wrong with the model itself says more.
  beside.catch(() => undefined);
  const weights = await Promise.all(
    shards.map(async (shard) => ({ ...(await needUrl(shard, net)), name: fileName(shard) })),
  );
  return [...weights, ...(await beside).filter((file) => file !== null)];
}

/** The single file or, if there is none, the shards that the index lists, and the index. */
async function discoverWeights(base: string, net: Net): Promise<NamedRemote[]> {
  const single = await find(base, WEIGHTS, net);
  if (single) return [single];
  const index = await find(base, INDEX, net);
  if (!index) {
    throw new DeltamemError("network", `${base} has neither ${WEIGHTS} nor ${INDEX}.`);
  }
  const shards = shardNames(await readText(index, net), index.url);
  return [index, ...(await Promise.all(shards.map((name) => need(base, name, net))))];
}

async function discoverAdapter(
  base: string,
  isRequired: boolean,
  net: Net,
): Promise<NamedRemote[]> {
  const config = await (isRequired ? need : find)(base, ADAPTER_CONFIG, net);
  if (!config) return [];
  for (const name of ADAPTER_WEIGHTS) {
    const weights = await find(base, name, net);
    if (weights) return [config, weights];
  }
  throw new DeltamemError(
    "network",
    `${base} has ${ADAPTER_CONFIG}, but neither ${ADAPTER_WEIGHTS.join(" nor ")}.`,
  );
}

/** The files that an index lists, each a plain name beside it. */
function shardNames(index: string, url: string): string[] {
  const bad = (reason: string) => new DeltamemError("format", `${url}: ${reason}.`);
  let map: unknown;
  try {
    map = (JSON.parse(index) as { weight_map?: unknown } | null)?.weight_map;
  } catch (cause) {
    throw bad(`not valid JSON: ${String(cause)}`);
  }
  if (typeof map !== "object" || map === null) throw bad("there is no `weight_map`");
  const names = [...new Set(Object.values(map as Record<string, unknown>))].sort();
  if (names.length > MAX_SHARDS) throw bad(`${names.length} shards are too many`);
  return names.map((name) => {
    const isPlain = typeof name === "string" && /^[^./\\:%?#][^/\\:%?#]*\.safetensors$/.test(name);
    if (!isPlain) throw bad(`${JSON.stringify(name)} is not a safetensors file beside it`);
    return name;
  });
}

async function find(base: string, name: string, net: Net): Promise<NamedRemote | null> {
  try {
    const remote = await probe(new URL(name, base).href, net);
    return remote && { ...remote, name };
  } catch (error) {
    // Buckets that do not list their files answer so for those that are not there.
    if (error instanceof NetworkError && error.status === 403) return null;
    throw error;
  }
}

async function need(base: string, name: string, net: Net): Promise<NamedRemote> {
  return { ...(await needUrl(new URL(name, base).href, net)), name };
}

async function needUrl(url: string, net: Net): Promise<Remote> {
  const remote = await probe(url, net);
  if (remote) return remote;
  throw new NetworkError(url, 404, "answered 404: it is not there");
}
