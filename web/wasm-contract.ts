/** Compiles only if the wasm module as it was built has the surface that the library expects. */
import init, {
  bench,
  inspect,
  selfTest,
  WebModel as Built,
  WebSha256 as BuiltSha256,
} from "../pkg/dist/deltamem.js";
import type * as expected from "./lib/deltamem.js";
import type { WebModel, WebSha256 } from "./lib/wasm.js";

export const initFits: typeof expected.default = init;
export const loadFits: typeof expected.WebModel.load = Built.load;
export const modelFits = (built: Built): WebModel => built;
export const makeHashFits: typeof expected.WebSha256 = BuiltSha256;
export const hashFits = (built: BuiltSha256): WebSha256 => built;
export const inspectFits: typeof expected.inspect = inspect;
export const selfTestFits: typeof expected.selfTest = selfTest;
export const benchFits: typeof expected.bench = bench;
