//! Writes GGUF files byte by byte, so that every part of one can be wrong.

use deltamem::weights::bytes::Blob;

/// A file in the making; what is public may be set to nonsense.
#[derive(Clone)]
pub struct Builder {
    pub magic: [u8; 4],
    pub version: u32,
    /// What the header says, if not the truth.
    pub n_tensors: Option<u64>,
    pub n_keys: Option<u64>,
    pub alignment: usize,
    /// Encoded: key, type, value.
    pub keys: Vec<Vec<u8>>,
    pub tensors: Vec<Tensor>,
}

#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    /// As in the file: the row first.
    pub dimensions: Vec<u64>,
    pub ty: u32,
    pub bytes: Vec<u8>,
    /// Counted from the first tensor, if not where it is.
    pub offset: Option<u64>,
}

/// A text with its length.
pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A list's type, length and encoded elements.
pub fn list(kind: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    let count = (elements.len() as u64).to_le_bytes();
    [kind.to_le_bytes().to_vec(), count.to_vec(), elements.concat()].concat()
}

impl Builder {
    /// Nothing in it.
    pub fn empty() -> Builder {
        Builder {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_keys: None,
            alignment: 32,
            keys: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// A Qwen3 of one layer in f32 that counts, and no vocabulary.
    pub fn qwen3() -> Builder {
        let mut builder = Builder::empty();
        builder.text("general.architecture", "qwen3");
        for (key, n) in [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", 8),
            ("feed_forward_length", 4),
            ("attention.head_count", 2),
            ("attention.key_length", 4),
        ] {
            builder.u32(&format!("qwen3.{key}"), n);
        }
        builder.f32("qwen3.attention.layer_norm_rms_epsilon", 1e-6);
        for (name, dimensions) in [
            ("token_embd", vec![8, 3]),
            ("blk.0.attn_norm", vec![8]),
            ("blk.0.attn_q", vec![8, 8]),
            ("blk.0.attn_k", vec![8, 8]),
            ("blk.0.attn_v", vec![8, 8]),
            ("blk.0.attn_output", vec![8, 8]),
            ("blk.0.attn_q_norm", vec![4]),
            ("blk.0.attn_k_norm", vec![4]),
            ("blk.0.ffn_norm", vec![8]),
            ("blk.0.ffn_gate", vec![8, 4]),
            ("blk.0.ffn_up", vec![8, 4]),
            ("blk.0.ffn_down", vec![4, 8]),
            ("output_norm", vec![8]),
        ] {
            let n: u64 = dimensions.iter().product();
            let bytes = (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect();
            let name = format!("{name}.weight");
            builder.tensors.push(Tensor { name, dimensions, ty: 0, bytes, offset: None });
        }
        builder
    }

    /// Adds a key with an encoded value of a type.
    pub fn key(&mut self, key: &str, kind: u32, value: &[u8]) -> &mut Builder {
        self.keys.push([&text(key), &kind.to_le_bytes()[..], value].concat());
        self
    }

    pub fn text(&mut self, key: &str, value: &str) -> &mut Builder {
        self.key(key, 8, &text(value))
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Builder {
        self.key(key, 4, &value.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Builder {
        self.key(key, 6, &value.to_le_bytes())
    }

    /// Takes a key away, however it is encoded.
    pub fn without(&mut self, key: &str) -> &mut Builder {
        let beginning = text(key);
        self.keys.retain(|entry| !entry.starts_with(&beginning));
        self
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor")
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        out.extend(self.keys.concat());
        let mut data = Vec::new();
        for tensor in &self.tensors {
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            out.extend(text(&tensor.name));
            out.extend((tensor.dimensions.len() as u32).to_le_bytes());
            tensor.dimensions.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(tensor.ty.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(data);
        out
    }

    pub fn blob(&self) -> Blob {
        Blob::from_bytes(self.bytes(), "test.gguf")
    }
}
