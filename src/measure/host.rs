//! Main memory of this process, where the system says. In a page nobody does.

/// Bytes of main memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostMemory {
    /// In use now.
    pub resident: Option<u64>,
    /// In use at most so far.
    pub peak: Option<u64>,
}

impl HostMemory {
    /// Of this process, now.
    pub fn now() -> HostMemory {
        #[cfg(target_os = "linux")]
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            return HostMemory::from_status(&status);
        }
        HostMemory::default()
    }

    /// From the text of Linux's `/proc/PID/status`.
    #[cfg(any(target_os = "linux", test))]
    fn from_status(status: &str) -> HostMemory {
        let of = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
        };
        HostMemory { resident: of("VmRSS:"), peak: of("VmHWM:") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_process_is_read() {
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        let memory = HostMemory::from_status(status);
        assert_eq!(memory, HostMemory { resident: Some(1 << 20), peak: Some(2 << 20) });
        assert_eq!(HostMemory::from_status("VmRSS:\tmany kB"), HostMemory::default());
    }
}
