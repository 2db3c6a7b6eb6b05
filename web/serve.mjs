/**
 * Serves the built demo page on this machine, for looking at it: `./dev demo [PORT]`. The page's test
 * uses the same server. Static files only, and only for this machine.
 */
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** The built page. */
export const SITE = fileURLToPath(new URL("demo/dist/", import.meta.url));
const DEFAULT_PORT = 8080;
/** Ports that are tried, from the wanted one on. */
const TRIED_PORTS = 20;

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".map": "application/json",
  ".webmanifest": "application/manifest+json",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".wasm": "application/wasm",
};

/** A server of the files below `site`, at the path `base`, which begins and ends with a slash. */
export function siteServer(base = "/", site = SITE) {
  return createServer(async (request, response) => {
    try {
      if (!isFromHere(request)) return void response.writeHead(403).end();
      if (request.method !== "GET" && request.method !== "HEAD") {
        return void response.writeHead(405, { allow: "GET, HEAD" }).end();
      }
      const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
      const name = normalize(path.slice(base.length) || "index.html");
      const isOutside = !path.startsWith(base) || name === ".." || name.startsWith(`..${sep}`);
      if (isOutside) throw new Error("outside the site");
      send(request, response, name, await readFile(join(site, name)));
    } catch {
      response.writeHead(404, { "content-type": "text/plain" }).end("not found\n");
    }
  });
}

/** A page of another name that points to this machine must not read from it. */
function isFromHere({ headers }) {
  return /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/.test(headers.host ?? "");
}

function send(request, response, name, bytes) {
  const etag = `"${createHash("sha256").update(bytes).digest("hex").slice(0, 32)}"`;
  const headers = {
    "content-type": TYPES[extname(name)] ?? "application/octet-stream",
    // Names in assets/ carry the hash of what is in them.
    "cache-control": /^assets[/\\]/.test(name) ? "public, max-age=31536000, immutable" : "no-cache",
    "x-content-type-options": "nosniff",
    "accept-ranges": "bytes",
    etag,
  };
  if (request.headers["if-none-match"] === etag) return void response.writeHead(304, headers).end();
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
  let [status, part] = [200, bytes];
  if (range) {
    const first = Number(range[1]);
    const last = Math.min(range[2] ? Number(range[2]) : bytes.length - 1, bytes.length - 1);
    if (first > last) {
      return void response.writeHead(416, { "content-range": `bytes */${bytes.length}` }).end();
    }
    [status, part] = [206, bytes.subarray(first, last + 1)];
    headers["content-range"] = `bytes ${first}-${last}/${bytes.length}`;
  }
  response.writeHead(status, { ...headers, "content-length": part.length });
  response.end(request.method === "HEAD" ? undefined : part);
}

/** Listens on the first free port from `port` on; gives that port. */
export async function listen(server, port) {
  for (let tried = port; tried < port + TRIED_PORTS; tried += 1) {
    const error = await new Promise((resolve) => {
      server.once("error", resolve);
      server.listen(tried, "localhost", () => {
        server.off("error", resolve);
        resolve(null);
      });
    });
    if (!error) return server.address().port;
    if (error.code !== "EADDRINUSE") throw error;
  }
  throw new Error(`ports ${port} to ${port + TRIED_PORTS - 1} are taken`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const wanted = process.argv[2] ?? String(DEFAULT_PORT);
  try {
    if (!/^\d{1,5}$/.test(wanted)) throw new Error(`\`${wanted}\` is no port number`);
    await readFile(join(SITE, "index.html")).catch(() => {
      throw new Error("it is not built yet; run `npm run build --prefix web`");
    });
    const port = await listen(siteServer(), Number(wanted));
    console.log(`the demo page: http://localhost:${port}/  (Ctrl-C ends)`);
  } catch (error) {
    console.error(`the demo page cannot be served: ${error.message}`);
    process.exitCode = 1;
  }
}
