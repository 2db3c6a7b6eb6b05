/**
 * A `deltamem serve` for tests: the built-in model on the CPU twin, with data in a folder of its own that
 * outlives the server.
 *
 *   DELTAMEM_BIN  the program, by default what `cargo run` builds
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

export class Server {
  #home;
  #more;
  #token;
  #child;
  #ended;
  address;

  /** Starts one and waits until it listens; `more` are arguments. */
  static async begin({ token = "", more = [] } = {}) {
    const server = new Server();
    server.#home = await mkdtemp(join(tmpdir(), "deltamem-serve-"));
    server.#more = more;
    server.#token = token;
    await server.#start("0");
    return server;
  }

  async #start(port) {
    const built = process.env.DELTAMEM_BIN;
    const options = ["serve", "--cpu", "--port", port, ...this.#more];
    const args = built ? options : ["run", "--quiet", "--bin", "deltamem", "--", ...options];
    const child = spawn(built ?? "cargo", args, {
      cwd: ROOT,
      env: { ...process.env, DELTAMEM_DATA_DIR: join(this.#home, "data"), DELTAMEM_TOKEN: this.#token },
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.#child = child;
    this.#ended = new Promise((resolve) => child.once("exit", resolve));
    for await (const line of createInterface({ input: child.stdout })) {
      this.address = /^listening on (http:\S+)$/.exec(line)?.[1];
      if (this.address) return;
    }
    throw new Error("the server did not start");
  }

  /** Ends it as a service manager does, and starts another with the same data at the same address. */
  async restart() {
    const { port } = new URL(this.address);
    this.#child.kill("SIGTERM");
    assert.equal(await this.#ended, 0);
    await this.#start(port);
  }

  /** Ends it, and its data. */
  async end() {
    this.#child.kill("SIGKILL");
    await this.#ended;
    await rm(this.#home, { recursive: true, force: true });
  }
}
