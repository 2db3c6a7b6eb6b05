// Serves the built demo page on this machine, for looking at it: `./dev page [PORT]`. The page's test
// uses the same server.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

/** The built page. */
export const SITE = fileURLToPath(new URL("demo/dist/", import.meta.url));

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};

/** A server of the files below SITE, at the path `base`, which begins and ends with a slash. */
export function siteServer(base = "/") {
  return createServer(async (request, response) => {
    try {
      const path = decodeURI(new URL(request.url, "http://localhost").pathname);
      const name = normalize(path.slice(base.length) || "index.html");
      if (!path.startsWith(base) || name.startsWith("..")) throw new Error("outside the site");
      const bytes = await readFile(join(SITE, name));
      const type = TYPES[extname(name)] ?? "application/octet-stream";
      response.writeHead(200, { "content-type": type, "content-length": bytes.length });
      response.end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const port = Number(process.argv[2] ?? 8080);
  const server = siteServer();
  server.on("error", (error) => {
    console.error(`the page cannot be served on port ${port}: ${error.message}; try ./dev page PORT`);
    process.exitCode = 1;
  });
  server.listen(port, "localhost", () => {
    console.log(`the demo page: http://localhost:${port}/  (Ctrl-C ends)`);
  });
}
