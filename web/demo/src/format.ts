/** Numbers, times and sentences as the page shows them. */

/** 1.9 GB; decimal units, as browsers and model hosts use them. */
export function bytes(count: number): string {
  if (count < 1000) return `${count} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let value = count / 1000;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value < 9.95 ? value.toFixed(1) : value.toFixed(0)} ${units[unit]}`;
}

export const count = (value: number): string => value.toLocaleString("en");

export const plural = (value: number, noun: string): string =>
  `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

export const percent = (part: number): string => `${Math.round(100 * part)} %`;

/** The time of day for today's, the day for others. */
export function shortTime(unixMs: number): string {
  const date = new Date(unixMs);
  return date.toDateString() === new Date().toDateString()
    ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : date.toLocaleDateString([], { day: "numeric", month: "short" });
}

/** With a capital and a full stop. */
export function sentence(text: string): string {
  const whole = /[.!?…]$/.test(text) ? text : `${text}.`;
  return whole.charAt(0).toUpperCase() + whole.slice(1);
}

/** A file's name without what file systems refuse. */
export const fileName = (name: string): string => name.replaceAll(/[^\p{L}\p{N}.-]+/gu, "-");
