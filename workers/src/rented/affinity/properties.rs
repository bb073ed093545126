//! The properties that placement must have, whatever a pool looks like: numbered, so that each is found.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use schemas::{
    Tenant,
    job::Input,
    prefix::{BLOCK, Scope},
};

use super::{
    place::{Pool, by_load},
    *,
};

const NOW: Duration = Duration::from_secs(1_000);

fn text(seed: u64, blocks: usize) -> String {
    let block = |block| format!("{:>w$}", format!("{seed}.{block}"), w = BLOCK);
    (0..blocks).map(block).collect::<Vec<_>>().concat()
}

fn scope() -> Scope<'static> {
    Scope { model: "m", adapter: None, tenant: None }
}

/// The prefix of a text of its own.
fn key(seed: u64) -> Prefix {
    Prefix::of(scope(), &Input::Prompt(text(seed, 32))).unwrap()
}

/// A pool in a test: machines that are given jobs and lose them.
#[derive(Clone)]
struct World {
    affinity: Affinity,
    machines: Vec<Candidate>,
    now: Duration,
}

impl World {
    fn new(slots: &[u32]) -> Self {
        let mut affinity = Affinity::default();
        let machine = |(nth, slots): (usize, &u32)| Candidate {
            nth,
            life: affinity.holders.join(),
            name: home::of_name(&format!("machine-{nth}")),
            size: *slots,
            slots: *slots,
            floor: 1,
            ..Candidate::default()
        };
        let machines = slots.iter().enumerate().map(machine).collect();
        let mut world = Self { affinity, machines, now: NOW };
        world.price(&Pace::default());
        world
    }

    fn price(&mut self, pace: &Pace) {
        for it in &mut self.machines {
            (it.token_ns, it.service_ns) = (pace.token_ns(), pace.service_ns());
            it.beside_ns =
                if it.running < it.floor { it.service_ns } else { pace.beside_ns(it.running, it.slots) };
        }
    }

    fn choose(&self, key: Option<&Prefix>) -> Option<Placed> {
        place(key, &self.machines, &self.affinity.holders, self.now)
    }

    /// Starts a job where it is placed.
    fn start(&mut self, key: Option<&Prefix>) -> Option<Placed> {
        let placed = self.choose(key)?;
        self.now += Duration::from_millis(1);
        let machine = &mut self.machines[placed.nth];
        (machine.running, machine.touched) = (machine.running + 1, self.now);
        if let Some(key) = key {
            self.affinity.holders.hand_over(key, placed.life, placed.blocks, self.now);
        }
        self.price(&Pace::default());
        Some(placed)
    }

    fn end(&mut self, nth: usize) {
        self.machines[nth].running = self.machines[nth].running.saturating_sub(1);
        self.price(&Pace::default());
    }

    fn running(&self) -> u32 {
        self.machines.iter().map(|it| it.running).sum()
    }
}

/// Slots of some machines, and jobs that start (a key, or none) and end.
fn course() -> impl Strategy<Value = (Vec<u32>, Vec<Step>)> {
    let step = prop_oneof![
        3 => (0..6u64).prop_map(|key| Step::Start(Some(key))),
        1 => Just(Step::Start(None)),
        2 => (0..12usize).prop_map(Step::End),
    ];
    (prop::collection::vec(1..9u32, 1..12), prop::collection::vec(step, 1..150))
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Start(Option<u64>),
    End(usize),
}

/// Plays a course and looks at the world before and after each start.
fn play(slots: &[u32], steps: &[Step], mut look: impl FnMut(&World, Option<&Prefix>, Option<Placed>)) {
    let mut world = World::new(slots);
    for step in steps {
        match step {
            Step::Start(seed) => {
                let key = seed.map(key);
                let before = world.clone();
                let placed = world.start(key.as_ref());
                look(&before, key.as_ref(), placed);
            }
            Step::End(nth) => world.end(nth % slots.len()),
        }
    }
}

