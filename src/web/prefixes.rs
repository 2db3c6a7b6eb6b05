//! Files of kept contexts that JavaScript keeps. Owns how bytes and errors pass to and from its object;
//! where they lie is the page's business (`web/lib/prefix-store.ts`).

use super::{JsResult, WebModel, js_error};
use crate::error::{Error, Result};
use crate::session::{PrefixStore, StoreFuture};
use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;

/// Bytes that pass through JavaScript at a time.
const PIECE_BYTES: usize = 1 << 20;

#[wasm_bindgen]
extern "C" {
    /// What a page hands over; see [`PrefixStore`] for what each call means. Whatever throws is a
    /// problem of this file, no more.
    type JsPrefixStore;

    #[wasm_bindgen(method, catch)]
    async fn open(this: &JsPrefixStore, name: &str) -> std::result::Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn read(this: &JsPrefixStore, into: &Uint8Array) -> std::result::Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    async fn close(
        this: &JsPrefixStore,
        problem: Option<String>,
    ) -> std::result::Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    async fn create(
        this: &JsPrefixStore,
        name: &str,
        size_bytes: f64,
    ) -> std::result::Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn write(this: &JsPrefixStore, bytes: &Uint8Array) -> std::result::Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    async fn finish(
        this: &JsPrefixStore,
        problem: Option<String>,
    ) -> std::result::Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    async fn clear(this: &JsPrefixStore) -> std::result::Result<JsValue, JsValue>;
}

#[wasm_bindgen]
impl WebModel {
    /// Lets the model keep what conversations begin with as files, before the first call. Keys are
    /// for this very browser and GPU.
    #[wasm_bindgen(js_name = storePrefixes)]
    pub async fn store_prefixes(
        &mut self,
        #[wasm_bindgen(
            unchecked_param_type = "{ open(name: string): Promise<number | null>; read(into: Uint8Array): void; close(problem?: string): Promise<void>; create(name: string, bytes: number): Promise<boolean>; write(bytes: Uint8Array): void; finish(problem?: string): Promise<void>; clear(): Promise<void> }"
        )]
        store: JsValue,
    ) -> JsResult<()> {
        let piece = Uint8Array::new_with_length(PIECE_BYTES as u32);
        let store = WebPrefixes { js: store.unchecked_into(), piece };
        self.session.store_prefixes(Box::new(store)).await.map_err(js_error)
    }
}

struct WebPrefixes {
    js: JsPrefixStore,
    piece: Uint8Array,
}

impl PrefixStore for WebPrefixes {
    fn open<'a>(&'a mut self, name: &'a str) -> StoreFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            let size = self.js.open(name).await.map_err(problem)?;
            Ok(size.as_f64().map(|size| size as u64))
        })
    }

    fn read(&mut self, into: &mut [u8]) -> Result<()> {
        for into in into.chunks_mut(PIECE_BYTES) {
            let piece = self.piece.subarray(0, into.len() as u32);
            self.js.read(&piece).map_err(problem)?;
            piece.copy_to(into);
        }
        Ok(())
    }

    fn close<'a>(&'a mut self, error: Option<&'a Error>) -> StoreFuture<'a, ()> {
        let error = error.map(Error::to_string);
        Box::pin(async move {
            // a file that could not be let go of is the page's to report
            let _ = self.js.close(error).await;
        })
    }

    fn create<'a>(&'a mut self, name: &'a str, size_bytes: u64) -> StoreFuture<'a, Result<bool>> {
        Box::pin(async move {
            let is_begun = self.js.create(name, size_bytes as f64).await.map_err(problem)?;
            Ok(is_begun == JsValue::TRUE)
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        for bytes in bytes.chunks(PIECE_BYTES) {
            let piece = self.piece.subarray(0, bytes.len() as u32);
            piece.copy_from(bytes);
            self.js.write(&piece).map_err(problem)?;
        }
        Ok(())
    }

    fn finish<'a>(&'a mut self, error: Option<&'a Error>) -> StoreFuture<'a, ()> {
        let error = error.map(Error::to_string);
        Box::pin(async move {
            // as above
            let _ = self.js.finish(error).await;
        })
    }

    fn clear(&mut self) -> StoreFuture<'_, Result<()>> {
        Box::pin(async move { self.js.clear().await.map(drop).map_err(problem) })
    }
}

/// What a page's store threw.
fn problem(thrown: JsValue) -> Error {
    let text = match thrown.dyn_ref::<js_sys::Error>() {
        Some(error) => String::from(error.to_string()),
        None => format!("{thrown:?}"),
    };
    Error::io("kept contexts")(std::io::Error::other(text))
}
