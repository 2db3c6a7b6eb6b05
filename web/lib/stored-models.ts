/** `LanguageModel.weights`: the models whose files are on this device. */
import { DeltamemError } from "./errors.js";
import { clearPrefixes } from "./prefix-store.js";
import { type StoredModel, WeightStore } from "./weight-store.js";

/** Complete models, and downloads that were interrupted or are on their way; none where storage is refused. */
export async function listStoredModels(): Promise<StoredModel[]> {
  return (await openStore())?.list() ?? [];
}

/**
 * Deletes the files of the model with this address (the folder's, as `list` tells it) and any part of
 * a download, and what `prefixCache` has kept. Rejects with `busy` while a tab downloads or loads it.
 */
export async function removeStoredModel(url: string): Promise<void> {
  await (await openStore())?.remove(url);
  // which of the kept contexts were this model's is not known; others' are read once more
  await clearPrefixes();
}

function openStore(): Promise<WeightStore | null> {
  return WeightStore.open(() => {
    throw new DeltamemError("unsupported", "Nothing is hashed while models are listed.");
  });
}
