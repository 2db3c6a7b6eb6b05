// Where δ-mem's corrections of a head stand in D: the rows of those of q, k, v that are corrected, one
// below the other. head counts q, then k, then v heads.

fn is_corrected(head: u32) -> bool {
    if (head < params.n_heads) {
        return params.corrects_q == 1u;
    }
    if (head < params.n_heads + params.n_kv_heads) {
        return params.corrects_k == 1u;
    }
    return params.corrects_v == 1u;
}

// The first quad of the head's rows in `adjustments`, after the norms' weights.
fn first_adjustment(head: u32) -> u32 {
    var first_head = head;
    if (head >= params.n_heads) {
        first_head -= params.n_heads * (1u - params.corrects_q);
    }
    if (head >= params.n_heads + params.n_kv_heads) {
        first_head -= params.n_kv_heads * (1u - params.corrects_k);
    }
    return params.has_norm * (HEAD_DIM / 2u) + first_head * HEAD_DIM * (params.n_reads / 4u);
}
