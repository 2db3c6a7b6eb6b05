// No memory: all workgroups have heads.
fn memory_beside(head: u32, token: u32, lane: u32) -> bool {
    return false;
}
