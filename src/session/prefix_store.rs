//! Kept contexts beyond the life of a model: what a place for their files must be able to do, and how
//! a session writes and reads one. Owns that a file which is not exactly what was written is never
//! used; which context belongs to which conversation is `prefix.rs`.
//!
//! KV positions go layer by layer, from the device to the file and back. A file's positions are put
//! beyond the end of the cache, where nothing reads them, and count only after its checksum did.

use super::Session;
use super::prefix::Added;
use crate::error::{Error, Result};
use crate::memory::MemoryState;
use crate::memory_file::hex;
use crate::prefix_file::{CHECKSUM_BYTES, Checksum, FILE_EXTENSION, HEADER_BYTES, PrefixHeader};
use std::pin::Pin;

/// What a [`PrefixStore`]'s calls give that may have to wait.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A place for files of kept contexts, one read or written at a time, from the beginning on. It keeps
/// its total size within its own bounds, and throws away what was used least recently.
pub trait PrefixStore {
    /// Opens the file of this name for reading and gives its size in bytes; `None` if there is none.
    fn open<'a>(&'a mut self, name: &'a str) -> StoreFuture<'a, Result<Option<u64>>>;

    /// The next bytes of the open file.
    ///
    /// # Errors
    /// [`Error::Io`], also if there are not so many.
    fn read(&mut self, into: &mut [u8]) -> Result<()>;

    /// Ends reading. A file with a `problem` is removed and the problem reported; else it is the one
    /// used last.
    fn close<'a>(&'a mut self, problem: Option<&'a Error>) -> StoreFuture<'a, ()>;

    /// Begins a file of this name and size beside the one that may be there; `false` if files of this
    /// size are not kept.
    fn create<'a>(&'a mut self, name: &'a str, size_bytes: u64) -> StoreFuture<'a, Result<bool>>;

    /// The next bytes of the new file.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Ends writing: the new file takes its place at once. With a `problem` it is dropped and the
    /// problem reported.
    fn finish<'a>(&'a mut self, problem: Option<&'a Error>) -> StoreFuture<'a, ()>;

    /// Removes all files.
    fn clear(&mut self) -> StoreFuture<'_, Result<()>>;
}

/// As a session holds it.
#[cfg(not(target_arch = "wasm32"))]
pub type AnyPrefixStore = Box<dyn PrefixStore + Send>;
/// As a session holds it; what JavaScript has stays on its thread.
#[cfg(target_arch = "wasm32")]
pub type AnyPrefixStore = Box<dyn PrefixStore>;

/// What a file failed at: its own contents or place, which others need not suffer for, or the device.
enum Failure {
    File(Error),
    Device(Error),
}

