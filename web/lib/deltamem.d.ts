/** Declares the wasm-bindgen module `deltamem.js`, which the Rust build puts beside the bundles. */
import type { Bench, Inspect, InspectGguf, LoadModel, SelfTest, WebSha256 as Sha256 } from "./wasm.js";

export default function init(input?: { module_or_path: URL | string }): Promise<unknown>;
export const WebModel: { load: LoadModel };
export const WebSha256: { new (): Sha256 };
export const inspect: Inspect;
export const inspect_gguf: InspectGguf;
export const selfTest: SelfTest;
export const bench: Bench;
