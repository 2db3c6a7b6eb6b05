/** The page's dialogs: opening and closing, and the one dialog for all questions. */
import { button, byId, dialog, element, node } from "./dom.js";

/** Wires the close buttons, and a click beside a dialog, which closes it too. */
export function startDialogs(): void {
  for (const each of document.querySelectorAll("dialog")) {
    each.querySelector("[data-close]")?.addEventListener("click", () => each.close());
    each.addEventListener("close", () => {
      const toasts = node("toasts");
      if (each.contains(toasts)) document.body.append(toasts);
    });
    each.addEventListener("click", (event) => {
      if (event.target === each) each.close();
    });
  }
  for (const id of ["open-about", "open-about-2"]) {
    button(id).addEventListener("click", () => dialog("about-dialog").showModal());
  }
}

interface Field {
  name: string;
  label: string;
  /** `area` is a text of several lines. */
  type: "text" | "password" | "area";
  isRequired?: boolean;
  hint?: string;
  maxLength?: number;
}

interface Question {
  title: string;
  text: string;
  ok: string;
  cancel?: string;
  isDangerous?: boolean;
  fields?: Field[];
}

/** The fields' values, or null if the person would rather not. */
export function ask(question: Question): Promise<Record<string, string> | null> {
  const box = dialog("ask-dialog");
  const form = byId("ask-form", HTMLFormElement);
  node("ask-title").textContent = question.title;
  node("ask-text").textContent = question.text;
  const ok = button("ask-ok");
  ok.textContent = question.ok;
  ok.className = question.isDangerous ? "danger solid" : "primary";
  button("ask-cancel").textContent = question.cancel ?? "Cancel";
  const controls = (question.fields ?? []).map((field) => ({ field, control: makeField(field) }));
  node("ask-fields").replaceChildren(...controls.flatMap(({ field, control }) => labelled(field, control)));
  box.returnValue = "";
  form.reset();
  box.showModal();
  // What destroys something is never one key press away.
  (controls[0]?.control ?? (question.isDangerous ? button("ask-cancel") : ok)).focus();
  return new Promise((resolve) => {
    box.addEventListener(
      "close",
      () => {
        const values = Object.fromEntries(controls.map(({ field, control }) => [field.name, control.value]));
        node("ask-fields").replaceChildren(); // no passphrase stays in the page
        resolve(box.returnValue === "ok" ? values : null);
      },
      { once: true },
    );
  });
}

function makeField(field: Field): HTMLInputElement | HTMLTextAreaElement {
  const control = field.type === "area" ? element("textarea") : element("input");
  if (control instanceof HTMLInputElement) control.type = field.type;
  control.id = `ask-field-${field.name}`;
  control.name = field.name;
  control.required = field.isRequired ?? false;
  control.autocomplete = "off";
  if (field.maxLength) control.maxLength = field.maxLength;
  return control;
}

function labelled(field: Field, control: HTMLElement): HTMLElement[] {
  const label = element("label", "", field.label);
  label.htmlFor = control.id;
  const parts: HTMLElement[] = [label, control];
  if (field.hint) {
    const hint = element("p", "soft", field.hint);
    hint.id = `${control.id}-hint`;
    control.setAttribute("aria-describedby", hint.id);
    parts.push(hint);
  }
  return parts;
}
