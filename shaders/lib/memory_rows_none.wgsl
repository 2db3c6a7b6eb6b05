// No memory rows: all workgroups have rows of W.
fn memory_rows(first: u32, group: u32, token: u32, lane: u32) -> bool {
    return false;
}
