//! Where a beginning belongs that no machine has: weighted rendezvous hashing. Pure, and equal in all workers.
//!
//! Each machine draws a number for the beginning, and the greatest wins. A machine more takes only what it now wins, one less
//! gives up only what it had won, and a machine with twice the slots wins twice as often.

use schemas::prefix::mixed;

/// A machine's number among homes, by its name.
pub fn of_name(name: &str) -> u64 {
    name.bytes().fold(0, |hash, byte| mixed(hash ^ u64::from(byte)))
}

/// What a machine with so many slots draws for a beginning; the greatest is its home.
pub fn draw(beginning: u64, machine: u64, slots: u32) -> f64 {
    // 53 bits, as many as a double holds, and never 0 or 1.
    let bits = mixed(mixed(beginning ^ machine.rotate_left(32)) ^ machine) >> 11;
    let chance = (bits as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(slots) / chance.ln()
}
