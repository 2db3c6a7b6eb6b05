/**
 * The page as `deltamem serve` shows it: the model is on the server, which marks the page for that. Owns
 * what is then said differently, and the server's token.
 */
import { button, input, node, showText } from "./dom.js";
import type { ModelEntry } from "./settings.js";

const TOKEN_KEY = "deltamem-token";

const address = document.querySelector<HTMLMetaElement>('meta[name="deltamem-server"]')?.content;

/** The server's model, as far as it is known before it answers; null if the model runs in the page. */
export const serverModel: ModelEntry | null =
  address === undefined
    ? null
    : {
        id: "server",
        name: "the server’s model",
        summary: "The model that the server has loaded.",
        url: new URL(address, document.baseURI).href,
        adapter: null,
        weights: null,
        downloadBytes: null,
        isBuiltIn: false,
        canThink: false,
        licence: null,
        note: null,
      };

export const isServed = serverModel !== null;

/** Where the model runs and where the memory stays. */
export const RUNS = isServed ? "It runs on the server of this page." : "It runs in this browser.";
export const STAYS = isServed ? "which the server keeps" : "which stays on this device";

/** The token is kept until the tab closes. */
export const serverToken = {
  get: (): string | null => {
    try {
      return sessionStorage.getItem(TOKEN_KEY);
    } catch {
      return null;
    }
  },
  set: (token: string): void => {
    try {
      sessionStorage.setItem(TOKEN_KEY, token);
    } catch {
      // without storage it is asked for after each reload
    }
  },
};

/** Says what is so with a server, and takes away what there is only in a browser. */
export function startServed(): void {
  if (!isServed) return;
  document.body.dataset["engine"] = "server";
  button("open-models").disabled = true;
  button("failure-models").hidden = true;
  button("protect").hidden = true;
  node("offline-note").hidden = true;
  const name = input("new-profile");
  name.pattern = "[a-z0-9_\\-]{1,64}";
  name.title = "1 to 64 of a-z, 0-9, - and _";
  showText(node("about-place"), "stay on the machine of this page’s server: it is in a folder there, and nothing of it is sent elsewhere.");
}
