//! Every kernel on the GPU against its CPU twin of the same name: the sizes of SmolLM3 (with fewer
//! rows where a product would take too long), odd sizes and extreme numbers, through the host
//! entries that the model uses. Kernels that reduce run in every workgroup form.

#[path = "../common/mod.rs"]
mod common;

mod attention;
mod backbone;
mod bench;
mod decoding;
mod linear;
mod memory;
mod roofline;
mod sampling;
