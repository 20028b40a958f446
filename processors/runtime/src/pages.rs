//! The program's own pages: most of them serve its start alone (addresses filled in by the loader, planning of SQL, checks), and stay mapped for good,
//! since nothing on a machine with memory to spare takes them away. Given back, those still needed come back from the file's cache at the
//! next touch: of a streaming view's process 30 MB are then the program's, where 78 to 92 were (`file_mb` of `make bench-analytics`).
#![allow(unsafe_code)]

use rustix::mm::{Advice, madvise};

/// Gives back the program's code and constants, to be mapped again as they are touched. Where that cannot be done all stays as it is.
pub fn give_back_program() {
    for (start, length) in unchanged() {
        // SAFETY: the range is mapped from a file, privately, cannot be written, and no page of it was: nothing in it differs from the file,
        // and whoever executes or reads it next finds the same bytes.
        let done = unsafe { madvise(start as *mut std::ffi::c_void, length, Advice::LinuxDontNeed) };
        if let Err(error) = done {
            tracing::debug!(%error, "the program's pages stay");
        }
    }
}

/// Start and length of what is mapped of this program and is as in its file.
fn unchanged() -> Vec<(usize, usize)> {
    let all = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let own = std::env::current_exe().unwrap_or_default();
    mappings(&all, &own.to_string_lossy())
}

/// Those of the text of `/proc/self/smaps`.
fn mappings(all: &str, own: &str) -> Vec<(usize, usize)> {
    let mut lines = all.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(range) = mapped(line, own) else { continue };
        // What the loader filled in cannot be written any more either, and is in no file. `Anonymous` follows a mapping's own line, before
        // the next one's; where it does not, the mapping is left alone.
        let filled_in = lines
            .by_ref()
            .find_map(|l| l.strip_prefix("Anonymous:").or(l.strip_prefix("VmFlags:")));
        if filled_in.map(str::trim) == Some("0 kB") {
            found.push(range);
        }
    }
    found
}

/// The range of a mapping's first line, if it is of this program and cannot be written.
fn mapped(line: &str, own: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    if !matches!(fields.next()?, "r-xp" | "r--p") || own.is_empty() || fields.nth(3)? != own {
        return None;
    }
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_in_the_program_s_file_is_given_back() {
        let mapping = |rights: &str, file: &str, anonymous: &str| {
            format!(
                "5581a0000000-5581a0003000 {rights} 01000000 fe:00 1234    {file}\nRss:   12 kB\n{anonymous}VmFlags: rd ex\n"
            )
        };
        let clean = "Anonymous:             0 kB\n";
        for rights in ["r-xp", "r--p"] {
            let all = mapping("rw-p", "/opt/soma", clean) + &mapping(rights, "/opt/soma", clean);
            assert_eq!(mappings(&all, "/opt/soma"), [(0x5581_a000_0000, 0x3000)], "{rights}");
        }
        for (rights, file, anonymous) in [
            ("r--p", "/opt/soma", "Anonymous:             4 kB\n"),
            ("r--p", "/opt/soma", ""),
            ("rw-p", "/opt/soma", clean),
            ("rwxp", "/opt/soma", clean),
            ("r-xs", "/opt/soma", clean),
            ("r-xp", "/lib/libc.so.6", clean),
            ("r-xp", "", clean),
        ] {
            let all = mapping(rights, file, anonymous);
            assert!(mappings(&all, "/opt/soma").is_empty(), "{all}");
        }
    }

    #[test]
    fn less_of_the_program_is_there_afterwards_and_it_goes_on() {
        let there = || -> u64 {
            let ranges = unchanged();
            let all = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let mut lines = all.lines();
            let mut sum = 0;
            for (start, _) in ranges {
                lines.find(|l| l.starts_with(&format!("{start:x}-"))).unwrap();
                let rss = lines.find_map(|l| l.strip_prefix("Rss:")).unwrap();
                sum += rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            }
            sum
        };
        // Every page, so that there is something to give back.
        for (start, length) in unchanged() {
            // SAFETY: ranges of this program; it asks for their pages to be read.
            unsafe { madvise(start as *mut std::ffi::c_void, length, Advice::LinuxPopulateRead).unwrap() };
        }
        let before = there();
        give_back_program();
        let after = there();
        // Other tests go on meanwhile, and touch what they need.
        assert!(after < before / 4 * 3, "{before} kB before, {after} kB after");
        assert_eq!(serde_json::to_string(&[1, 2]).unwrap(), "[1,2]");
    }
}
