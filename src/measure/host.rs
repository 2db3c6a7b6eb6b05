//! Main memory and CPU time of this process, where the system says. In a page nobody does.

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

/// Seconds that all threads of this process have computed so far, in steps of 10 ms.
pub fn cpu_seconds() -> Option<f64> {
    #[cfg(target_os = "linux")]
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
        return cpu_seconds_from_stat(&stat);
    }
    None
}

/// From the text of Linux's `/proc/PID/stat`: user and system time, fields 14 and 15.
#[cfg(any(target_os = "linux", test))]
fn cpu_seconds_from_stat(stat: &str) -> Option<f64> {
    /// The unit of these fields for programs, whatever the kernel's own ticks are.
    const TICKS_A_SECOND: f64 = 100.0;
    // the name of the program stands in parentheses and may have any of both
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some((next()? + next()?) as f64 / TICKS_A_SECOND)
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

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let stat = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 7 8 20 0 3";
        assert_eq!(cpu_seconds_from_stat(stat), Some(3.0));
        assert_eq!(cpu_seconds_from_stat("12 (a) S 1 2"), None);
    }
}
