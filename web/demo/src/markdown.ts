/**
 * Markdown to elements. marked takes the text apart; the elements are made here one by one and every
 * word goes in as text, so nothing that a model writes can become markup. HTML is shown as it stands,
 * images become links: a reply never makes the browser fetch anything.
 */
import { lexer, type Token, type Tokens } from "marked";
import { element, iconButton } from "./dom.js";

/** Shows a text that grows: parts that are finished stay as they are, with what is selected in them. */
export class MarkdownView {
  readonly root: HTMLElement;
  #blocks: { raw: string; shown: Node }[] = [];

  constructor(root: HTMLElement) {
    this.root = root;
  }

  update(text: string): void {
    const tokens = lexer(text);
    let same = 0;
    while (same < tokens.length && this.#blocks[same]?.raw === tokens[same]?.raw) same += 1;
    for (const old of this.#blocks.splice(same)) this.root.removeChild(old.shown);
    for (const token of tokens.slice(same)) {
      const shown = block(token);
      this.root.append(shown);
      this.#blocks.push({ raw: token.raw, shown });
    }
  }
}

function block(token: Token): Node {
  switch (token.type) {
    case "space":
    case "def":
      return document.createTextNode("");
    case "heading": {
      // The page's own headings end at the third level.
      const level = Math.min((token as Tokens.Heading).depth + 3, 6) as 4 | 5 | 6;
      return element(`h${level}`, "", ...inline(token.tokens));
    }
    case "code":
      return code(token as Tokens.Code);
    case "blockquote":
      return element("blockquote", "", ...(token.tokens ?? []).map(block));
    case "list":
      return list(token as Tokens.List);
    case "table":
      return table(token as Tokens.Table);
    case "hr":
      return element("hr");
    case "paragraph":
      return element("p", "", ...inline(token.tokens));
    case "text":
      return element("span", "", ...inline([token]));
    default:
      return element("p", "", token.raw);
  }
}

function inline(tokens: Token[] | undefined): (Node | string)[] {
  return (tokens ?? []).map((token) => {
    switch (token.type) {
      case "strong":
        return element("strong", "", ...inline(token.tokens));
      case "em":
        return element("em", "", ...inline(token.tokens));
      case "del":
        return element("del", "", ...inline(token.tokens));
      case "codespan":
        return element("code", "", decode((token as Tokens.Codespan).text));
      case "br":
        return element("br");
      case "link":
        return link((token as Tokens.Link).href, inline(token.tokens));
      case "image":
        return link((token as Tokens.Image).href, [(token as Tokens.Image).text || "image"]);
      case "escape":
        return decode((token as Tokens.Escape).text);
      case "text":
        return token.tokens
          ? element("span", "", ...inline(token.tokens))
          : decode((token as Tokens.Text).text);
      default:
        return token.raw;
    }
  });
}

function link(href: string, children: (Node | string)[]): HTMLElement {
  const isSafe = URL.canParse(href) && /^(https?|mailto):$/.test(new URL(href).protocol);
  if (!isSafe) return element("span", "", ...children);
  const made = element("a", "", ...children);
  made.href = href;
  made.target = "_blank";
  made.rel = "noopener noreferrer nofollow";
  return made;
}

function code({ text, lang }: Tokens.Code): HTMLElement {
  const language = lang?.split(/\s/)[0] ?? "";
  const pre = element("pre", "", element("code", "", text));
  pre.tabIndex = 0; // it may be wider than the page
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  const copy = iconButton("copy", "Copy the code", () => void copyText(text, copy));
  return element("div", "code", element("div", "code-head", element("span", "", language), copy), pre);
}

function list(token: Tokens.List): HTMLElement {
  const made = element(token.ordered ? "ol" : "ul");
  if (made instanceof HTMLOListElement && typeof token.start === "number") made.start = token.start;
  for (const item of token.items) {
    const children = item.tokens
      .filter(({ type }) => type !== "checkbox")
      .flatMap((child) => (child.type === "text" ? inline([child]) : [block(child)]));
    if (item.task) children.unshift(item.checked ? "☑ " : "☐ ");
    made.append(element("li", "", ...children));
  }
  return made;
}

function table({ header, rows, align }: Tokens.Table): HTMLElement {
  const cell = (name: "th" | "td", { tokens }: Tokens.TableCell, column: number) => {
    const made = element(name, align[column] === "right" ? "number" : "", ...inline(tokens));
    if (name === "th") made.scope = "col";
    return made;
  };
  const head = element("tr", "", ...header.map((each, column) => cell("th", each, column)));
  const body = rows.map((row) =>
    element("tr", "", ...row.map((each, column) => cell("td", each, column))),
  );
  const made = element("table", "", element("thead", "", head), element("tbody", "", ...body));
  const scroll = element("div", "scroll", made);
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "group");
  scroll.setAttribute("aria-label", "Table");
  return scroll;
}

const ENTITIES: Record<string, string> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: "\u00a0",
};

/** marked leaves entities to the HTML that we do not make. */
function decode(text: string): string {
  return text.replace(/&(?:#(\d{1,7})|#x([\da-f]{1,6})|(\w{2,6}));/gi, (whole, decimal, hex, name) => {
    if (name) return ENTITIES[name] ?? whole;
    const point = decimal ? Number(decimal) : Number.parseInt(hex, 16);
    return point > 0 && point <= 0x10ffff ? String.fromCodePoint(point) : whole;
  });
}

/** Copies a text and says so on the button that was pressed. */
export async function copyText(text: string, pressed: HTMLElement): Promise<void> {
  const use = pressed.querySelector("use");
  try {
    await navigator.clipboard.writeText(text);
    use?.setAttribute("href", "#i-check");
    pressed.title = "Copied";
  } catch {
    pressed.title = "The browser did not allow to copy";
  }
  setTimeout(() => {
    use?.setAttribute("href", "#i-copy");
    pressed.title = pressed.getAttribute("aria-label") ?? "";
  }, 1600);
}
