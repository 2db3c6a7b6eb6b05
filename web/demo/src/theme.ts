/** The theme switch: as the system, light, dark. public/theme.js applies the choice before painting. */
import { button, node } from "./dom.js";

const KEY = "deltamem-theme";
const THEMES = ["system", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];
const NAMES: Record<Theme, string> = { system: "as the system", light: "light", dark: "dark" };

/** Calls `onChange` whenever the colours have changed, whoever changed them. */
export function startTheme(onChange: () => void): void {
  let theme = THEMES.find((name) => name === document.documentElement.dataset["theme"]) ?? "system";
  const show = () => {
    const text = `Theme: ${NAMES[theme]}`;
    node("theme-label").textContent = text;
    button("theme").title = text;
  };
  button("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "system";
    if (theme === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = theme;
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // without storage the choice lasts until the page closes
    }
    show();
    onChange();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onChange);
  show();
}

/** True unless the person wants less movement. */
export const mayMove = (): boolean => !matchMedia("(prefers-reduced-motion: reduce)").matches;
