//! The only module that reads the process's environment and searches the disk.

use std::path::{Path, PathBuf};

use schemas::WorkerId;

/// A variable's text; `None` when it is not set, empty or no text.
#[expect(clippy::disallowed_methods, reason = "this is the one place where the environment is read")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// Where `PATH` has a program of that name.
pub(crate) fn on_path(program: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).filter(|path| path.is_file()).collect()
}

/// A file beneath the working directory, or beneath the executable's folder or one above it.
pub(crate) fn find_up(relative: &str) -> Option<PathBuf> {
    let here = std::env::current_dir().ok();
    let executable = std::env::current_exe().ok();
    let above = executable.iter().flat_map(|path| path.ancestors().skip(1));
    here.as_deref()
        .into_iter()
        .chain(above)
        .map(|folder: &Path| folder.join(relative))
        .find(|path| path.is_file())
}

/// The name of this host, as a token: what a process is called that takes up its work again after a restart.
pub(crate) fn host_name() -> String {
    host().unwrap_or_else(|| "keeper".to_owned())
}

/// A name for this process that no other running one has: host and process id.
pub(crate) fn process_name() -> WorkerId {
    let host = host().unwrap_or_else(|| "worker".to_owned());
    WorkerId::try_from(format!("{host}-{}", std::process::id()))
        .expect("letters, digits and dashes below the longest token")
}

/// The host's name in the letters of a token, cut short; `None` when it has none.
fn host() -> Option<String> {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let letters =
        host.chars().map(|c| c.to_ascii_lowercase()).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    (!host.is_empty()).then(|| letters.take(40).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_is_a_token() {
        assert!(process_name().as_str().ends_with(&std::process::id().to_string()));
    }

    #[test]
    fn what_lies_above_the_executable_is_found() {
        assert!(find_up("Cargo.toml").is_some());
        assert_eq!(find_up("no-such-file-anywhere"), None);
    }
}
