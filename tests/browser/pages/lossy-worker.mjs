/** The package's worker, on a device that can be taken away. */
import "./lossy-device.mjs";
import "/dist/worker.js";
