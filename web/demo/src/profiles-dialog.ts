/** The list of profiles: whose memories there are, switching, and making new ones. */
import { ask } from "./dialogs.js";
import { button, byId, dialog, element, input, node, textButton } from "./dom.js";
import { bytes, shortTime } from "./format.js";
import { currentPhase, showError, toast } from "./page.js";
import { isServed } from "./server.js";
import type { SessionHost } from "./session-host.js";
import { DEFAULT_PROFILE, type Settings } from "./settings.js";

export interface ProfilesEvents {
  /** Opens a profile with the present model. */
  use(profile: string): Promise<void>;
}

interface Listed {
  profile: string;
  /** What is stored for the present model; null if nothing is. */
  about: string | null;
  isEncrypted: boolean;
}

export class ProfilesDialog {
  readonly #host: SessionHost;
  readonly #settings: Settings;
  readonly #events: ProfilesEvents;

  constructor(host: SessionHost, settings: Settings, events: ProfilesEvents) {
    this.#host = host;
    this.#settings = settings;
    this.#events = events;
    button("open-profiles").addEventListener("click", () => void this.open().catch(showError));
    const form = byId("profile-form", HTMLFormElement);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const name = input("new-profile").value.trim();
      if (!name) return;
      void this.isTaken(name).then((isTaken) => {
        if (isTaken) return toast(`There is a profile “${name}” already.`, { isBad: true });
        form.reset();
        return this.#use(name);
      });
    });
  }

  async open(): Promise<void> {
    await this.#draw();
    dialog("profiles-dialog").showModal();
  }

  async isTaken(profile: string): Promise<boolean> {
    return (await this.#list()).some((each) => each.profile === profile);
  }

  async #use(profile: string): Promise<void> {
    if (currentPhase() !== "ready" && currentPhase() !== "failed") return;
    dialog("profiles-dialog").close();
    await this.#events.use(profile);
  }

  async #drop(profile: string, hasContent: boolean): Promise<void> {
    try {
      if (hasContent) {
        const answer = await ask({
          title: `Delete “${profile}”?`,
          text: isServed
            ? "Its memory with this model, earlier states and conversations are deleted. This cannot be undone."
            : "Its memories, earlier states and conversations are deleted, with whatever model they were made. This cannot be undone.",
          ok: "Delete",
          cancel: "Keep it",
          isDangerous: true,
        });
        if (!answer) return;
        await this.#host.session?.memory.forgetProfile(profile);
      }
      this.#settings.dropProfile(profile);
      await this.#draw();
    } catch (error) {
      showError(error);
    }
  }

  async #list(): Promise<Listed[]> {
    const { session } = this.#host;
    const stored = session ? await session.memory.profiles() : [];
    const names = new Set([
      DEFAULT_PROFILE,
      ...this.#settings.profiles,
      ...stored.map(({ profile }) => profile),
    ]);
    return [...names].map((profile) => {
      const own = stored.filter((each) => each.profile === profile);
      const here = own.find(({ identity }) => identity === session?.model.identity);
      const others = own.length - (here ? 1 : 0);
      const parts: string[] = [];
      if (here) {
        parts.push(`generation ${here.generation}`);
        if (here.norm !== null) parts.push(`‖S‖ ${here.norm.toFixed(2)}`);
        parts.push(bytes(here.bytes), shortTime(here.savedMs));
      }
      if (others > 0) parts.push(`${others} ${others === 1 ? "memory" : "memories"} with other models`);
      return {
        profile,
        about: parts.join(" · ") || null,
        isEncrypted: own.some(({ isEncrypted }) => isEncrypted),
      };
    });
  }

  async #draw(): Promise<void> {
    const items = (await this.#list()).map(({ profile, about, isEncrypted }) => {
      const isCurrent = profile === this.#host.profile;
      const text = element("div", "", element("strong", "", profile), element("p", "soft", about ?? "empty"));
      const item = element("li", isCurrent ? "current" : "", text);
      if (isEncrypted) item.append(element("span", "badge", "encrypted"));
      if (isCurrent) item.append(element("span", "badge on", "in use"));
      else {
        const use = textButton("Switch", "", () => void this.#use(profile).catch(showError));
        use.setAttribute("aria-label", `Switch to ${profile}`);
        item.append(use);
        if (about !== null || profile !== DEFAULT_PROFILE) {
          const drop = textButton("Delete", "danger", () => void this.#drop(profile, about !== null));
          drop.setAttribute("aria-label", `Delete ${profile}`);
          item.append(drop);
        }
      }
      return item;
    });
    node("profiles").replaceChildren(...items);
  }
}
