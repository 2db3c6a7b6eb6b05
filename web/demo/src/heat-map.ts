/** The pictures of the states: one small canvas a layer, all on one scale, moving when a turn writes. */
import type { Gauge, MemoryStates } from "../../lib/index.js";
import { element } from "./dom.js";
import { mayMove } from "./theme.js";

type Rgb = [number, number, number];
/** Negative end, zero, positive end. */
type Ramp = [Rgb, Rgb, Rgb];

const MOVE_MS = 600;

interface Tile {
  canvas: HTMLCanvasElement;
  norm: HTMLElement;
  beta: HTMLElement;
  ratio: HTMLElement;
  gauges: HTMLElement;
}

export class HeatMap {
  readonly #root: HTMLElement;
  #tiles: Tile[] = [];
  #layers: number[] = [];
  #shown: Float32Array = new Float32Array();
  #target: MemoryStates | null = null;
  #frame = 0;

  constructor(root: HTMLElement) {
    this.#root = root;
  }

  /** The largest magnitude that is drawn. */
  get largest(): number {
    return this.#target ? largestOf(this.#target.data) : 0;
  }

  /** Moves from what is shown to `states`; `norms` and `gauges` are in the order of the layers. */
  show(states: MemoryStates, norms: number[], gauges: (Gauge | null)[]): void {
    const isSame =
      this.#layers.length === states.layers.length && this.#shown.length === states.data.length;
    if (!isSame) this.#build(states);
    this.#target = states;
    states.layers.forEach((_, index) => this.#caption(index, norms[index] ?? 0, gauges[index] ?? null));
    this.#root.setAttribute("aria-label", summary(states, norms));
    cancelAnimationFrame(this.#frame);
    if (isSame && mayMove() && !document.hidden) this.#move(this.#shown.slice(), states);
    else this.#paint(states.data, states);
  }

  /** Draws again in the colours of now. */
  redraw(): void {
    if (this.#target) this.#paint(this.#target.data, this.#target);
  }

  clear(): void {
    cancelAnimationFrame(this.#frame);
    this.#target = null;
    this.#layers = [];
    this.#shown = new Float32Array();
    this.#root.replaceChildren();
    this.#root.setAttribute("aria-label", "No states");
  }

  #build(states: MemoryStates): void {
    this.#layers = states.layers;
    this.#shown = new Float32Array(states.data.length);
    this.#root.dataset["size"] = states.layers.length > 12 ? "many" : "few";
    this.#tiles = states.layers.map(() => ({
      canvas: element("canvas"),
      norm: element("span"),
      beta: element("span", "gauge beta"),
      ratio: element("span", "gauge ratio"),
      gauges: element("span", "gauges"),
    }));
    const figures = this.#tiles.map(({ canvas, norm, beta, ratio, gauges }, index) => {
      const columns = headColumns(states.stateHeads);
      canvas.width = columns * states.rank;
      canvas.height = (states.stateHeads / columns) * states.rank;
      gauges.append(beta, ratio);
      gauges.hidden = true;
      const caption = element("figcaption", "", element("span", "", `L${states.layers[index]}`), norm);
      return element("figure", "", canvas, gauges, caption);
    });
    this.#root.replaceChildren(...figures);
  }

  #caption(index: number, norm: number, gauge: Gauge | null): void {
    const tile = this.#tiles[index];
    if (!tile) return;
    tile.norm.textContent = norm.toFixed(2);
    tile.gauges.hidden = gauge === null;
    tile.beta.style.setProperty("--part", String(gauge?.beta ?? 0));
    tile.ratio.style.setProperty("--part", String(Math.min(gauge?.outputRatio ?? 0, 1)));
  }

  #move(from: Float32Array, states: MemoryStates): void {
    const began = performance.now();
    const step = (now: number) => {
      const part = Math.min((now - began) / MOVE_MS, 1);
      const eased = 1 - (1 - part) ** 3;
      const between = states.data.map((value, index) => {
        const start = from[index] ?? 0;
        return start + eased * (value - start);
      });
      this.#paint(between, states);
      if (part < 1) this.#frame = requestAnimationFrame(step);
    };
    this.#frame = requestAnimationFrame(step);
  }

  #paint(data: Float32Array, { rank, stateHeads }: MemoryStates): void {
    this.#shown = data;
    const perLayer = stateHeads * rank * rank;
    const largest = largestOf(data);
    const ramp = readRamp();
    this.#tiles.forEach(({ canvas }, index) => {
      draw(canvas, data.subarray(index * perLayer, (index + 1) * perLayer), rank, stateHeads, largest, ramp);
    });
  }
}

/** For people who do not see the picture. */
function summary({ layers }: MemoryStates, norms: number[]): string {
  const strongest = norms.indexOf(Math.max(...norms));
  const norm = norms[strongest] ?? 0;
  if (norm === 0) return `States of ${layers.length} layers, all empty`;
  return `States of ${layers.length} layers; the strongest is layer ${layers[strongest]} with norm ${norm.toFixed(2)}. The numbers are in the table below.`;
}

function largestOf(data: Float32Array): number {
  let largest = 0;
  for (const value of data) largest = Math.max(largest, Math.abs(value));
  return largest;
}

/** How many heads stand side by side: as near to a square as leaves no gap. */
function headColumns(heads: number): number {
  let columns = Math.ceil(Math.sqrt(heads));
  while (heads % columns !== 0) columns += 1;
  return columns;
}

/** `values` is `[heads, rank, rank]`, row-major; heads in rows of `headColumns`. */
function draw(
  canvas: HTMLCanvasElement,
  values: Float32Array,
  rank: number,
  heads: number,
  largest: number,
  [low, zero, high]: Ramp,
): void {
  const context = canvas.getContext("2d");
  if (!context) return;
  const image = context.createImageData(canvas.width, canvas.height);
  const columns = headColumns(heads);
  for (let head = 0; head < heads; head += 1) {
    const [top, left] = [Math.floor(head / columns) * rank, (head % columns) * rank];
    for (let row = 0; row < rank; row += 1) {
      for (let column = 0; column < rank; column += 1) {
        const value = values[(head * rank + row) * rank + column] ?? 0;
        // The square root brings out small numbers beside large ones.
        const strength = largest > 0 ? Math.sqrt(Math.abs(value) / largest) : 0;
        const end = value < 0 ? low : high;
        const pixel = 4 * ((top + row) * canvas.width + left + column);
        zero.forEach((from, channel) => {
          image.data[pixel + channel] = from + strength * ((end[channel] ?? 0) - from);
        });
        image.data[pixel + 3] = 255;
      }
    }
  }
  context.putImageData(image, 0, 0);
}

function readRamp(): Ramp {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string): Rgb => {
    const hex = style.getPropertyValue(name).trim().slice(1);
    const channel = (index: number) => Number.parseInt(hex.slice(2 * index, 2 * index + 2), 16);
    return [channel(0), channel(1), channel(2)];
  };
  return [read("--low"), read("--zero"), read("--high")];
}
