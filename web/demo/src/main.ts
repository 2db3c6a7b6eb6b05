/** The demo page: makes its parts and joins them; opens models and profiles when a person asks. */
import { ask, startDialogs } from "./dialogs.js";
import { button, node, showText } from "./dom.js";
import { percent, sentence } from "./format.js";
import { Chat } from "./chat.js";
import { MemoryPanel } from "./memory-panel.js";
import { ModelsDialog, type OnProgress } from "./models-dialog.js";
import { startOffline } from "./offline.js";
import {
  banner,
  currentPhase,
  describeError,
  errorCode,
  onPhase,
  setBeforeReady,
  setPhase,
  showError,
  toast,
  whenIdle,
  work,
} from "./page.js";
import { ProfilesDialog } from "./profiles-dialog.js";
import { isServed, serverToken, startServed } from "./server.js";
import { SessionHost } from "./session-host.js";
import { Settings, type ModelEntry } from "./settings.js";
import { startSidePanel } from "./side-panel.js";
import { startTheme } from "./theme.js";

/** Another session is shown that goes on with what is on the page. */
let isConversationKept = false;
let wasReadOnly = false;

const settings = new Settings();
const host = new SessionHost();
const chat = new Chat(host);
const panel = new MemoryPanel(host, {
  onForgotten: () => chat.showForgotten(),
  onUndone: () => chat.showUndone(),
  async branch(profile) {
    isConversationKept = true;
    try {
      await host.branch(profile);
    } finally {
      isConversationKept = false;
    }
    if (host.model) settings.choose(host.model, profile);
    chat.note(`You are in the new profile “${profile}” now. The other one stays as it was.`);
  },
  isTaken: (profile) => profiles.isTaken(profile),
});
const models = new ModelsDialog(settings, {
  use: (model, signal, onProgress) => open(model, settings.profile, { signal, onProgress }),
  current: () => host.model?.id ?? null,
});
const profiles = new ProfilesDialog(host, settings, {
  use: (profile) => openFirst(settings.model, profile),
});

startDialogs();
startTheme(() => panel.redraw());
startSidePanel();
startActions();
startServed();
host.addEventListener("session", () => void showSession().catch(showError));
host.addEventListener("state", () => {
  showState();
  // Between a person's own actions another tab may have written.
  if (currentPhase() === "ready") void panel.refresh().catch(showError);
});
setBeforeReady(() => panel.refresh());
host.addEventListener("device", (event) => {
  if ((event as CustomEvent<string>).detail === "lost") {
    banner("device", "The GPU was reset. The model is put back on it…");
  } else {
    banner("device", null);
    toast("The GPU was reset; model, memory and conversation are restored.");
  }
});
onPhase((phase) => {
  const isReady = phase === "ready";
  button("ephemeral").disabled = !isReady;
  button("new-context").disabled = !isReady;
  button("open-profiles").disabled = phase === "replying" || phase === "working";
});
void openFirst(settings.model, settings.profile).finally(() => {
  if (!isServed) void startOffline();
});

// ---- opening ----------------------------------------------------------------------------------------

/** Opens a model where nothing else can be done meanwhile; what goes wrong is said in its place. */
async function openFirst(model: ModelEntry, profile: string): Promise<void> {
  if (host.session) await whenIdle();
  host.close();
  setPhase("loading");
  node("failure").hidden = true;
  node("loading").hidden = false;
  node("messages").replaceChildren();
  node("welcome").hidden = false;
  node("model-name").textContent = `${model.name}…`;
  node("profile-name").textContent = profile;
  try {
    await open(model, profile, {
      onProgress(stage, loaded) {
        const label = stage === "download" ? "Getting the model’s files" : "Putting the weights on the GPU";
        node("progress-label").textContent = `${label}: ${percent(loaded)}`;
        (node("progress") as HTMLProgressElement).value = loaded;
      },
    });
  } catch (error) {
    setPhase("failed");
    node("model-name").textContent = "No model";
    showText(node("failure-text"), describeError(error));
    node("failure").hidden = false;
    button("failure-retry").onclick = () => void openFirst(model, profile);
  } finally {
    node("loading").hidden = true;
  }
}

interface OpenWish {
  signal?: AbortSignal;
  onProgress: OnProgress;
}

