//! The machine's GPU as a device of Burn's, through wgpu: cargo feature `train-gpu`.

use super::Device;
use crate::error::{Error, Result};
use std::sync::OnceLock;

/// The GPU that training runs on, on Vulkan or Metal; opened once in a program.
///
/// # Errors
/// [`Error::NoAdapter`].
pub fn gpu_device() -> Result<Device> {
    static OPENED: OnceLock<std::result::Result<Device, String>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| Device::wgpu_options().init().map_err(|e| e.to_string()));
    opened.clone().map_err(|reason| Error::NoAdapter { reason })
}
