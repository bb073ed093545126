//! A name that carries a machine and its pool, for providers that leave us no other field.
//!
//! Railway's names have at most 32 characters, as many as a machine's id alone. So the id is written in base 32, and the pool
//! as the beginning of its hash: `b` + 4 characters of the pool + `-` + 26 characters of the machine. Nobody else's name reads
//! as one of these: the first part must be that of a pool of ours, the second a UUID of version 7.

use std::collections::BTreeMap;

use ring::digest;
use schemas::{MachineId, Micros, PoolId};
use uuid::Uuid;

use crate::landlord::CallError;

/// The alphabet of RFC 4648, in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Characters of a machine: 128 bits, 5 in each.
const MACHINE_LENGTH: usize = 26;

/// Characters of a pool: 20 bits, which the few pools of one account do not share.
const POOL_LENGTH: usize = 4;

/// The pools of one account by what stands for them in a name.
#[derive(Clone, Debug)]
pub struct Marks(BTreeMap<String, PoolId>);

impl Marks {
    /// The marks of these pools; refused when two of them would look the same.
    pub fn new<'a>(pools: impl IntoIterator<Item = &'a PoolId>) -> Result<Self, CallError> {
        let mut marks = BTreeMap::new();
        for pool in pools {
            if let Some(other) = marks.insert(tag(pool), pool.clone())
                && other != *pool
            {
                let text =
                    format!("the pools {pool} and {other} cannot share an account: rename one of them");
                return Err(CallError::Misconfigured(text));
            }
        }
        Ok(Self(marks))
    }

    /// The name of a machine at the provider.
    pub fn name(&self, pool: &PoolId, machine: &MachineId) -> Result<String, CallError> {
        let id = Uuid::parse_str(machine.as_str())
            .map_err(|error| CallError::Misconfigured(format!("machine {machine} is no UUID: {error}")))?;
        Ok(format!("{}-{}", tag(pool), encode(id.as_u128(), MACHINE_LENGTH)))
    }

    /// Whose name this is; `None` for the names of others.
    pub fn read(&self, name: &str) -> Option<(PoolId, MachineId)> {
        let (tag, machine) = name.split_once('-')?;
        let pool = self.0.get(tag)?;
        let id = Uuid::from_u128(decode(machine)?);
        if id.get_version_num() != 7 {
            return None;
        }
        Some((pool.clone(), id.simple().to_string().parse().ok()?))
    }

    /// Whether a name is one of ours for a pool that is not configured here.
    pub fn is_stray(&self, name: &str) -> bool {
        let Some((tag, machine)) = name.split_once('-') else { return false };
        let is_tag = tag.len() == POOL_LENGTH + 1
            && tag.starts_with('b')
            && tag.bytes().all(|letter| ALPHABET.contains(&letter));
        let id = decode(machine).map(Uuid::from_u128);
        is_tag && !self.0.contains_key(tag) && id.is_some_and(|id| id.get_version_num() == 7)
    }
}

/// When a machine was ordered, which its id tells to the millisecond.
pub fn ordered_at(machine: &MachineId) -> Option<Micros> {
    let id = Uuid::parse_str(machine.as_str()).ok().filter(|id| id.get_version_num() == 7)?;
    let millis = u64::try_from(id.as_u128() >> 80).ok()?;
    Some(Micros::new(millis.checked_mul(1_000)?))
}

fn tag(pool: &PoolId) -> String {
    let hash = digest::digest(&digest::SHA256, format!("{}.{}", pool.region, pool.provider).as_bytes());
    let bits = hash.as_ref().iter().take(4).fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    format!("b{}", encode(bits, POOL_LENGTH))
}

fn encode(mut bits: u128, length: usize) -> String {
    let mut text = vec![0_u8; length];
    for place in text.iter_mut().rev() {
        *place = ALPHABET[(bits & 31) as usize];
        bits >>= 5;
    }
    text.into_iter().map(char::from).collect()
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != MACHINE_LENGTH {
        return None;
    }
    let mut bits = 0_u128;
    for byte in text.bytes() {
        let digit = ALPHABET.iter().position(|letter| *letter == byte)?;
        // The first character holds 3 bits only.
        if bits >> 123 != 0 {
            return None;
        }
        bits = bits << 5 | digit as u128;
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> PoolId {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_carries_machine_and_pool_in_32_characters() {
        let marks = Marks::new([&pool("railway@us-east"), &pool("railway@eu-west")]).unwrap();
        for machine in ["0198c0de00007000800000000000002a", "ffffffffffff7fffbfffffffffffffff"] {
            let machine: MachineId = machine.parse().unwrap();
            let name = marks.name(&pool("railway@eu-west"), &machine).unwrap();
            assert_eq!(name.len(), 32, "{name}");
            assert_eq!(marks.read(&name), Some((pool("railway@eu-west"), machine)));
        }
    }

    #[test]
    fn the_names_of_others_are_not_ours() {
        let marks = Marks::new([&pool("railway@us-east")]).unwrap();
        let machine: MachineId = "0198c0de00007000800000000000002a".parse().unwrap();
        let name = marks.name(&pool("railway@us-east"), &machine).unwrap();
        let elsewhere = marks.name(&pool("railway@eu-west"), &machine).unwrap();
        for other in ["Postgres", "web-api", "", "-", &elsewhere, &name[..31], &name.to_uppercase()] {
            assert_eq!(marks.read(other), None, "{other}");
            assert_eq!(marks.is_stray(other), other == elsewhere, "{other}");
        }
        assert!(!marks.is_stray(&name), "one of ours is no stray");
        let overflowing = format!("{}-{}", &name[..5], "7".repeat(26));
        assert_eq!(marks.read(&overflowing), None);
        assert!(marks.name(&pool("railway@us-east"), &"m-1".parse().unwrap()).is_err());
    }

    #[test]
    fn an_id_tells_when_the_machine_was_ordered() {
        let machine = "0198c0de00007000800000000000002a".parse().unwrap();
        assert_eq!(ordered_at(&machine), Some(Micros::new(0x0198_c0de_0000 * 1_000)));
        assert_eq!(ordered_at(&"0192f3a4".parse().unwrap()), None);
    }
}