/** Loads a model and shows it when nothing is under way; asks for the passphrase where one is needed. */
async function open(model: ModelEntry, profile: string, wish: OpenWish): Promise<void> {
  let passphrase = host.passphraseOf(profile);
  const before = host.model;
  // Two large models do not fit on one GPU; the built-in one is in nobody's way.
  if (before && host.session && !before.isBuiltIn) {
    await whenIdle();
    host.close();
    setPhase("loading");
  }
  try {
    for (;;) {
      try {
        const session = await host.prepare(model, profile, {
          passphrase,
          ...wish,
          onProgress(stage, loaded) {
            if (host.session) node("model-name").textContent = `${model.name} ${percent(loaded)}`;
            wish.onProgress(stage, loaded);
          },
        });
        await whenIdle();
        await host.adopt(session, model, profile, passphrase);
        settings.choose(model, profile);
        return;
      } catch (error) {
        if (errorCode(error) === "invalid_api_key") {
          const token = await askToken();
          if (token === undefined) throw error;
          serverToken.set(token);
          continue;
        }
        if (errorCode(error) !== "passphrase") throw error;
        passphrase = await askPassphrase(profile, passphrase !== undefined);
        if (passphrase === undefined) throw error;
      }
    }
  } catch (error) {
    if (host.session) showState();
    // The session of before is gone: the built-in model takes its place.
    else if (before && before.id !== model.id) void openFirst(settings.builtIn, profile);
    throw error;
  }
}

async function askPassphrase(profile: string, isAgain: boolean): Promise<string | undefined> {
  const answer = await ask({
    title: `Unlock “${profile}”`,
    text: isAgain
      ? "That was not the passphrase of this profile."
      : "This profile is stored encrypted. Its passphrase is kept only as long as this page is open.",
    ok: "Unlock",
    fields: [{ name: "passphrase", label: "Passphrase", type: "password", isRequired: true }],
  });
  return answer?.["passphrase"] || undefined;
}

async function askToken(): Promise<string | undefined> {
  const answer = await ask({
    title: "This server wants its token",
    text: "It is what the server was started with. It is kept until this tab closes.",
    ok: "Go on",
    fields: [{ name: "token", label: "Token", type: "password", isRequired: true }],
  });
  return answer?.["token"] || undefined;
}

// ---- what is shown ----------------------------------------------------------------------------------

async function showSession(): Promise<void> {
  const { session } = host;
  if (!session) return;
  showState();
  if (!isConversationKept) await chat.showSession(session);
  await panel.refresh();
  if (host.session !== session) return;
  if (currentPhase() === "loading" || currentPhase() === "failed") setPhase("ready");
  chat.showState();
  if (!document.querySelector("dialog[open]")) chat.focus();
}

function showState(): void {
  const { session, model } = host;
  if (!session || !model) return;
  node("model-name").textContent = model.name;
  button("open-models").title = `${session.model.weights} weights on ${session.model.adapter || "a GPU without a name"}${isServed ? ", on the server" : ""}`;
  node("profile-name").textContent = host.profile;
  button("ephemeral").setAttribute("aria-pressed", String(host.isTemporary));
  document.body.dataset["temporary"] = String(host.isTemporary);
  const { memory } = session;
  banner("model", session.model.notice ? sentence(session.model.notice) : null, {
    ...(!isServed && { action: { label: "Other models", run: () => models.open() } }),
  });
  banner("weights", session.weightsNotice);
  banner("memory", memory.notice);
  banner(
    "read-only",
    memory.readOnly
      ? "Another tab writes to this memory; here it is only read. Close that tab, and this one takes over."
      : null,
  );
  if (wasReadOnly && !memory.readOnly) toast("The other tab is gone: this one writes to the memory now.");
  wasReadOnly = memory.readOnly;
  chat.showState();
  panel.showRights();
}

function startActions(): void {
  button("new-context").addEventListener("click", () => {
    void work(async () => {
      await host.session?.newContext();
      chat.showNewContext();
    }).then(() => chat.focus());
  });
  button("ephemeral").addEventListener("click", () => {
    void work(async () => {
      isConversationKept = true;
      try {
        if (host.isTemporary) {
          host.endTemporary();
          chat.endTemporary();
        } else {
          await host.beginTemporary();
          chat.beginTemporary();
        }
      } finally {
        isConversationKept = false;
      }
    }).then(() => chat.focus());
  });
}