proptest! {
    #[test]
    fn p01_the_same_input_gives_the_same_choice((slots, steps) in course()) {
        play(&slots, &steps, |before, key, placed| {
            assert_eq!(before.choose(key), placed);
            assert_eq!(before.clone().choose(key), placed);
        });
    }

    #[test]
    fn p02_no_machine_runs_above_its_cap_after_any_starts_and_ends((slots, steps) in course()) {
        play(&slots, &steps, |before, key, placed| {
            if let Some(placed) = placed {
                let it = &before.machines[placed.nth];
                let cap = if key.is_some() { Pool::of(&before.machines).cap(it) } else { it.slots };
                assert!(it.running < cap && cap <= it.slots, "{it:?} {cap}");
            }
        });
    }

    #[test]
    fn p03_a_machine_more_takes_keys_only_to_itself_and_one_less_moves_only_its_own(
        machines in 2..12usize, keys in prop::collection::vec(0..1_000_000u64, 1..40)
    ) {
        let (fewer, more) = (World::new(&vec![4; machines - 1]), World::new(&vec![4; machines]));
        for seed in keys {
            let key = key(seed);
            let (one, two) = (fewer.choose(Some(&key)).unwrap(), more.choose(Some(&key)).unwrap());
            prop_assert!(one.nth == two.nth || two.nth == machines - 1, "{} {}", one.nth, two.nth);
        }
    }

    #[test]
    fn p05_one_key_is_worked_on_by_enough_machines_and_by_all_when_one_slot_is_left(
        slots in prop::collection::vec(1..9u32, 1..10)
    ) {
        let (mut world, key, all) = (World::new(&slots), key(1), slots.iter().sum::<u32>());
        for running in 1..all {
            world.start(Some(&key)).unwrap();
            let pool = Pool::of(&world.machines);
            let most = world.machines.iter().map(|it| pool.cap(it)).max().unwrap();
            let at_work = world.machines.iter().filter(|it| it.running > 0).count();
            prop_assert!(at_work >= running.div_ceil(most) as usize, "{running} on {at_work}");
        }
        prop_assert!(world.machines.iter().all(|it| it.running > 0 || (it.slots == 1 && world.running() + 1 == all)));
    }

    #[test]
    fn p06_one_key_below_the_floor_stays_on_one_machine(
        machines in 1..10usize, slots in 1..9u32, floor in 1..9u32
    ) {
        let mut world = World::new(&vec![slots; machines]);
        world.machines.iter_mut().for_each(|it| it.floor = floor);
        world.price(&Pace::default());
        let key = key(1);
        let at: BTreeSet<_> = (0..floor.min(slots)).map(|_| world.start(Some(&key)).unwrap().nth).collect();
        prop_assert_eq!(at.len(), 1);
    }

    #[test]
    fn p07_prompts_alike_in_n_blocks_share_exactly_n_hashes(
        shared in 0..20usize, one in 4..20usize, two in 4..20usize, part in 0..BLOCK
    ) {
        let with = |seed, blocks| format!("{}{}{}", text(0, shared), text(seed, blocks), "z".repeat(part));
        let of = |text: String| Prefix::of(scope(), &Input::Prompt(text)).unwrap();
        let (one, two) = (of(with(1, one)), of(with(2, two)));
        prop_assert_eq!(one.shared(&two), shared);
        let (one, two): (BTreeSet<_>, BTreeSet<_>) = (one.blocks().iter().collect(), two.blocks().iter().collect());
        prop_assert_eq!(one.intersection(&two).count(), shared);
    }

    #[test]
    fn p09_without_a_key_the_choice_is_the_least_load((slots, steps) in course()) {
        play(&slots, &steps, |before, key, placed| if key.is_none() {
            let free = before.machines.iter().filter(|it| it.running < it.slots);
            let least = free.min_by(|a, b| by_load(a, b)).map(|it| it.nth);
            assert_eq!(placed.map(|placed| placed.nth), least);
            assert!(placed.is_none_or(|placed| placed.prediction.reason == Reason::None));
        });
    }

    #[test]
    fn p12_choices_on_one_snapshot_spread_like_choices_in_turn(
        machines in 2..12usize, slots in 1..6u32, queued in 0..5u32, count in 1..40usize
    ) {
        // What the servers say does not change between the choices; what was handed over meanwhile is counted all the same.
        let mut world = World::new(&vec![slots; machines]);
        world.machines.iter_mut().for_each(|it| it.queued = queued);
        let mut at = BTreeMap::<usize, u32>::new();
        for seed in 0..count as u64 {
            if let Some(placed) = world.start(Some(&key(seed))) {
                *at.entry(placed.nth).or_default() += 1;
            }
        }
        let started = u32::try_from(count).unwrap().min(slots * u32::try_from(machines).unwrap());
        prop_assert_eq!(at.values().sum::<u32>(), started);
        let fair = started.div_ceil(u32::try_from(machines).unwrap());
        prop_assert!(at.values().all(|jobs| *jobs <= (fair * 5).div_ceil(4) + 1), "{at:?}");
    }

    #[test]
    fn p13_the_chosen_costs_no_more_than_the_least_loaded((slots, steps) in course()) {
        play(&slots, &steps, |before, key, placed| if let (Some(key), Some(placed)) = (key, placed) {
            let free = before.machines.iter().filter(|it| it.running < it.slots);
            let least = *free.min_by(|a, b| by_load(a, b)).unwrap();
            let alone = place(Some(key), &[least], &before.affinity.holders, before.now).unwrap();
            assert!(placed.cost_ns <= alone.cost_ns, "{placed:?} {alone:?}");
        });
    }

    #[test]
    fn p14_a_job_waits_only_if_every_slot_is_taken((slots, steps) in course()) {
        play(&slots, &steps, |before, _, placed| {
            assert_eq!(placed.is_none(), before.machines.iter().all(|it| it.running >= it.slots));
        });
    }
}

