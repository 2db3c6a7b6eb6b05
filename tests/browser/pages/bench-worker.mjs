/**
 * Measures one model per message, in a worker, and beside it what the module `peer.module` makes of
 * `peer`. A message with `logitsOf` wants that peer's logits behind so many tokens instead.
 */
import init, { bench } from "/dist/deltamem.js";

const ready = init();

onmessage = async ({ data: { folder, names, options, peer: wanted, logitsOf } }) => {
  try {
    await ready;
    const tell = (progress) => postMessage({ progress });
    let peer;
    if (wanted) {
      tell("loading the peer");
      peer = await (await import(wanted.module)).create(wanted);
    }
    if (logitsOf) {
      postMessage({ report: { about: peer.about, logits: await peer.logits(logitsOf) } });
      return;
    }
    const files = new Map();
    for (const name of names) {
      const response = await fetch(`${folder}/${name}`);
      if (!response.ok) throw new Error(`${name}: status ${response.status}`);
      files.set(name, new Uint8Array(await response.arrayBuffer()));
    }
    postMessage({ report: JSON.parse(await bench(files, JSON.stringify(options), tell, peer)) });
  } catch (error) {
    postMessage({ error: `${error.name} (${error.code}): ${error.message}` });
  }
};
