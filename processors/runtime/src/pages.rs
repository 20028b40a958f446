//! The program's own pages: four fifths of them serve its start alone (planning of SQL, checks, command line), and stay mapped for good, since nothing
//! on a machine with memory to spare takes them away. Given back, those still needed come back from the file's cache at the next touch.
#![allow(unsafe_code)]

use rustix::mm::{Advice, madvise};

/// Gives back the program's code, to be mapped again as it is touched. Where that cannot be done all stays as it is.
pub fn give_back_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    let own = std::env::current_exe().unwrap_or_default();
    for (start, length) in maps.lines().filter_map(|line| code(line, &own.to_string_lossy())) {
        // SAFETY: the range is mapped from a file, privately, and can be executed and not written: nothing in it differs from the file, and
        // whoever executes or reads it next finds the same bytes.
        let done = unsafe { madvise(start as *mut std::ffi::c_void, length, Advice::LinuxDontNeed) };
        if let Err(error) = done {
            tracing::debug!(%error, "the program's pages stay");
        }
    }
}

/// Start and length of a line of `/proc/self/maps` that maps code of this program.
fn code(line: &str, own: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    if fields.next()? != "r-xp" || own.is_empty() || fields.nth(3)? != own {
        return None;
    }
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_this_program_is_given_back() {
        let line =
            |rights: &str, file: &str| format!("5581a0000000-5581a0003000 {rights} 01000000 fe:00 1234    {file}");
        assert_eq!(
            code(&line("r-xp", "/opt/soma"), "/opt/soma"),
            Some((0x5581_a000_0000, 0x3000))
        );
        for (rights, file) in [
            ("r--p", "/opt/soma"),
            ("rw-p", "/opt/soma"),
            ("rwxp", "/opt/soma"),
            ("r-xp", "/lib/libc.so.6"),
            ("r-xp", ""),
        ] {
            assert_eq!(code(&line(rights, file), "/opt/soma"), None, "{rights} {file}");
        }
    }

    #[test]
    fn less_of_the_program_is_mapped_afterwards_and_it_goes_on() {
        let own = std::env::current_exe().unwrap();
        // Of the lines that follow a mapping's own, how much of it is there.
        let mapped = || -> u64 {
            let all = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let mut lines = all.lines();
            let mut sum = 0;
            while let Some(line) = lines.next() {
                if code(line, &own.to_string_lossy()).is_some() {
                    let there = lines.find_map(|l| l.strip_prefix("Rss:")).unwrap();
                    sum += there.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
                }
            }
            sum
        };
        // Every page of the code, so that there is something to give back.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        for (start, length) in maps.lines().filter_map(|l| code(l, &own.to_string_lossy())) {
            // SAFETY: the same range as above; it asks for the pages to be read.
            unsafe { madvise(start as *mut std::ffi::c_void, length, Advice::LinuxPopulateRead).unwrap() };
        }
        let before = mapped();
        give_back_code();
        let after = mapped();
        assert!(after * 2 < before, "{before} kB before, {after} kB after");
        assert_eq!(serde_json::to_string(&[1, 2]).unwrap(), "[1,2]");
    }
}
