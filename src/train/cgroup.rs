//! Memory limits of Linux control groups (containers, batch jobs), which `/proc/meminfo` does not show.

use std::path::{Component, Path, PathBuf};

/// Names of a hierarchy's files: limit, usage, and the line of `memory.stat` with the file cache that can be given up at once.
struct Files {
    limit: &'static str,
    usage: &'static str,
    cache: &'static str,
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};
const V2: Files = Files {
    limit: "memory.max",
    usage: "memory.current",
    cache: "inactive_file",
};

/// Bytes that the process may still take under the limits of its control group and of all groups above it, version 1 or 2;
/// `None` where there is no limit. `root` is the file system's root.
pub(super) fn free(root: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mount = root.join("sys/fs/cgroup");
    groups
        .lines()
        .filter_map(|line| {
            // number:controllers:path; version 2 has number 0 and no controllers.
            let mut parts = line.splitn(3, ':');
            let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            if controllers.split(',').any(|c| c == "memory") {
                return least(&mount.join("memory"), path, &V1);
            }
            (number == "0" && controllers.is_empty())
                .then(|| least(&mount, path, &V2))
                .flatten()
        })
        .min()
}

/// The least that a group and those above it leave. In a container the path may be the host's, and only its end, or nothing of it,
/// be there: what is not there has no limit.
fn least(mount: &Path, path: &str, files: &Files) -> Option<u64> {
    let names = Path::new(path).components().filter_map(|c| match c {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let mut dir: PathBuf = mount.to_path_buf();
    let mut least = left(&dir, files);
    for name in names {
        dir.push(name);
        least = least.into_iter().chain(left(&dir, files)).min();
    }
    least
}

/// What one group leaves: its limit less its usage, of which the inactive file cache does not count.
fn left(dir: &Path, files: &Files) -> Option<u64> {
    let text = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
    // "max" in version 2 is no number; version 1 has one that no machine reaches.
    let limit = number(files.limit)?;
    let cache = text("memory.stat").and_then(|stat| {
        let mut lines = stat.lines().filter_map(|l| l.split_once(' '));
        let (_, bytes) = lines.find(|(name, _)| *name == files.cache)?;
        bytes.trim().parse::<u64>().ok()
    });
    let used = number(files.usage)
        .unwrap_or(0)
        .saturating_sub(cache.unwrap_or(0));
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A file system of these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn version_2_takes_the_tightest_group_above_the_process() {
        let fs = root(&[
            ("proc/self/cgroup", "0::/user.slice/job.scope\n"),
            ("sys/fs/cgroup/user.slice/memory.max", "5000\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "3000\n"),
            (
                "sys/fs/cgroup/user.slice/memory.stat",
                "anon 1\ninactive_file 1200\nfile 1500\n",
            ),
            ("sys/fs/cgroup/user.slice/job.scope/memory.max", "9000\n"),
            ("sys/fs/cgroup/user.slice/job.scope/memory.current", "100\n"),
        ]);
        assert_eq!(free(fs.path()), Some(5000 - (3000 - 1200)));
        // The group itself is tighter; then it is over its limit.
        let own = fs.path().join("sys/fs/cgroup/user.slice/job.scope/memory.max");
        std::fs::write(&own, "600").unwrap();
        assert_eq!(free(fs.path()), Some(500));
        std::fs::write(&own, "50").unwrap();
        assert_eq!(free(fs.path()), Some(0));
        std::fs::write(&own, "max\n").unwrap();
        assert_eq!(free(fs.path()), Some(3200));
    }

    #[test]
    fn version_1_in_a_container_reads_the_mounted_group() {
        let fs = root(&[
            // The host's path, of which the container sees nothing; the unified line has no memory files.
            (
                "proc/self/cgroup",
                "12:cpu,cpuacct:/docker/ab\n5:memory:/docker/ab\n0::/docker/ab\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1096\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "inactive_file 1\ntotal_inactive_file 96\n",
            ),
        ]);
        assert_eq!(free(fs.path()), Some(3096));
    }

    #[test]
    fn without_limits_there_is_none() {
        assert_eq!(free(root(&[]).path()), None);
        let fs = root(&[
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.current", "7\n"),
        ]);
        assert_eq!(free(fs.path()), None);
    }
}
