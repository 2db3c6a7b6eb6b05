/**
 * Encryption with a passphrase. A profile has a random data key (AES-256-GCM); the database keeps it
 * wrapped by a key that PBKDF2-SHA-256 makes of the passphrase, so that changing the passphrase
 * touches nothing else. What is encrypted is bound to its place: a record that is moved to another
 * profile, model or generation is refused. docs/memory-format.md has the bytes.
 *
 * It protects what lies on the disk while no tab has it open. It does not protect against scripts of
 * this origin, nor against what a person with the disk sees anyway: names of profiles, times, sizes.
 */
import { DeltamemError } from "./errors.js";

/** What is kept of a passphrase: how to check and use it, not what it is. */
export interface KeyRecord {
  profile: string;
  version: 1;
  /** Of PBKDF2-SHA-256. */
  iterations: number;
  salt: Bytes;
  /** Initial vector and ciphertext of the data key. */
  wrapped: Bytes;
}

type Bytes = Uint8Array<ArrayBuffer>;

/** OWASP's advice for PBKDF2-SHA-256. */
export const PBKDF2_ITERATIONS = 600_000;
/** A file that asks for more is meant to keep the page busy. */
const MAX_ITERATIONS = 10_000_000;
const SALT_BYTES = 16;
const IV_BYTES = 12;
const KEY_BYTES = 32;

/** The opened key of a profile. */
export class Vault {
  /** As it lies, or is to lie, in the database. */
  readonly record: KeyRecord;
  readonly #wrappingKey: CryptoKey;
  readonly #dataKey: CryptoKey;

  private constructor(record: KeyRecord, wrappingKey: CryptoKey, dataKey: CryptoKey) {
    this.record = record;
    this.#wrappingKey = wrappingKey;
    this.#dataKey = dataKey;
  }

  /** A vault with a new data key. */
  static async create(profile: string, passphrase: string): Promise<Vault> {
    const salt = random(SALT_BYTES);
    const wrappingKey = await derive(passphrase, salt, PBKDF2_ITERATIONS);
    const raw = random(KEY_BYTES);
    return Vault.#wrap(profile, PBKDF2_ITERATIONS, salt, wrappingKey, raw);
  }

  /** Throws `passphrase` if it is the wrong one. */
  static async unlock(record: KeyRecord, passphrase: string): Promise<Vault> {
    const wrappingKey = await derive(passphrase, record.salt, record.iterations);
    return Vault.#unwrap(record, wrappingKey);
  }

