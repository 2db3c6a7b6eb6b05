/** Compiles only if the wasm module as it was built has the surface that the library expects. */
import init, { WebModel as Built, WebSha256, inspect } from "../pkg/dist/deltamem.js";
import type * as expected from "./lib/deltamem.js";
import type { WebModel } from "./lib/wasm.js";

export const initFits: typeof expected.default = init;
export const loadFits: typeof expected.WebModel.load = Built.load;
export const modelFits = (built: Built): WebModel => built;
export const inspectFits: typeof expected.inspect = inspect;
export const hashFits: typeof expected.WebSha256 = WebSha256;
