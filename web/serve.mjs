// Serves the built demo page on this machine, for looking at it: `./dev page [PORT]`.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const site = fileURLToPath(new URL("demo/dist/", import.meta.url));
const port = Number(process.argv[2] ?? 8080);
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};

const server = createServer(async (request, response) => {
  try {
    const path = normalize(decodeURI(new URL(request.url, "http://localhost").pathname));
    const name = path.endsWith("/") ? `${path}index.html` : path;
    const bytes = await readFile(join(site, name));
    response.writeHead(200, { "content-type": TYPES[extname(name)] ?? "application/octet-stream" });
    response.end(bytes);
  } catch {
    response.writeHead(404).end("not found");
  }
});
server.on("error", (error) => {
  console.error(`the page cannot be served on port ${port}: ${error.message}; try ./dev page PORT`);
  process.exitCode = 1;
});
server.listen(port, "localhost", () => {
  console.log(`the demo page: http://localhost:${port}/  (Ctrl-C ends)`);
});