  static async #wrap(
    profile: string,
    iterations: number,
    salt: Bytes,
    wrappingKey: CryptoKey,
    raw: Bytes,
  ): Promise<Vault> {
    const wrapped = await encrypt(wrappingKey, raw, bindingOfKey(profile));
    const record: KeyRecord = { profile, version: 1, iterations, salt, wrapped };
    return new Vault(record, wrappingKey, await importKey(raw));
  }

  static async #unwrap(record: KeyRecord, wrappingKey: CryptoKey): Promise<Vault> {
    const raw = await decrypt(wrappingKey, record.wrapped, bindingOfKey(record.profile)).catch(() => {
      throw wrongPassphrase(`the profile "${record.profile}"`);
    });
    return new Vault(record, wrappingKey, await importKey(raw));
  }

  /** The same data key under another passphrase. */
  async withPassphrase(passphrase: string): Promise<Vault> {
    const salt = random(SALT_BYTES);
    const wrappingKey = await derive(passphrase, salt, PBKDF2_ITERATIONS);
    const raw = new Uint8Array(await crypto.subtle.exportKey("raw", this.#dataKey));
    return Vault.#wrap(this.record.profile, PBKDF2_ITERATIONS, salt, wrappingKey, raw);
  }

  /** A new data key under the same passphrase: what the old one encrypted is lost. */
  renewed(): Promise<Vault> {
    const { profile, iterations, salt } = this.record;
    return Vault.#wrap(profile, iterations, salt, this.#wrappingKey, random(KEY_BYTES));
  }

  /** This vault, or that of a record that another tab has put in its place with the same passphrase. */
  async following(record: KeyRecord): Promise<Vault> {
    if (isSame(record.wrapped, this.record.wrapped)) return this;
    if (isSame(record.salt, this.record.salt)) return Vault.#unwrap(record, this.#wrappingKey);
    throw new DeltamemError(
      "passphrase",
      `Another tab has changed the passphrase of the profile "${record.profile}". Open it again with the new one.`,
    );
  }

  seal(bytes: Uint8Array, binding: string): Promise<Bytes> {
    return encrypt(this.#dataKey, bytes, binding);
  }

  /** Throws `integrity` if the bytes were changed or belong elsewhere. */
  async open(sealed: Uint8Array, binding: string): Promise<Bytes> {
    try {
      return await decrypt(this.#dataKey, sealed, binding);
    } catch (error) {
      throw new DeltamemError(
        "integrity",
        `A record of the profile "${this.record.profile}" was damaged, or moved from another place.`,
        { cause: error },
      );
    }
  }
}

// ---- exported files -------------------------------------------------------------------------------

/** Begins every encrypted export. */
const FILE_MAGIC = "dmsealed";
const FILE_VERSION = 1;
/** Magic, version, iterations, salt. */
const FILE_HEADER_BYTES = 8 + 4 + 4 + SALT_BYTES;

/** True for bytes that `sealFile` made. */
export function isSealedFile(bytes: Uint8Array): boolean {
  return [...FILE_MAGIC].every((letter, index) => bytes[index] === letter.charCodeAt(0));
}

/** A `.dmem` file in an encrypted wrapping. */
export async function sealFile(file: Uint8Array, passphrase: string): Promise<Bytes> {
  const header = new Uint8Array(FILE_HEADER_BYTES);
  header.set(new TextEncoder().encode(FILE_MAGIC));
  const view = new DataView(header.buffer);
  view.setUint32(8, FILE_VERSION, true);
  view.setUint32(12, PBKDF2_ITERATIONS, true);
  const salt = random(SALT_BYTES);
  header.set(salt, 16);
  const key = await derive(passphrase, salt, PBKDF2_ITERATIONS);
  return concatenated(header, await encrypt(key, file, header));
}

/** Takes the wrapping off. Throws `passphrase` or `format`. */
export async function openFile(bytes: Uint8Array, passphrase: string): Promise<Bytes> {
  const header = bytes.slice(0, FILE_HEADER_BYTES);
  const view = new DataView(header.buffer);
  if (bytes.length < FILE_HEADER_BYTES + IV_BYTES || view.getUint32(8, true) !== FILE_VERSION) {
    throw new DeltamemError("format", "This encrypted file is cut off, or of a newer version.");
  }
  const iterations = view.getUint32(12, true);
  if (iterations === 0 || iterations > MAX_ITERATIONS) {
    throw new DeltamemError("format", `This encrypted file asks for ${iterations} iterations.`);
  }
  const key = await derive(passphrase, header.slice(16), iterations);
  return decrypt(key, bytes.subarray(FILE_HEADER_BYTES), header).catch(() => {
    throw wrongPassphrase("this file");
  });
}

// ---- WebCrypto ------------------------------------------------------------------------------------

async function derive(passphrase: string, salt: Bytes, iterations: number): Promise<CryptoKey> {
  if (!globalThis.crypto?.subtle) {
    throw new DeltamemError("unsupported", "Encryption needs https or localhost.");
  }
  if (passphrase === "") throw new DeltamemError("passphrase", "The passphrase is empty.");
  // Two ways to type the same letter are the same passphrase.
  const bytes = new TextEncoder().encode(passphrase.normalize("NFC"));
  const password = await crypto.subtle.importKey("raw", bytes, "PBKDF2", false, ["deriveKey"]);
  return crypto.subtle.deriveKey(
    { name: "PBKDF2", hash: "SHA-256", salt, iterations },
    password,
    { name: "AES-GCM", length: 8 * KEY_BYTES },
    false,
    ["encrypt", "decrypt"],
  );
}

/** Can be exported, so that another passphrase can wrap it. */
function importKey(raw: Bytes): Promise<CryptoKey> {
  return crypto.subtle.importKey("raw", raw, "AES-GCM", true, ["encrypt", "decrypt"]);
}

/** Initial vector, ciphertext, tag. */
async function encrypt(
  key: CryptoKey,
  bytes: Uint8Array,
  binding: string | Bytes,
): Promise<Bytes> {
  const iv = random(IV_BYTES);
  const algorithm = { name: "AES-GCM", iv, additionalData: bytesOf(binding) };
  const ciphertext = await crypto.subtle.encrypt(algorithm, key, bytes as Bytes);
  return concatenated(iv, new Uint8Array(ciphertext));
}

async function decrypt(
  key: CryptoKey,
  sealed: Uint8Array,
  binding: string | Bytes,
): Promise<Bytes> {
  const iv = sealed.slice(0, IV_BYTES);
  const algorithm = { name: "AES-GCM", iv, additionalData: bytesOf(binding) };
  const ciphertext = sealed.slice(IV_BYTES);
  return new Uint8Array(await crypto.subtle.decrypt(algorithm, key, ciphertext));
}

function bindingOfKey(profile: string): string {
  return JSON.stringify(["key", profile]);
}

function bytesOf(binding: string | Bytes): Bytes {
  return typeof binding === "string" ? new TextEncoder().encode(binding) : binding;
}

function random(length: number): Bytes {
  return crypto.getRandomValues(new Uint8Array(length));
}

function concatenated(a: Uint8Array, b: Uint8Array): Bytes {
  const bytes = new Uint8Array(a.length + b.length);
  bytes.set(a);
  bytes.set(b, a.length);
  return bytes;
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}

function wrongPassphrase(what: string): DeltamemError {
  return new DeltamemError("passphrase", `This is not the passphrase of ${what}.`);
}
