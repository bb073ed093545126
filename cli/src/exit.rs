//! How the process ends: one line on stderr that names what to change, and an exit code.

use std::process::ExitCode;

use transport::address::redacted;

use crate::config::ConfigError;

/// Something went wrong while we worked.
const FAILED: u8 = 1;
/// What we were told cannot be done: arguments or configuration.
const USAGE: u8 = 2;

/// A request that makes no sense, found after the arguments were read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// The work was done and its outcome is bad; it was told already.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unsuccessful(pub(crate) String);

/// A signal ended us before we were done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Interrupted {
    /// SIGINT: Ctrl-C.
    #[error("interrupted")]
    Interrupt,
    /// SIGTERM.
    #[error("terminated")]
    Terminate,
    /// SIGPIPE, which Rust turns into an error: whoever read our output went away.
    #[error("nobody reads our output any more")]
    Pipe,
}

impl Interrupted {
    /// 128 and the signal's number, as shells count.
    const fn code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
            Self::Pipe => 141,
        }
    }
}

/// Tells how it went and gives the exit code.
pub(crate) fn conclude(outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    let code = code(&error);
    // `beacon results | head` has nothing to complain about.
    if code != Interrupted::Pipe.code() {
        eprintln!("beacon: {}", one_line(&error));
    }
    ExitCode::from(code)
}

fn code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(signal) = cause.downcast_ref::<Interrupted>() {
            return signal.code();
        }
        if cause.is::<ConfigError>() || cause.is::<Usage>() {
            return USAGE;
        }
    }
    FAILED
}

/// The whole chain of causes on one line, without saying anything twice, and without the login of an address: a parser may quote
/// what it read.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if line.ends_with(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    redacted(&line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_chain_of_causes_is_one_line_without_repeats() {
        let error = anyhow::anyhow!("no such\n file").context("cannot read x: no such file");
        assert_eq!(one_line(&error), "cannot read x: no such file");
        let error = anyhow::anyhow!("refused").context("cannot connect");
        assert_eq!(one_line(&error), "cannot connect: refused");
    }

    #[test]
    fn no_login_is_printed_whoever_quotes_it() {
        let error = anyhow::anyhow!(r#"invalid type: string "nats://al:secret@h:1", expected a list"#);
        assert_eq!(one_line(&error), r#"invalid type: string "nats://h:1", expected a list"#);
    }

    #[test]
    fn the_exit_code_tells_usage_from_failure_from_a_signal() {
        assert_eq!(code(&anyhow::anyhow!("x")), 1);
        let usage: anyhow::Result<()> = Err(Usage("no".into()).into());
        assert_eq!(code(&usage.context("while").unwrap_err()), 2);
        assert_eq!(code(&Interrupted::Interrupt.into()), 130);
        assert_eq!(code(&Interrupted::Terminate.into()), 143);
    }
}
