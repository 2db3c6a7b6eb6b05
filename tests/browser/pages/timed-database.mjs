/** Tells over the channel `commits` how many milliseconds each writing transaction of IndexedDB took. */
const channel = new BroadcastChannel("commits");
const { transaction } = IDBDatabase.prototype;

IDBDatabase.prototype.transaction = function (stores, mode, options) {
  const begin = performance.now();
  const made = transaction.call(this, stores, mode, options);
  if (mode === "readwrite") {
    made.addEventListener("complete", () => {
      const ms = performance.now() - begin;
      channel.postMessage({ ms, durability: made.durability });
    });
  }
  return made;
};
