/** The memory panel: pictures and numbers of the states, what was written, what a person can do. */
import type {
  Gauge,
  LanguageModel,
  LedgerEntry,
  LedgerKind,
  MemoryInfo,
  SnapshotInfo,
} from "../../lib/index.js";
import { ask } from "./dialogs.js";
import { button, element, input, node, showText, textButton } from "./dom.js";
import { count, fileName, shortTime } from "./format.js";
import { HeatMap } from "./heat-map.js";
import { currentPhase, errorCode, onPhase, showError, toast, work } from "./page.js";
import type { SessionHost } from "./session-host.js";

/** Turns in the ledger, newest first. */
const SHOWN_ENTRIES = 50;
const ACTIONS = ["undo", "pause", "write", "branch", "export", "import", "protect", "forget"] as const;
/** They change the memory, or the profile that another tab writes to. */
const WRITES: ReadonlySet<string> = new Set(["undo", "write", "import", "protect", "forget"]);
/** They make no sense where nothing is stored. */
const STORED_ONLY: ReadonlySet<string> = new Set(["branch", "protect"]);

/** What a line of the ledger is, where it is no turn. */
const KINDS: Record<LedgerKind, string> = {
  turn: "turn",
  append: "read",
  write: "written",
  import: "import of a file",
  restore: "earlier state restored",
};

export interface PanelEvents {
  onForgotten(): void;
  /** A turn that was in the conversation has been taken back. */
  onUndone(): void;
  branch(profile: string): Promise<void>;
  isTaken(profile: string): Promise<boolean>;
}

export class MemoryPanel {
  readonly #host: SessionHost;
  readonly #events: PanelEvents;
  readonly #map = new HeatMap(node("states"));

