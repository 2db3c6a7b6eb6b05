/** Addresses of models: a folder, or a GGUF file. Owns how they are written and what they are called. */

/** True for the address of a GGUF file, which is a whole model; else it is a folder's. */
export function isGgufUrl(url: string): boolean {
  return /\.gguf$/i.test(new URL(url).pathname);
}

/** A GGUF file's address as it is, a folder's with a slash at the end, so that names are resolved inside it. */
export function modelUrl(absolute: string): string {
  return isGgufUrl(absolute) ? absolute : folderUrl(absolute);
}

/** With a slash at the end. */
export function folderUrl(absolute: string): string {
  const url = new URL(absolute);
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url.href;
}

/** What to call a model that has no other name. */
export function modelName(url: string): string {
  const parts = new URL(url).pathname.split("/");
  const last = isGgufUrl(url) ? parts.at(-1)?.replace(/\.gguf$/i, "") : parts.at(-2);
  return decodeURIComponent(last ?? "") || "model";
}

/**
 * All files of the model that a GGUF file belongs to, in order: itself, or the shards that its name
 * (`…-00001-of-00003.gguf`) tells of.
 */
export function shardUrls(url: string): string[] {
  const match = /^(.*)-(\d{5})-of-(\d{5})(\.gguf)$/i.exec(new URL(url).pathname);
  const count = Number(match?.[3] ?? 1);
  if (!match || count < 1) return [url];
  const [, stem, , total, end] = match;
  return Array.from({ length: count }, (_, i) => {
    const shard = new URL(url);
    shard.pathname = `${stem}-${String(i + 1).padStart(5, "0")}-of-${total}${end}`;
    return shard.href;
  });
}

/** The file's own name, without percent signs. */
export function fileName(url: string): string {
  return decodeURIComponent(new URL(url).pathname.split("/").at(-1) ?? "");
}