#[test]
fn p04_ten_thousand_keys_on_sixteen_machines_spread_by_slots() {
    let slots = [4, 4, 4, 4, 8, 8, 8, 8, 4, 4, 4, 4, 8, 8, 8, 8];
    let world = World::new(&slots);
    let mut keys = [0u32; 16];
    for seed in 0..10_000 {
        keys[world.choose(Some(&key(seed))).unwrap().nth] += 1;
    }
    let mean = 10_000.0 / f64::from(slots.iter().sum::<u32>());
    for (keys, slots) in keys.iter().zip(slots) {
        let share = f64::from(*keys) / f64::from(slots) / mean;
        assert!(share < 1.15, "{share} of its part");
    }
}

#[test]
fn p08_tenants_share_nothing_under_isolation() {
    let (acme, other): (Tenant, Tenant) = ("acme".parse().unwrap(), "other".parse().unwrap());
    let input = Input::Prompt(text(1, 40));
    let of = |tenant, model| Prefix::of(Scope { model, adapter: None, tenant }, &input).unwrap();
    let (one, two) = (of(Some(&acme), "m"), of(Some(&other), "m"));
    assert_eq!(one.shared(&two), 0);
    assert!(one.blocks().iter().all(|hash| !two.blocks().contains(hash)));
    assert_eq!((of(None, "m").shared(&of(None, "m")), of(None, "m").shared(&of(None, "n"))), (40, 0));
    let lora = Prefix::of(Scope { model: "m", adapter: Some("lora"), tenant: None }, &input).unwrap();
    assert_eq!(lora.shared(&of(None, "m")), 0);
}