  constructor(host: SessionHost, events: PanelEvents) {
    this.#host = host;
    this.#events = events;
    const onClick = (id: string, job: (session: LanguageModel) => Promise<unknown>) =>
      button(id).addEventListener("click", () => {
        const { session } = host;
        if (session) void job(session).catch(showError);
      });
    onClick("undo", (session) => work(() => this.#undo(session)));
    onClick("pause", ({ memory }) =>
      work(() => (memory.paused ? memory.resume() : memory.pause())),
    );
    onClick("write", (session) => this.#write(session));
    onClick("branch", () => this.#branch());
    onClick("export", (session) => this.#export(session));
    onClick("protect", (session) => this.#protect(session));
    onClick("forget", (session) => this.#forget(session));

    const file = input("file");
    button("import").addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      const chosen = file.files?.[0];
      file.value = ""; // so that the same file can be chosen again
      if (chosen && host.session) void this.#import(host.session, chosen);
    });
    onPhase(() => this.showRights());
  }

  redraw(): void {
    this.#map.redraw();
  }

  /** Reads the memory again and shows it. */
  async refresh(): Promise<void> {
    this.showRights();
    const { session } = this.#host;
    if (!session || session.model.identity === null) return this.#showNothing();
    const { memory } = session;
    const [info, states, ledger, snapshots] = await Promise.all([
      memory.info(),
      memory.states(),
      memory.ledger(),
      memory.snapshots(),
    ]);
    if (this.#host.session !== session) return;
    this.showRights();
    showNumbers(info);
    const gauges = info.layers.map(({ layer }) => this.#gauge(layer));
    this.#map.show(states, info.layers.map(({ norm }) => norm), gauges);
    showLayers(info, gauges);
    node("gauges-caption").hidden = gauges.every((gauge) => gauge === null);
    node("scale").hidden = this.#map.largest === 0;
    node("scale-low").textContent = `−${this.#map.largest.toPrecision(2)}`;
    node("scale-high").textContent = `+${this.#map.largest.toPrecision(2)}`;
    showLedger(ledger);
    this.#showSnapshots(snapshots);
  }

  /** What may be pressed now, and what kind of memory this is. */
  showRights(): void {
    const { session } = this.#host;
    const isReady = currentPhase() === "ready";
    const hasMemory = session !== null && session.model.identity !== null;
    const isReadOnly = session?.memory.readOnly ?? false;
    const isEphemeral = session?.memory.ephemeral ?? false;
    for (const id of ACTIONS) {
      const isAllowed =
        !(isReadOnly && WRITES.has(id)) && !(isEphemeral && STORED_ONLY.has(id));
      button(id).disabled = !isReady || !hasMemory || !isAllowed;
    }
    for (const each of node("snapshots").querySelectorAll("button")) {
      each.disabled = !isReady || isReadOnly;
    }
    const isPaused = session?.memory.paused ?? false;
    button("pause").setAttribute("aria-pressed", String(isPaused));
    showText(node("persistence"), session === null ? null : persistence(session));
    const badges: string[] = [];
    if (session && !hasMemory) badges.push("no adapter");
    if (isReadOnly) badges.push("read-only");
    if (isPaused) badges.push("paused");
    if (this.#host.isTemporary) badges.push("temporary");
    else if (hasMemory) {
      const place = session.isOnServer ? "kept by the server" : "kept in this browser";
      badges.push(isEphemeral ? "not stored" : place);
    }
    if (session?.memory.encrypted) badges.push("encrypted");
    node("badges").replaceChildren(...badges.map((text) => element("span", "badge", text)));
    showText(
      node("memory-note"),
      session && !hasMemory
        ? "This model runs without a δ-mem adapter, so it has no memory. Give it one under Models, or choose a model that has one."
        : null,
    );
  }

  #gauge(layer: number): Gauge | null {
    return this.#host.lastTurn?.gauges?.find((gauge) => gauge.layer === layer) ?? null;
  }

  #showNothing(): void {
    for (const id of ["norm", "generation", "turns", "tokens"]) node(id).textContent = "–";
    showText(node("toggle-norm"), null);
    this.#map.clear();
    node("scale").hidden = true;
    node("gauges-caption").hidden = true;
    node("layer-rows").replaceChildren();
    showLedger([]);
    this.#showSnapshots([]);
  }

  // ---- what a person can do -----------------------------------------------------------------------

  async #undo({ memory }: LanguageModel): Promise<void> {
    // A text or an import can be undone too; then no turn leaves the conversation.
    const before = await memory.ledger();
    await memory.undo();
    const after = await memory.ledger();
    const isTurn = before.at(-1)?.kind === "turn" && after.length < before.length;
    if (isTurn) this.#events.onUndone();
    else toast("The last change of the memory was taken back.");
  }

  async #write({ memory }: LanguageModel): Promise<void> {
    const answer = await ask({
      title: "Write into the memory",
      text: "The model reads this text and keeps what it can of it. The conversation does not show it, and its context does not grow. Short texts that are full of facts work best.",
      ok: "Write",
      fields: [{ name: "text", label: "Text", type: "area", isRequired: true, maxLength: 20_000 }],
    });
    const text = answer?.["text"]?.trim();
    if (!text) return;
    if (await work(() => memory.write(text))) toast("Written into the memory.");
  }

  async #branch(): Promise<void> {
    const answer = await ask({
      title: "Branch this memory",
      text: "Memory and conversation are copied into a new profile, and you go on there. This profile stays as it is.",
      ok: "Branch",
      fields: [{ name: "name", label: "Name of the new profile", type: "text", isRequired: true, maxLength: 60 }],
    });
    const name = answer?.["name"]?.trim();
    if (!name) return;
    if (await this.#events.isTaken(name)) {
      toast(`There is a profile “${name}” already.`, { isBad: true });
      return;
    }
    await work(() => this.#events.branch(name));
  }

  async #export({ memory, model }: LanguageModel): Promise<void> {
    const answer = await ask({
      title: "Export the memory",
      text: "A small file that the native program and other browsers can read. It can still encode what you said: keep it as you would keep a diary.",
      ok: "Export",
      fields: [
        {
          name: "passphrase",
          label: "Passphrase (optional)",
          type: "password",
          hint: "With one, nobody can read the file who does not know it; if you lose it, nobody can.",
        },
      ],
    });
    if (!answer) return;
    const passphrase = answer["passphrase"];
    await work(async () => {
      const file = await (passphrase ? memory.export({ passphrase }) : memory.export());
      save(file, `${fileName(model.name)}-${new Date().toISOString().slice(0, 10)}.dmem`);
    });
  }

  async #import({ memory }: LanguageModel, file: File): Promise<void> {
    let isLocked = false;
    const worked = await work(async () => {
      try {
        await memory.import(file);
      } catch (error) {
        isLocked = errorCode(error) === "passphrase";
        if (!isLocked) throw error;
      }
    });
    if (worked && !isLocked) toast("Imported. Undo takes it back.");
    if (!isLocked) return;
    const answer = await ask({
      title: "This file is protected",
      text: `“${file.name}” was exported with a passphrase.`,
      ok: "Import",
      fields: [{ name: "passphrase", label: "Passphrase", type: "password", isRequired: true }],
    });
    const passphrase = answer?.["passphrase"];
    if (!passphrase) return;
    const opened = await work(() => memory.import(file, { passphrase }));
    if (opened) toast("Imported. Undo takes it back.");
  }

  async #protect({ memory }: LanguageModel): Promise<void> {
    const isNew = !memory.encrypted;
    const answer = await ask({
      title: isNew ? "Protect this profile" : "Change the passphrase",
      text: "Memory, earlier states and what was said are encrypted before they are stored. It protects them from whoever gets hold of this device's files, not from someone who uses this page while it is open. If you lose the passphrase, they are lost.",
      ok: isNew ? "Protect" : "Change",
      fields: [
        {
          name: "passphrase",
          label: "New passphrase",
          type: "password",
          isRequired: isNew,
          ...(!isNew && { hint: "Leave it empty to store without encryption again." }),
        },
        { name: "again", label: "Once more", type: "password", isRequired: isNew },
      ],
    });
    if (!answer) return;
    const passphrase = answer["passphrase"] ?? "";
    if (passphrase !== answer["again"]) {
      toast("The two passphrases differ; nothing was changed.", { isBad: true });
      return;
    }
    const worked = await work(async () => {
      await memory.setPassphrase(passphrase || null);
      this.#host.keepPassphrase(passphrase || undefined);
    });
    if (worked) toast(passphrase ? "This profile is stored encrypted." : "This profile is stored without encryption.");
  }

  async #forget({ memory }: LanguageModel): Promise<void> {
    const answer = await ask({
      title: "Forget everything?",
      text: `The states, all earlier states and the whole conversation of the profile “${this.#host.profile}” are deleted. This cannot be undone.`,
      ok: "Forget",
      cancel: "Keep it",
      isDangerous: true,
    });
    if (!answer) return;
    const worked = await work(async () => {
      await memory.forget();
      this.#events.onForgotten();
    });
    if (worked) toast("Forgotten.");
  }

