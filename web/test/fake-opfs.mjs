/**
 * A disk with the origin private file system's interface, and Web Locks: what the weight store needs
 * of a browser. What was not flushed is lost in a `crash`, as is every lock and open handle.
 */
const named = (name, message = name) => new DOMException(message, name);

class SyncHandle {
  #file;
  #isOpen = true;

  constructor(file) {
    this.#file = file;
    file.open.add(this);
  }

  #check() {
    if (!this.#isOpen || !this.#file.open.has(this)) throw named("InvalidStateError");
    return this.#file;
  }

  read(into, { at }) {
    const piece = this.#check().bytes.subarray(at, at + into.length);
    into.set(piece);
    return piece.length;
  }

  write(bytes, { at }) {
    const file = this.#check();
    file.resize(Math.max(file.bytes.length, at + bytes.length));
    file.bytes.set(bytes, at);
    return bytes.length;
  }

  truncate(size) {
    this.#check().resize(size);
  }

  getSize() {
    return this.#check().bytes.length;
  }

  flush() {
    const file = this.#check();
    file.durable = file.bytes.slice();
  }

  close() {
    this.#isOpen = false;
    this.#file.open.delete(this);
  }
}

class StoredFile {
  bytes = new Uint8Array();
  durable = new Uint8Array();
  open = new Set();
  isShared = false;

  constructor(disk) {
    this.disk = disk;
  }

  resize(size) {
    if (size === this.bytes.length) return;
    if (size > this.bytes.length) this.disk.require(size - this.bytes.length);
    const bytes = new Uint8Array(size);
    bytes.set(this.bytes.subarray(0, size));
    this.bytes = bytes;
  }

  requireUnused() {
    if (this.open.size > 0) throw named("NoModificationAllowedError");
  }
}

export class FakeFileHandle {
  #folder;
  #name;

  constructor(folder, name) {
    this.#folder = folder;
    this.#name = name;
  }

  get #file() {
    const file = this.#folder.files.get(this.#name);
    if (!file) throw named("NotFoundError");
    return file;
  }

  async getFile() {
    return new File([this.#file.bytes], this.#name);
  }

  async createSyncAccessHandle({ mode = "readwrite" } = {}) {
    const file = this.#file;
    const isShared = mode === "read-only";
    if (file.open.size > 0 && !(isShared && file.isShared)) throw named("NoModificationAllowedError");
    file.isShared = isShared;
    return new SyncHandle(file);
  }

  async createWritable() {
    let text = "";
    const { files, disk } = this.#folder;
    const name = this.#name;
    return {
      write: async (more) => (text += more),
      async close() {
        const file = new StoredFile(disk);
        file.bytes = new TextEncoder().encode(text);
        file.durable = file.bytes;
        files.set(name, file);
      },
    };
  }

  async move(folder, name) {
    const file = this.#file;
    file.requireUnused();
    this.#folder.files.delete(this.#name);
    folder.files.set(name, file);
  }
}

class Folder {
  folders = new Map();
  files = new Map();

  constructor(disk) {
    this.disk = disk;
  }

  async getDirectoryHandle(name, { create = false } = {}) {
    if (!this.folders.has(name) && !create) throw named("NotFoundError");
    if (!this.folders.has(name)) this.folders.set(name, new Folder(this.disk));
    return this.folders.get(name);
  }

  async getFileHandle(name, { create = false } = {}) {
    if (!this.files.has(name) && !create) throw named("NotFoundError");
    if (!this.files.has(name)) this.files.set(name, new StoredFile(this.disk));
    return new FakeFileHandle(this, name);
  }

  async removeEntry(name) {
    const file = this.files.get(name);
    if (!file) throw named("NotFoundError");
    file.requireUnused();
    this.files.delete(name);
  }

  async *keys() {
    yield* [...this.files.keys(), ...this.folders.keys()];
  }

  *all() {
    yield* this.files.values();
    for (const folder of this.folders.values()) yield* folder.all();
  }
}

class Locks {
  #held = [];
  #line = [];

  request(name, options, callback) {
    const { mode = "exclusive", ifAvailable = false, signal } = options;
    return new Promise((resolve, reject) => {
      const entry = { name, mode, callback, resolve, reject };
      if (ifAvailable && !this.#isFree(entry)) {
        resolve(callback(null));
        return;
      }
      signal?.throwIfAborted();
      signal?.addEventListener("abort", () => {
        if (!this.#line.includes(entry)) return;
        this.#line.splice(this.#line.indexOf(entry), 1);
        reject(signal.reason);
      });
      this.#line.push(entry);
      this.#advance();
    });
  }

  async query() {
    const infos = (entries) => entries.map(({ name, mode }) => ({ name, mode }));
    return { held: infos(this.#held), pending: infos(this.#line) };
  }

  #isFree({ name, mode }) {
    const others = this.#held.filter((held) => held.name === name);
    return others.every((held) => held.mode === "shared" && mode === "shared");
  }

  #advance() {
    for (const entry of [...this.#line]) {
      const isFirst = this.#line.find(({ name }) => name === entry.name) === entry;
      if (!isFirst || !this.#isFree(entry)) continue;
      this.#line.splice(this.#line.indexOf(entry), 1);
      this.#held.push(entry);
      void Promise.resolve(entry.callback({ name: entry.name, mode: entry.mode }))
        .then(entry.resolve, entry.reject)
        .finally(() => {
          this.#held = this.#held.filter((held) => held !== entry);
          this.#advance();
        });
    }
  }
}

/** The disk of one browser profile. */
export class FakeDisk {
  root = new Folder(this);
  /** What the browser gives. */
  quota = Infinity;
  /** What the browser says that it gives. */
  estimatedQuota = null;

  usage() {
    return [...this.root.all()].reduce((sum, { bytes }) => sum + bytes.length, 0);
  }

  require(more) {
    if (this.usage() + more > this.quota) throw named("QuotaExceededError", "the disk is full");
  }

  /** Makes this the browser that the tests run in. */
  install() {
    globalThis.FileSystemFileHandle = FakeFileHandle;
    const storage = {
      getDirectory: async () => this.root,
      estimate: async () => ({ quota: this.estimatedQuota ?? this.quota, usage: this.usage() }),
    };
    const value = { storage, locks: new Locks(), onLine: true };
    Object.defineProperty(globalThis, "navigator", { value, configurable: true });
  }

  /** The browser dies; what it was about to write is lost. */
  crash() {
    for (const file of this.root.all()) {
      file.open.clear();
      file.bytes = file.durable.slice();
    }
    this.install();
  }

  /** The names in a folder below `deltamem`, and their bytes. */
  folder(name) {
    const folder = this.root.folders.get("deltamem")?.folders.get(name);
    return new Map([...(folder?.files ?? [])].map(([name, file]) => [name, file]));
  }
}
