/**
 * Firefox as a second engine, through WebDriver BiDi (https://w3c.github.io/webdriver-bidi/). Owns
 * starting and ending the browser and the few commands that the tests need; what a page does is the
 * test's. Playwright's own BiDi client asks for commands that the ESR does not have.
 *
 *   DELTAMEM_FIREFOX  the browser, by default /usr/bin/firefox-esr or firefox
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

// the one development environment for JavaScript is web/
const WebSocket = createRequire(new URL("../../web/package.json", import.meta.url))("ws");

const PREFERENCES = {
  "dom.webgpu.enabled": true,
  "dom.webgpu.workers.enabled": true,
  "gfx.webgpu.ignore-blocklist": true,
  // nothing but what the test asks for
  "app.normandy.enabled": false,
  "app.update.disabledForTesting": true,
  "browser.shell.checkDefaultBrowser": false,
  "datareporting.policy.dataSubmissionEnabled": false,
  "extensions.update.enabled": false,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "services.settings.server": "data:,",
  "toolkit.telemetry.enabled": false,
};

/** How long starting, and any command but a script, may take. */
const PATIENCE_MS = 60_000;

/** Where Firefox is, or null. */
export function firefoxPath() {
  const names = ["/usr/bin/firefox-esr", "/usr/bin/firefox"];
  return process.env.DELTAMEM_FIREFOX ?? names.find(existsSync) ?? null;
}

/** Starts Firefox with a profile of its own. */
export async function launchFirefox(executablePath) {
  const profile = await mkdtemp(join(tmpdir(), "deltamem-firefox-"));
  const lines = Object.entries(PREFERENCES).map(
    ([name, value]) => `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});`,
  );
  await writeFile(join(profile, "user.js"), lines.join("\n"));
  const child = spawn(
    executablePath,
    ["--headless", "--no-remote", "--profile", profile, "--remote-debugging-port=0"],
    { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, MOZ_CRASHREPORTER_DISABLE: "1" } },
  );
  const exited = new Promise((resolve) => child.once("exit", resolve));
  const removeProfile = () => rm(profile, { recursive: true, force: true, maxRetries: 5 });
  try {
    const address = await within(PATIENCE_MS, "Firefox to listen", listening(child));
    const connection = await Connection.open(`${address}/session`);
    await connection.send("session.new", { capabilities: {} });
    return new Firefox(connection, async () => {
      await connection.send("browser.close").catch(() => child.kill());
      await within(PATIENCE_MS, "Firefox to end", exited).catch(() => child.kill("SIGKILL"));
      await removeProfile();
    });
  } catch (error) {
    child.kill("SIGKILL");
    await exited;
    await removeProfile();
    throw error;
  }
}

/** The address that Firefox prints once it takes commands. */
function listening(child) {
  return new Promise((resolve, reject) => {
    let text = "";
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`Firefox ended with ${code}: ${text}`)));
    child.stderr.setEncoding("utf8").on("data", (piece) => {
      text = (text + piece).slice(-10_000);
      const [, address] = /WebDriver BiDi listening on (ws:\/\/\S+)/.exec(text) ?? [];
      if (address) resolve(address);
    });
  });
}

async function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms / 1000} s for ${what}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A running Firefox with one tab. */
class Firefox {
  /** Errors and warnings that pages wrote to the console, and errors that they did not catch. */
  complaints = [];
  #connection;
  #end;
  #context = null;

  constructor(connection, end) {
    this.#connection = connection;
    this.#end = end;
    connection.onEvent = ({ method, params }) => {
      if (method === "log.entryAdded" && ["error", "warn"].includes(params.level)) {
        this.complaints.push(params.text ?? "");
      }
    };
  }

  /** Opens a page in the tab and waits until it is loaded. */
  async goto(url) {
    if (this.#context === null) {
      await this.#connection.send("session.subscribe", { events: ["log.entryAdded"] });
      const { contexts } = await this.#connection.send("browsingContext.getTree", {});
      this.#context = contexts[0].context;
    }
    const context = this.#context;
    await this.#connection.send("browsingContext.navigate", { context, url, wait: "complete" });
  }

  /** Runs a function in the page; `argument` and what it resolves to are JSON. */
  async evaluate(action, argument = null) {
    const { type, result, exceptionDetails } = await this.#connection.send(
      "script.callFunction",
      {
        functionDeclaration:
          `async (argument) => JSON.stringify(await (${action})(JSON.parse(argument)) ?? null)`,
        awaitPromise: true,
        target: { context: this.#context },
        arguments: [{ type: "string", value: JSON.stringify(argument) }],
      },
      null,
    );
    if (type === "exception") throw new Error(`in the page: ${exceptionDetails.text}`);
    return JSON.parse(result.value);
  }

  /** Ends Firefox and removes its profile. */
  close() {
    return this.#end();
  }
}

/** Commands and their answers over one WebSocket. */
class Connection {
  onEvent = () => undefined;
  #socket;
  #waiting = new Map();
  #lastId = 0;

  static async open(address) {
    const socket = new WebSocket(address, { maxPayload: 64 << 20 });
    await within(PATIENCE_MS, "a connection to Firefox", new Promise((resolve, reject) => {
      socket.once("open", resolve);
      socket.once("error", reject);
    }));
    return new Connection(socket);
  }

  constructor(socket) {
    this.#socket = socket;
    socket.on("message", (data) => this.#take(JSON.parse(String(data))));
    socket.on("error", () => undefined); // "close" follows
    socket.on("close", () => {
      for (const { reject } of this.#waiting.values()) reject(new Error("Firefox is gone"));
      this.#waiting.clear();
    });
  }

  /** `patienceMs` null waits as long as it takes. */
  send(method, params = {}, patienceMs = PATIENCE_MS) {
    const id = (this.#lastId += 1);
    const answer = new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#socket.send(JSON.stringify({ id, method, params }));
    });
    return patienceMs === null ? answer : within(patienceMs, `Firefox to answer ${method}`, answer);
  }

  #take(message) {
    if (message.type === "event") {
      this.onEvent(message);
      return;
    }
    const waiting = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    if (message.type === "success") waiting?.resolve(message.result);
    else waiting?.reject(new Error(`Firefox refused: ${message.error}: ${message.message}`));
  }
}