  #showSnapshots(snapshots: SnapshotInfo[]): void {
    const items = snapshots.map(({ generation, savedMs, norm }) => {
      const restore = textButton("Restore", "small", () => {
        const { session } = this.#host;
        if (!session) return;
        void work(() => session.memory.restore(generation)).then((worked) => {
          if (worked) toast(`The memory is as it was in generation ${generation}.`);
        });
      });
      restore.setAttribute("aria-label", `Restore generation ${generation}`);
      const text = generation === 0 ? "empty" : `generation ${generation} · ${shortTime(savedMs)}`;
      return element(
        "li",
        "",
        element("span", "", text),
        element("span", "soft", `‖S‖ ${norm.toFixed(2)}`),
        restore,
      );
    });
    node("snapshots").replaceChildren(...items);
    node("snapshots-empty").hidden = items.length > 0;
    this.showRights();
  }
}

function persistence(session: LanguageModel): string | null {
  if (session.isPersisted === null) return null;
  return session.isPersisted
    ? "The browser promised to keep the memory until you delete it."
    : "The browser did not promise to keep the memory when storage gets short: export what you want to keep.";
}

function showNumbers(info: MemoryInfo): void {
  node("norm").textContent = info.norm.toFixed(3);
  node("generation").textContent = String(info.generation);
  node("turns").textContent = count(info.counters.turns);
  node("tokens").textContent = count(info.counters.tokensWritten);
  showText(node("toggle-norm"), info.norm.toFixed(2));
}

function showLayers(info: MemoryInfo, gauges: (Gauge | null)[]): void {
  const number = (text: string) => element("td", "number", text);
  const rows = info.layers.map(({ layer, norm }, index) => {
    const gauge = gauges[index];
    const head = element("th", "", String(layer));
    head.scope = "row";
    return element(
      "tr",
      "",
      head,
      number(norm.toFixed(3)),
      number(gauge ? gauge.beta.toFixed(3) : "–"),
      number(gauge?.outputRatio === null || !gauge ? "–" : gauge.outputRatio.toFixed(3)),
    );
  });
  node("layer-rows").replaceChildren(...rows);
}

function showLedger(entries: LedgerEntry[]): void {
  const rows = entries
    .slice(-SHOWN_ENTRIES)
    .reverse()
    .map((entry) => {
      const text = entry.prompt || KINDS[entry.kind];
      const said = element("td", "said", text);
      said.title = text;
      if (entry.prompt && entry.kind !== "turn") {
        said.prepend(element("span", "badge", KINDS[entry.kind]), " ");
      }
      return element(
        "tr",
        "",
        element("td", "", shortTime(entry.savedMs)),
        said,
        element("td", "number", String(entry.tokensWritten)),
        element("td", "number", `${entry.normBefore.toFixed(2)} → ${entry.normAfter.toFixed(2)}`),
      );
    });
  node("ledger").replaceChildren(...rows);
  node("ledger-empty").hidden = rows.length > 0;
}

function save(file: Blob, name: string): void {
  const link = element("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  // The download reads the address after this task.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