/// Which machines may take jobs at all is for the seats; what is not among the candidates is never chosen, also where it is the
/// only holder. Another model is another key.
#[test]
fn p10_a_machine_that_is_no_candidate_or_has_another_model_is_never_chosen_for_what_it_has() {
    let (mut world, key) = (World::new(&[4, 4, 4]), key(1));
    let first = world.start(Some(&key)).unwrap();
    world.end(first.nth);
    assert_eq!(
        world.choose(Some(&key)).map(|it| (it.nth, it.prediction.reason)),
        Some((first.nth, Reason::Holder))
    );
    let other = Prefix::of(Scope { model: "n", ..scope() }, &Input::Prompt(text(1, 32))).unwrap();
    assert_ne!(world.choose(Some(&other)).unwrap().prediction.reason, Reason::Holder);
    world.machines.retain(|it| it.nth != first.nth);
    let placed = world.choose(Some(&key)).unwrap();
    assert!(placed.nth != first.nth && placed.blocks == 0);
}

#[test]
fn p11_a_new_life_has_nothing() {
    let (mut world, key) = (World::new(&[4, 4]), key(1));
    let first = world.start(Some(&key)).unwrap();
    world.end(first.nth);
    world.affinity.holders.renew(first.life);
    let placed = world.choose(Some(&key)).unwrap();
    assert_eq!((placed.blocks, placed.prediction.cached), (0, 0));
    world.affinity.holders.hand_over(&key, first.life, 0, world.now);
    assert_eq!(world.choose(Some(&key)).unwrap().blocks, 32);
    // Its number is given to another machine.
    world.affinity.holders.leave(first.life);
    assert_eq!(world.affinity.holders.join(), first.life);
    assert_eq!(world.choose(Some(&key)).unwrap().blocks, 0);
}

#[test]
fn p15_a_choice_among_fifty_machines_allocates_nothing() {
    let mut world = World::new(&[8; 50]);
    let keys: Vec<_> = (0..40).map(key).collect();
    for key in keys.iter().cycle().take(200) {
        world.start(Some(key)).unwrap();
    }
    let candidates = world.machines.clone();
    let mut choose =
        |key: Option<&Prefix>| world.affinity.choose(key, 0, candidates.iter().copied(), world.now);
    choose(None).unwrap();
    let counted = allocation_counter::measure(|| {
        for key in &keys {
            assert!(choose(Some(key)).is_some() && choose(None).is_some());
        }
    });
    assert_eq!(counted.count_total, 0);
}

#[test]
fn what_was_measured_under_half_of_the_prediction_in_three_of_five_jobs_is_forgotten() {
    let (mut world, key) = (World::new(&[4, 4]), key(1));
    let first = world.start(Some(&key)).unwrap();
    world.end(first.nth);
    let mut measured = |cached| world.affinity.holders.measured(first.life, 100, cached);
    assert_eq!([0, 50, 60, 49, 70, 80].map(&mut measured), [false; 6], "two of five at most");
    assert_eq!([0, 90, 10].map(&mut measured), [false; 3], "the first misses are long ago");
    assert!(measured(20));
    assert_eq!(world.choose(Some(&key)).unwrap().blocks, 0);
}

#[test]
fn what_nobody_used_for_five_minutes_counts_half_and_the_table_is_bounded() {
    let (mut world, key) = (World::new(&[4]), key(1));
    let fresh = world.start(Some(&key)).unwrap();
    world.end(0);
    let warm = world.choose(Some(&key)).unwrap();
    world.now += Duration::from_secs(301);
    let idle = world.choose(Some(&key)).unwrap();
    assert_eq!((fresh.cost_ns - warm.cost_ns) / 2, fresh.cost_ns - idle.cost_ns);
    for seed in 0..10_000 {
        world.affinity.holders.hand_over(&self::key(seed), fresh.life, 0, world.now);
    }
    assert_eq!(world.affinity.holders.len(), 131_072);
    // What a server has no room for is not predicted, and the newest is still known.
    assert_eq!(world.choose(Some(&self::key(5_000))).map(|it| it.blocks), Some(0));
    assert_eq!(world.choose(Some(&self::key(9_999))).map(|it| it.blocks), Some(32));
}