impl Session {
    /// Puts the context kept under `key` into the empty cache, with the memory after it. `None` if
    /// there is none, or none that is whole: such a file is reported and removed, and nothing has
    /// changed.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) async fn load_prefix(
        &mut self,
        key: &[u8; 32],
        n_tokens: usize,
    ) -> Result<Option<Added>> {
        let Some(mut store) = self.prefixes.store.take() else { return Ok(None) };
        let loaded = self.load_from(&mut *store, key, n_tokens).await;
        self.prefixes.store = Some(store);
        loaded
    }

    async fn load_from(
        &mut self,
        store: &mut dyn PrefixStore,
        key: &[u8; 32],
        n_tokens: usize,
    ) -> Result<Option<Added>> {
        let name = file_name(key);
        let size_bytes = match store.open(&name).await {
            Ok(Some(size_bytes)) => size_bytes,
            Ok(None) => return Ok(None),
            Err(error) => {
                store.close(Some(&error)).await;
                return Ok(None);
            }
        };
        let expected = self.prefix_header(key, n_tokens, Added::default());
        let read = self.read_parts(store, &expected, size_bytes, &name).await;
        // what does not count is forgotten, what was read is not
        self.model.engine.count_positions(if read.is_ok() { n_tokens } else { 0 });
        match read {
            Ok((added, memory)) => {
                self.model.engine.write_memory(&memory)?;
                store.close(None).await;
                Ok(Some(added))
            }
            Err(Failure::File(error)) => {
                store.close(Some(&error)).await;
                Ok(None)
            }
            Err(Failure::Device(error)) => {
                store.close(None).await;
                Err(error)
            }
        }
    }

    async fn read_parts(
        &mut self,
        store: &mut dyn PrefixStore,
        expected: &PrefixHeader,
        size_bytes: u64,
        name: &str,
    ) -> Result<(Added, MemoryState), Failure> {
        let mut sum = Checksum::default();
        let mut header = [0; HEADER_BYTES];
        read_part(store, &mut header, &mut sum)?;
        // its size follows from what is expected, so nothing larger is ever read
        let found = expected.accept(&header, size_bytes, name).map_err(Failure::File)?;
        let mut state = vec![0; expected.state_bytes()];
        read_part(store, &mut state, &mut sum)?;
        let mut keys = vec![0; expected.layer_bytes()];
        let mut values = keys.clone();
        for layer in 0..expected.n_layers as usize {
            read_part(store, &mut keys, &mut sum)?;
            read_part(store, &mut values, &mut sum)?;
            let written = self.model.engine.write_kv(layer, [&keys, &values]).await;
            written.map_err(Failure::Device)?;
        }
        let mut checksum = [0; CHECKSUM_BYTES];
        store.read(&mut checksum).map_err(Failure::File)?;
        sum.check(&checksum, name).map_err(Failure::File)?;
        let values = state.chunks_exact(4);
        let values = values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let dims = self.model.engine.memory_dims().clone();
        Ok((Added(found.added), MemoryState { dims, values }))
    }

    /// Writes the context, which has just been read from the beginning on, under `key`. What the
    /// store fails at is reported by it, and is no reason not to go on.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) async fn save_prefix(
        &mut self,
        key: &[u8; 32],
        n_tokens: usize,
        added: Added,
    ) -> Result<()> {
        let Some(mut store) = self.prefixes.store.take() else { return Ok(()) };
        let saved = self.save_to(&mut *store, key, n_tokens, added).await;
        self.prefixes.store = Some(store);
        saved
    }

    async fn save_to(
        &self,
        store: &mut dyn PrefixStore,
        key: &[u8; 32],
        n_tokens: usize,
        added: Added,
    ) -> Result<()> {
        let header = self.prefix_header(key, n_tokens, added);
        match store.create(&file_name(key), header.file_bytes()).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                store.finish(Some(&error)).await;
                return Ok(());
            }
        }
        match self.write_parts(store, &header).await {
            Ok(()) => store.finish(None).await,
            Err(Failure::File(error)) => store.finish(Some(&error)).await,
            Err(Failure::Device(error)) => {
                store.finish(Some(&error)).await;
                return Err(error);
            }
        }
        Ok(())
    }

    async fn write_parts(
        &self,
        store: &mut dyn PrefixStore,
        header: &PrefixHeader,
    ) -> Result<(), Failure> {
        let engine = &self.model.engine;
        let mut sum = Checksum::default();
        write_part(store, &header.encode(), &mut sum)?;
        let memory = engine.read_memory().await.map_err(Failure::Device)?;
        let state: Vec<u8> = memory.values.iter().flat_map(|x| x.to_le_bytes()).collect();
        write_part(store, &state, &mut sum)?;
        for layer in 0..header.n_layers as usize {
            let kv = engine.read_kv(layer, header.n_tokens as usize).await;
            for part in kv.map_err(Failure::Device)? {
                write_part(store, &part, &mut sum)?;
            }
        }
        store.write(&sum.bytes()).map_err(Failure::File)
    }

    fn prefix_header(&self, key: &[u8; 32], n_tokens: usize, added: Added) -> PrefixHeader {
        let engine = &self.model.engine;
        PrefixHeader {
            // all of these are far below 2^32: they are sizes of what is on the device
            n_tokens: n_tokens as u32,
            n_layers: engine.config().n_layers as u32,
            position_bytes: engine.kv_position_bytes() as u32,
            n_state: engine.memory_dims().len() as u32,
            added: added.0,
            key: *key,
        }
    }
}

fn file_name(key: &[u8; 32]) -> String {
    format!("{}.{FILE_EXTENSION}", hex(key))
}

fn read_part(
    store: &mut dyn PrefixStore,
    into: &mut [u8],
    sum: &mut Checksum,
) -> Result<(), Failure> {
    store.read(into).map_err(Failure::File)?;
    sum.add(into);
    Ok(())
}

fn write_part(store: &mut dyn PrefixStore, part: &[u8], sum: &mut Checksum) -> Result<(), Failure> {
    sum.add(part);
    store.write(part).map_err(Failure::File)
}
