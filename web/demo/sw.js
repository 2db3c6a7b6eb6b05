/**
 * Keeps the page's own files, so that it starts without a network. Every built file is fetched once,
 * under its content hash; a new version waits until the person takes it, and the version before stays
 * for tabs that still run it. Requests to other places (model hosts) are left alone.
 */
const FILES = {}; // filled by the build: path below this folder → hash of the content
const PREFIX = `deltamem-page:${new URL(self.registration.scope).pathname}:`;

/** One name per list of files. */
async function cacheName() {
  const bytes = new TextEncoder().encode(JSON.stringify(FILES));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return PREFIX + [...digest.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Where a file lies in the cache: its address and its content. */
const keyOf = (name) => `${new URL(name, self.registration.scope).href}?content=${FILES[name]}`;

async function install() {
  const cache = await caches.open(await cacheName());
  await Promise.all(
    Object.keys(FILES).map(async (name) => {
      const key = keyOf(name);
      const url = new URL(name, self.registration.scope);
      const response = (await caches.match(key)) ?? (await fetch(url, { cache: "no-cache" }));
      if (!response.ok) throw new Error(`${name}: ${response.status}`);
      await cache.put(key, plain(response));
    }),
  );
}

/** A host may send `index.html` elsewhere; browsers take no redirected answer for a page. */
function plain(response) {
  return response.redirected ? new Response(response.body, { headers: response.headers }) : response;
}

/** Drops all versions but this one and, where tabs still run it, the one before. */
async function activate() {
  const mine = await cacheName();
  const old = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== mine);
  const tabs = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  const dropped = tabs.length > 1 ? old.slice(0, -1) : old;
  await Promise.all(dropped.map((name) => caches.delete(name)));
  await self.clients.claim();
}

/** The kept file for a request, or what the network has. */
async function answer(request) {
  const url = new URL(request.url);
  const name = decodeURI(url.pathname.slice(new URL(self.registration.scope).pathname.length));
  const kept = await find(request.mode === "navigate" && !FILES[name] ? "index.html" : name);
  return kept ? part(kept, request) : fetch(request);
}

async function find(name) {
  if (FILES[name]) return caches.match(keyOf(name));
  // A tab that runs the version before asks for that one's files, whose names carry their hashes.
  const own = (await caches.keys()).filter((cache) => cache.startsWith(PREFIX));
  for (const cache of own.reverse()) {
    const response = await (await caches.open(cache)).match(new URL(name, self.registration.scope), {
      ignoreSearch: true,
    });
    if (response) return response;
  }
  return undefined;
}

/** Caches keep whole files; a request for a range gets its piece. */
async function part(response, request) {
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.get("range") ?? "");
  if (!range) return response;
  const blob = await response.blob();
  const first = Number(range[1]);
  const last = Math.min(range[2] ? Number(range[2]) : blob.size - 1, blob.size - 1);
  if (first > last) return new Response(null, { status: 416 });
  return new Response(blob.slice(first, last + 1), {
    status: 206,
    headers: {
      "content-type": response.headers.get("content-type") ?? "application/octet-stream",
      "content-length": String(last + 1 - first),
      "content-range": `bytes ${first}-${last}/${blob.size}`,
    },
  });
}

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("activate", (event) => event.waitUntil(activate()));
self.addEventListener("message", ({ data }) => {
  if (data === "take-over") void self.skipWaiting();
});
self.addEventListener("fetch", (event) => {
  const { request } = event;
  const isOurs = request.url.startsWith(self.registration.scope);
  if (isOurs && (request.method === "GET" || request.method === "HEAD")) {
    event.respondWith(answer(request));
  }
});
