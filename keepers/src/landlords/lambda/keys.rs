//! The ssh key without which Lambda launches nothing.
//!
//! Names are unique only until two keepers add one at the same time; from then on every launch with that name fails. So a key
//! is found by what it is, not by its name, and whoever added one looks again and takes the surplus away.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{
    line::Line,
    ssh::PublicKey,
    wire::{self, Failure, SshKey, before_the_order},
};
use crate::landlord::CallError;

/// What is to be done about the key, given all keys of the account.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// It is there under this name, which no other key has.
    Use(String),
    /// It is there twice or more under our name; these ids are too many.
    Drop(Vec<String>),
    /// It is not there, or under names that cannot be used.
    Add,
}

fn plan(key: PublicKey<'_>, keys: &[SshKey]) -> Plan {
    let same: Vec<&SshKey> =
        keys.iter().filter(|theirs| PublicKey::read(&theirs.public_key) == Some(key)).collect();
    let alone = |theirs: &&&SshKey| keys.iter().filter(|other| other.name == theirs.name).count() == 1;
    if let Some(found) = same.iter().filter(alone).min_by_key(|theirs| &theirs.id) {
        return Plan::Use(found.name.clone());
    }
    let name = key.name();
    let mut ours: Vec<String> =
        same.iter().filter(|theirs| theirs.name == name).map(|theirs| theirs.id.clone()).collect();
    // All keepers keep the same one: the lowest id.
    ours.sort();
    if ours.len() > 1 { Plan::Drop(ours.split_off(1)) } else { Plan::Add }
}

/// Makes sure that our key is there under a name that is its alone; gives the name.
pub(super) async fn ensure(line: &Line) -> Result<String, CallError> {
    let text = line.config.ssh_public_key.trim();
    let key = PublicKey::read(text)
        .ok_or_else(|| CallError::Misconfigured("lambda: ssh_public_key does not read".into()))?;
    let mut added = false;
    // Add, take the surplus away, use: three looks are enough unless others go on changing keys.
    for _ in 0..4 {
        match plan(key, &list(line).await?) {
            Plan::Use(name) => return Ok(name),
            Plan::Drop(ids) => {
                for id in ids {
                    drop_key(line, &id).await?;
                }
            }
            Plan::Add if added => {
                let name = key.name();
                let told = format!("lambda: an ssh key named {name} is there and is not ours");
                return Err(CallError::Misconfigured(told));
            }
            Plan::Add => {
                add(line, text, key).await?;
                added = true;
            }
        }
    }
    Err(CallError::RateLimited("lambda: ssh keys are being changed by others".into(), None))
}

async fn list(line: &Line) -> Result<Vec<SshKey>, CallError> {
    let answer = line.ask(Method::GET, "/ssh-keys", None).await?;
    if answer.status != StatusCode::OK {
        return Err(before_the_order(line.failed("ssh keys", &answer)));
    }
    wire::keys(&answer).map_err(before_the_order)
}

async fn add(line: &Line, text: &str, key: PublicKey<'_>) -> Result<(), CallError> {
    let body = json!({ "name": key.name(), "public_key": text });
    let answer = line.ask(Method::POST, "/ssh-keys", Some(&body)).await.map_err(before_the_order)?;
    // A name that is taken is no failure: somebody was faster. The next look says whether it is our key.
    let taken = Failure::read(&answer).is_invalid();
    if answer.status == StatusCode::OK || taken {
        return Ok(());
    }
    Err(before_the_order(line.failed("add ssh key", &answer)))
}

async fn drop_key(line: &Line, id: &str) -> Result<(), CallError> {
    let answer =
        line.ask(Method::DELETE, &format!("/ssh-keys/{id}"), None).await.map_err(before_the_order)?;
    if answer.status == StatusCode::OK || Failure::read(&answer).is_missing() {
        return Ok(());
    }
    Err(before_the_order(line.failed("delete ssh key", &answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1 us@here";

    fn key(id: &str, name: &str, line: &str) -> SshKey {
        SshKey { id: id.into(), name: name.into(), public_key: line.into() }
    }

    #[test]
    fn a_key_is_found_by_what_it_is_whatever_its_name_and_comment() {
        let ours = PublicKey::read(OURS).unwrap();
        let named =
            [key("2", "mine", "ssh-ed25519 AAAAC3NzaC1lZDI1 other"), key("1", "x", "ssh-rsa AAAAB3 y")];
        assert_eq!(plan(ours, &named), Plan::Use("mine".into()));
        assert_eq!(plan(ours, &named[1..]), Plan::Add);
    }

    #[test]
    fn after_a_race_all_keep_the_same_key_and_nobody_takes_one_that_is_not_ours() {
        let ours = PublicKey::read(OURS).unwrap();
        let name = ours.name();
        let twice = [key("3", &name, OURS), key("1", &name, OURS), key("2", &name, OURS)];
        assert_eq!(plan(ours, &twice), Plan::Drop(vec!["2".into(), "3".into()]));
        let theirs = [key("3", &name, "ssh-rsa AAAAB3 y"), key("1", &name, OURS)];
        assert_eq!(plan(ours, &theirs), Plan::Add, "its name is not its alone, and the other is not ours");
    }
}
