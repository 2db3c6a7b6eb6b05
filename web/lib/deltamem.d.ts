/** Declares the wasm-bindgen module `deltamem.js`, which the Rust build puts beside the bundles. */
import type { LoadModel } from "./wasm.js";

export default function init(input?: { module_or_path: URL | string }): Promise<unknown>;
export const WebModel: { load: LoadModel };
