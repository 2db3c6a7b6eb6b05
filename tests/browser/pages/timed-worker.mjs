/** The package's worker, telling how long its transactions take that write. */
import "./timed-database.mjs";
import "/dist/worker.js";
