//! `delta_mem_adapter.pt` as `torch.save` writes it, so that the reference loads what was trained
//! here: an uncompressed ZIP of a pickle (protocol 2) and one raw little-endian entry a tensor
//! (SPEC.md section 6). The reading half is `weights/torch.rs`.

use super::adapter::AdapterParameters;
use crate::error::{Error, Result};

/// Tensors begin at multiples of this in the file, as torch has it.
const ALIGNMENT: usize = 64;
/// MS-DOS date and time that every entry carries, 1 January 1980: the same bytes for the same
/// tensors.
const DOS_DATE: u16 = 0x21;

/// The bytes of a file named `stem`.pt.
///
/// # Errors
/// [`Error::Unsupported`] for 2 GiB or more: ZIP and pickle would need their 64-bit forms.
pub(super) fn torch_bytes(parameters: &AdapterParameters, stem: &str) -> Result<Vec<u8>> {
    if parameters.n_values() >= 1 << 29 {
        return Err(Error::Unsupported {
            what: format!("a .pt file of {} parameters", parameters.n_values()),
            reason: "at most 2 GiB are written; the safetensors file has no such limit".into(),
        });
    }
    let mut archive = Archive::default();
    archive.add(&format!("{stem}/data.pkl"), &pickle(parameters));
    archive.add(&format!("{stem}/byteorder"), b"little");
    for index in 0..parameters.len() {
        let values = parameters.values(index).iter();
        let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
        archive.add(&format!("{stem}/data/{index}"), &bytes);
    }
    archive.add(&format!("{stem}/version"), b"3\n");
    Ok(archive.finish())
}

/// A dict of name → `_rebuild_tensor_v2(storage, 0, shape, stride, False, OrderedDict())`.
fn pickle(parameters: &AdapterParameters) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec(); // protocol 2, empty dict, mark
    for index in 0..parameters.len() {
        let (name, shape) = parameters.describe(index);
        push_text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n(");
        // The persistent id of the storage.
        out.push(b'(');
        push_text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        push_text(&mut out, &index.to_string());
        push_text(&mut out, "cpu");
        push_number(&mut out, parameters.values(index).len());
        out.extend(b"tQ");
        push_number(&mut out, 0);
        push_tuple(&mut out, shape);
        let strides: Vec<usize> =
            (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        push_tuple(&mut out, &strides);
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn push_number(out: &mut Vec<u8>, n: usize) {
    out.push(b'J');
    out.extend((n as i32).to_le_bytes());
}

fn push_tuple(out: &mut Vec<u8>, numbers: &[usize]) {
    out.push(b'(');
    numbers.iter().for_each(|&n| push_number(out, n));
    out.push(b't');
}

/// A ZIP file of stored entries, APPNOTE.TXT sections 4.3.7, 4.3.12 and 4.3.16.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    /// The central directory so far.
    directory: Vec<u8>,
    n_entries: u16,
}

impl Archive {
    fn add(&mut self, name: &str, content: &[u8]) {
        let offset = self.bytes.len() as u32;
        // Everything that both headers say alike: version 2.0, no flags, stored.
        let mut common = Vec::new();
        for field in [20u16, 0, 0, 0, DOS_DATE] {
            common.extend(field.to_le_bytes());
        }
        for field in [crc32(content), content.len() as u32, content.len() as u32] {
            common.extend(field.to_le_bytes());
        }
        common.extend((name.len() as u16).to_le_bytes());
        // An extra field of our own length moves the content to its alignment.
        let unpadded = self.bytes.len() + 4 + common.len() + 2 + name.len() + 4;
        let n_padding = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        self.bytes.extend(b"PK\x03\x04");
        self.bytes.extend(&common);
        self.bytes.extend((n_padding as u16 + 4).to_le_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.extend(b"FB");
        self.bytes.extend((n_padding as u16).to_le_bytes());
        self.bytes.resize(self.bytes.len() + n_padding, b'Z');
        self.bytes.extend(content);

        self.directory.extend(b"PK\x01\x02");
        self.directory.extend(20u16.to_le_bytes()); // made by: 2.0
        self.directory.extend(&common);
        self.directory.extend([0; 12]); // no extra field, comment, disk number, attributes
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.n_entries += 1;
    }

    fn finish(mut self) -> Vec<u8> {
        let start = self.bytes.len() as u32;
        self.bytes.extend(&self.directory);
        self.bytes.extend(b"PK\x05\x06\0\0\0\0");
        self.bytes.extend(self.n_entries.to_le_bytes());
        self.bytes.extend(self.n_entries.to_le_bytes());
        self.bytes.extend((self.directory.len() as u32).to_le_bytes());
        self.bytes.extend(start.to_le_bytes());
        self.bytes.extend([0; 2]); // no comment
        self.bytes
    }
}

/// CRC-32 as ZIP has it (polynomial 0xEDB88320, reflected).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| match crc & 1 {
            1 => crc >> 1 ^ 0xEDB8_8320,
            _ => crc >> 1,
        })
    })
}
