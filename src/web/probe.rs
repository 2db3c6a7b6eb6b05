//! What a memory makes of a question, for a page. Owns nothing but the conversion.

use super::{JsResult, WebModel, js_error};
use js_sys::Float32Array;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
impl WebModel {
    /// The logits of the token that would begin the answer to `text`, given the memory and an empty
    /// context. Nothing is written.
    pub async fn probe(&mut self, text: String) -> JsResult<Float32Array> {
        let logits = self.session.probe(&text).await.map_err(js_error)?;
        Ok(Float32Array::from(logits.as_slice()))
    }
}
