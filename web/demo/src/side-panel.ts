/** Opens and closes the memory panel: beside the conversation, or over it where there is no room. */
import { button, node } from "./dom.js";

const NARROW = matchMedia("(max-width: 60rem)");

export function startSidePanel(): void {
  const panel = node("memory");
  const toggle = button("toggle-memory");
  const set = (isOpen: boolean) => {
    document.body.dataset["memory"] = isOpen ? "open" : "closed";
    toggle.setAttribute("aria-expanded", String(isOpen));
    panel.hidden = !isOpen;
    // Where it covers the conversation, nothing under it can be reached.
    const covers = isOpen && NARROW.matches;
    for (const under of [node("top"), document.querySelector<HTMLElement>(".chat")]) {
      if (under) under.inert = covers;
    }
  };
  const isOpen = () => !panel.hidden;
  toggle.addEventListener("click", () => {
    set(!isOpen());
    if (isOpen() && NARROW.matches) panel.focus();
  });
  button("close-memory").addEventListener("click", () => {
    set(false);
    toggle.focus();
  });
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !NARROW.matches || document.querySelector("dialog[open]")) return;
    set(false);
    toggle.focus();
  });
  NARROW.addEventListener("change", () => set(!NARROW.matches));
  set(!NARROW.matches);
}
