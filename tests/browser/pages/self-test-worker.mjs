/** Replays one parity case per message, in a worker. */
import init, { selfTest } from "/dist/deltamem.js";

const ready = init();

onmessage = async ({ data: { folder, names, options } }) => {
  try {
    await ready;
    const files = new Map();
    for (const name of names) {
      const response = await fetch(`${folder}/${name}`);
      if (!response.ok) throw new Error(`${name}: status ${response.status}`);
      files.set(name, new Uint8Array(await response.arrayBuffer()));
    }
    postMessage({ report: JSON.parse(await selfTest(files, JSON.stringify(options))) });
  } catch (error) {
    postMessage({ error: `${error.name} (${error.code}): ${error.message}` });
  }
};
