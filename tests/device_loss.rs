//! A device that goes away: whoever waits for it is told, and so is everybody who asks later. A file
//! of its own, because a lost device helps no other test.

mod common;

use std::sync::{Arc, Mutex};

#[test]
fn a_lost_device_is_told_and_stays_lost() {
    let Some(gpu) = common::gpu(false) else { return };
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let told = reasons.clone();
    gpu.on_lost(move |reason| told.lock().unwrap().push(reason.to_string()));
    let code = |result: deltamem::Result<Vec<u8>>| result.map_err(|e| e.code()).unwrap_err();
    pollster::block_on(async {
        let buffer = gpu.storage_with("values", &[1.0, 2.0]).await.unwrap();
        assert_eq!(gpu.read(&buffer, 4, 4).await.unwrap(), 2.0f32.to_le_bytes());
        gpu.finished().await.unwrap();

        gpu.device.destroy();
        assert_eq!(code(gpu.read(&buffer, 4, 4).await), "device_lost");
        assert_eq!(code(gpu.clone().read(&buffer, 4, 4).await), "device_lost");
        assert_eq!(gpu.finished().await.unwrap_err().code(), "device_lost");
        assert_eq!(gpu.check().unwrap_err().code(), "device_lost");
    });
    assert_eq!(reasons.lock().unwrap().len(), 1);
    // who comes late is told at once
    let told = reasons.clone();
    gpu.on_lost(move |reason| told.lock().unwrap().push(reason.to_string()));
    assert_eq!(reasons.lock().unwrap().len(), 2);
}
