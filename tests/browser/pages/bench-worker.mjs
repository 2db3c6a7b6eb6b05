/** Measures one model per message, in a worker. */
import init, { bench } from "/dist/deltamem.js";

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
    const tell = (progress) => postMessage({ progress });
    postMessage({ report: JSON.parse(await bench(files, JSON.stringify(options), tell)) });
  } catch (error) {
    postMessage({ error: `${error.name} (${error.code}): ${error.message}` });
  }
};
