//! What the operating system knows about this process, under the names that Prometheus clients use.

use std::fs;

/// Ticks of `/proc/self/stat` in a second; fixed in Linux' interface to programs.
const TICKS: f64 = 100.0;

/// Appends memory, processor time and open files to `text`, where the system tells them.
pub(super) fn append(text: &mut String) {
    let mut add = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
        }
    };
    add(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory size in bytes.",
        resident_bytes(),
    );
    add(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        cpu_seconds(),
    );
    add(
        "process_open_fds",
        "gauge",
        "Number of open file descriptors.",
        open_files(),
    );
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, in brackets, may hold blanks: count from behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

fn open_files() -> Option<f64> {
    // One of them is this look itself.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn finds_plausible_numbers() {
        assert!(super::resident_bytes().unwrap() > 100_000.0);
        assert!(super::cpu_seconds().unwrap() >= 0.0);
        assert!(super::open_files().unwrap() >= 3.0);
    }
}
