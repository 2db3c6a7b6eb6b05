/**
 * What the tests in browsers share: Debian's Chromium with WebGPU on SwiftShader, and a server of
 * folders on this machine.
 *
 *   DELTAMEM_CHROMIUM  the browser, by default /usr/bin/chromium
 *   DELTAMEM_BIN       the native program, by default what `cargo run` builds
 */
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";

// the one development environment for JavaScript is web/
const { chromium } = createRequire(new URL("../../web/package.json", import.meta.url))("playwright-core");

/** The top of the repository. */
export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** A software adapter on a busy machine is slow. */
export const PATIENCE_MS = 120_000;

export { NANO_FILES as MODEL_FILES } from "../../web/nano-files.mjs";

/** How Playwright starts Chromium: without network of its own, WebGPU on a software adapter. */
export const LAUNCH = {
  executablePath: process.env.DELTAMEM_CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
  ],
};

/** Chromium without a profile. */
export const launchChromium = () => chromium.launch(LAUNCH);

/** Chromium with its profile in `folder`; a context of Playwright's. */
export const launchProfile = (folder) => chromium.launchPersistentContext(folder, LAUNCH);

/**
 * A page of a browser context; `complaints` collects console errors and warnings and uncaught
 * errors.
 */
export async function openPage(context, address, complaints = []) {
  const page = await context.newPage();
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.setDefaultTimeout(PATIENCE_MS);
  await page.goto(address);
  return page;
}

/** What the native program prints, with its stored memories below `home`. */
export function program(home, ...args) {
  const built = process.env.DELTAMEM_BIN;
  const cargo = ["run", "--quiet", "--bin", "deltamem", "--"];
  return execFileSync(built ?? "cargo", built ? args : [...cargo, ...args], {
    cwd: ROOT,
    encoding: "utf8",
    maxBuffer: 64 << 20,
    env: { ...process.env, DELTAMEM_DATA_DIR: join(home, "data") },
    stdio: ["ignore", "pipe", "inherit"],
  });
}

const TYPES = {
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
  ".json": "application/json",
};

/**
 * Serves an empty page at `/` and, below `/NAME/`, the files of `folders.NAME`; resolves to the
 * address, without a slash at its end, and a function that ends it. `headers` come with every file.
 */
export async function serve(folders, headers = {}) {
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    if (pathname === "/") {
      response.setHeader("content-type", "text/html");
      response.end('<!doctype html><title>test</title><link rel="icon" href="data:,">');
      return;
    }
    const [, name, path] = /^\/([\w-]+)\/([\w.-]+(?:\/[\w.-]+)*)$/.exec(pathname) ?? [];
    try {
      if (!Object.hasOwn(folders, name ?? "") || path.split("/").includes("..")) throw new Error();
      const bytes = await readFile(join(folders[name], path));
      response.setHeader("content-type", TYPES[extname(path)] ?? "application/octet-stream");
      response.setHeader("content-length", bytes.length);
      for (const [header, value] of Object.entries(headers)) response.setHeader(header, value);
      response.end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `http://127.0.0.1:${server.address().port}`,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}
