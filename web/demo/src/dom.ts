/** Small helpers for the page's elements. */

/** The element with this id, which is part of the page. */
export function byId<T extends HTMLElement>(id: string, type: { new (): T; prototype: T }): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} #${id}`);
  return found;
}

export const button = (id: string): HTMLButtonElement => byId(id, HTMLButtonElement);
export const dialog = (id: string): HTMLDialogElement => byId(id, HTMLDialogElement);
export const input = (id: string): HTMLInputElement => byId(id, HTMLInputElement);
export const node = (id: string): HTMLElement => byId(id, HTMLElement);

/** A new element with a class and children; strings become text, never markup. */
export function element<K extends keyof HTMLElementTagNameMap>(
  name: K,
  className = "",
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

/** One of the page's icons; decoration, so a name must stand beside it. */
export function icon(name: string, className = "icon small"): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", className);
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows an icon and is called `label`. */
export function iconButton(name: string, label: string, onClick: () => void): HTMLButtonElement {
  const made = element("button", "tool mini", icon(name));
  made.type = "button";
  made.title = label;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", onClick);
  return made;
}

/** A button with a text. */
export function textButton(label: string, className: string, onClick: () => void): HTMLButtonElement {
  const made = element("button", className, label);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

/** Shows `text`, or hides the element where there is none. */
export function showText(target: HTMLElement, text: string | null): void {
  target.textContent = text ?? "";
  target.hidden = !text;
}
