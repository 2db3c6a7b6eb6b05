//! Names of tensors: GGUF's for Hugging Face's, both ways.

/// Outside of the layers: GGUF, Hugging Face.
const GLOBAL: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// In a layer, between the layer's number and `.weight`: GGUF, Hugging Face.
const IN_LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The Hugging Face name of a tensor that GGUF calls `name`, `None` for one that no supported
/// model has.
pub fn hugging_face_name(name: &str) -> Option<String> {
    if let Some((_, theirs)) = GLOBAL.iter().find(|(ours, _)| *ours == name) {
        return Some((*theirs).into());
    }
    let (layer, part) = name.strip_prefix("blk.")?.strip_suffix(".weight")?.split_once('.')?;
    let (_, part) = IN_LAYER.iter().find(|(ours, _)| *ours == part)?;
    Some(format!("model.layers.{}.{part}.weight", layer_number(layer)?))
}

/// What GGUF calls the tensor that Hugging Face calls `name`, `None` for one that no supported
/// model has.
pub fn gguf_name(name: &str) -> Option<String> {
    if let Some((ours, _)) = GLOBAL.iter().find(|(_, theirs)| *theirs == name) {
        return Some((*ours).into());
    }
    let rest = name.strip_prefix("model.layers.")?.strip_suffix(".weight")?;
    let (layer, part) = rest.split_once('.')?;
    let (part, _) = IN_LAYER.iter().find(|(_, theirs)| *theirs == part)?;
    Some(format!("blk.{}.{part}.weight", layer_number(layer)?))
}

/// Only the usual spelling, so that two names never mean one tensor.
fn layer_number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n: &u32| n.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        let pairs = [
            ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
            ("blk.35.ffn_norm.weight", "model.layers.35.post_attention_layernorm.weight"),
            ("output_norm.weight", "model.norm.weight"),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(hugging_face_name(ours).as_deref(), Some(theirs));
            assert_eq!(gguf_name(theirs).as_deref(), Some(ours));
        }
        for other in
            ["blk.00.attn_q.weight", "blk.+1.attn_q.weight", "blk.1.attn_q.bias", "", "blk."]
        {
            assert_eq!(hugging_face_name(other), None, "{other}");
        }
        assert_eq!(gguf_name("model.layers.01.mlp.up_proj.weight"), None);
    }
}
