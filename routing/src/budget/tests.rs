//! Several dispatchers and one counter, with events in any order.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::budget::account::{IDLE_AFTER, LOOK_EVERY, RESEND_FOR};

/// 2026-11-26T12:00:00Z.
const NOON: Micros = Micros::new(1_795_694_400_000_000);
const HOUR: Duration = Duration::from_secs(3_600);

fn rule(tenant: &str, limit: u64, mode: Mode) -> Rule {
    let tenant = (tenant != "ALL").then(|| tenant.parse().unwrap());
    Rule { tenant, provider: None, period: Period::Hour, limit: UsdNanos::new(limit), mode }
}

fn budgets(rules: &[Rule]) -> Budgets {
    Budgets::new(Rules::new(rules.to_vec()).unwrap())
}

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

fn golem() -> ProviderId {
    "golem".parse().unwrap()
}

/// The server's part: adds a draw once, however often it is sent.
#[derive(Default)]
struct Counters {
    totals: HashMap<String, i128>,
    seen: HashSet<(usize, u64)>,
}

impl Counters {
    fn add(&mut self, node: usize, draw: &Draw) -> u64 {
        let total = self.totals.entry(draw.subject.clone()).or_default();
        if self.seen.insert((node, draw.number)) {
            *total += i128::from(draw.take);
        }
        u64::try_from(*total).expect("nobody gives back more than was taken")
    }

    /// Answers every draw of `node` until it has none left.
    fn serve(&mut self, node: usize, budgets: &mut Budgets, now: Micros) -> usize {
        let mut asked = budgets.draws(now);
        let mut count = 0;
        while let Some(draw) = asked.pop() {
            count += 1;
            let total = self.add(node, &draw);
            asked.extend(budgets.drawn(&draw, total, now));
        }
        count
    }
}

fn admitted(budgets: &Budgets, who: &str, amount: u64, now: Micros) -> Result<(), Held> {
    budgets.admits(&tenant(who), &golem(), UsdNanos::new(amount), now)
}

fn reserve(budgets: &mut Budgets, who: &str, amount: u64, now: Micros) -> Reservation {
    budgets.reserve(&tenant(who), &golem(), UsdNanos::new(amount), now)
}

#[test]
fn the_first_job_waits_for_a_chunk_and_the_rest_spend_it_without_a_message() {
    let (mut budgets, mut counters) = (budgets(&[rule("a", 1_000_000, Mode::Hard)]), Counters::default());
    assert_eq!(admitted(&budgets, "a", 100, NOON).unwrap_err().wait, Wait::Chunk);
    assert_eq!(counters.serve(0, &mut budgets, NOON), 1);
    // A chunk is a hundredth of what remains, and the next is drawn before it is used up.
    for _ in 0..50 {
        admitted(&budgets, "a", 100, NOON).unwrap();
        let reserved = reserve(&mut budgets, "a", 100, NOON);
        budgets.settle(reserved, UsdNanos::new(100), NOON);
    }
    assert_eq!(counters.serve(0, &mut budgets, NOON), 0);
    let state = budgets.states(NOON).next().unwrap();
    assert_eq!((state.taken.get(), state.held.get(), state.spent.get()), (10_000, 5_000, 5_000));
}

#[test]
fn a_used_up_budget_holds_its_tenant_and_nobody_else() {
    let rules = [rule("a", 1_000, Mode::Hard), rule("b", 1_000, Mode::Hard)];
    let (mut budgets, mut counters) = (budgets(&rules), Counters::default());
    let _ = admitted(&budgets, "a", 1_000, NOON);
    counters.serve(0, &mut budgets, NOON);
    let all = reserve(&mut budgets, "a", 1_000, NOON);
    let held = admitted(&budgets, "a", 1, NOON).unwrap_err();
    assert_eq!((held.rule, held.wait), (0, Wait::Period(NOON + HOUR)));
    assert!(budgets.states(NOON).next().unwrap().exhausted);
    let _ = admitted(&budgets, "b", 500, NOON);
    counters.serve(0, &mut budgets, NOON);
    assert_eq!(admitted(&budgets, "b", 500, NOON), Ok(()));
    assert_eq!(admitted(&budgets, "c", 500, NOON), Ok(()), "no rule is about c");
    // A new period starts afresh. An attempt that ends in it counts in the period in which it began.
    let later = NOON + HOUR;
    assert_eq!(admitted(&budgets, "a", 1_000, later).unwrap_err().wait, Wait::Chunk);
    counters.serve(0, &mut budgets, later);
    assert_eq!(admitted(&budgets, "a", 1_000, later), Ok(()));
    budgets.settle(all, UsdNanos::new(400), later);
    counters.serve(0, &mut budgets, later);
    assert_eq!(admitted(&budgets, "a", 1_001, later).unwrap_err().wait, Wait::Period(later + HOUR));
    assert_eq!(counters.totals["beacon.budget.a.ALL.2026-11-26T12"], 400);
    assert_eq!(counters.totals["beacon.budget.a.ALL.2026-11-26T13"], 1_000);
}

#[test]
fn a_soft_budget_lets_everything_pass_and_raises_an_alarm() {
    let (mut budgets, mut counters) = (budgets(&[rule("ALL", 1_000, Mode::Soft)]), Counters::default());
    for (cost, alarm) in [(900, false), (90, false), (500, true)] {
        assert_eq!(admitted(&budgets, "a", cost, NOON), Ok(()));
        let reserved = reserve(&mut budgets, "a", cost, NOON);
        budgets.settle(reserved, UsdNanos::new(cost), NOON);
        counters.serve(0, &mut budgets, NOON);
        assert_eq!(budgets.states(NOON).next().unwrap().alarm, alarm, "{cost}");
    }
    counters.serve(0, &mut budgets, NOON + IDLE_AFTER);
    assert_eq!(counters.totals["beacon.budget.ALL.ALL.2026-11-26T12"], 1_490);
}

#[test]
fn all_rules_that_match_must_admit() {
    let (mut budgets, mut counters) =
        (budgets(&[rule("ALL", 300, Mode::Hard), rule("a", 100_000, Mode::Hard)]), Counters::default());
    let _ = admitted(&budgets, "a", 200, NOON);
    counters.serve(0, &mut budgets, NOON);
    admitted(&budgets, "a", 200, NOON).unwrap();
    let _all = reserve(&mut budgets, "a", 200, NOON);
    counters.serve(0, &mut budgets, NOON);
    assert_eq!(admitted(&budgets, "a", 200, NOON).unwrap_err().rule, 0);
    let _ = admitted(&budgets, "b", 100, NOON);
    counters.serve(0, &mut budgets, NOON);
    assert_eq!(
        admitted(&budgets, "b", 100, NOON),
        Ok(()),
        "what is left is enough for b, though a waits for more"
    );
}

#[test]
fn what_an_idle_dispatcher_holds_goes_to_the_one_that_needs_it() {
    let rules = [rule("a", 1_000, Mode::Hard)];
    let (mut first, mut second, mut counters) = (budgets(&rules), budgets(&rules), Counters::default());
    let _ = admitted(&first, "a", 900, NOON);
    counters.serve(0, &mut first, NOON);
    let reserved = reserve(&mut first, "a", 900, NOON);
    let _ = admitted(&second, "a", 500, NOON);
    counters.serve(1, &mut second, NOON);
    assert!(matches!(admitted(&second, "a", 500, NOON).unwrap_err().wait, Wait::Period(_)));
    first.release(reserved, NOON);
    let later = NOON + IDLE_AFTER;
    counters.serve(0, &mut first, later);
    // First it asks for the total, then it draws.
    assert_eq!(counters.serve(1, &mut second, later), 1);
    counters.serve(1, &mut second, later + LOOK_EVERY);
    assert_eq!(admitted(&second, "a", 500, later + LOOK_EVERY), Ok(()));
}

#[test]
fn a_draw_is_asked_once_and_again_with_its_own_number_until_the_server_may_have_forgotten_it() {
    let mut budgets = budgets(&[rule("a", 1_000, Mode::Hard)]);
    let _ = admitted(&budgets, "a", 10, NOON);
    let first = budgets.draws(NOON).pop().unwrap();
    assert_eq!(budgets.draws(NOON), []);
    budgets.failed(&first, NOON);
    assert_eq!(budgets.draws(NOON), []);
    assert_eq!(budgets.draws(NOON + Duration::from_secs(2)), std::slice::from_ref(&first));
    let other = budgets.draws(NOON + RESEND_FOR).pop().unwrap();
    assert_ne!(other.number, first.number);
    assert_eq!(budgets.drawn(&first, 10, NOON + RESEND_FOR), None);
    assert!(admitted(&budgets, "a", 10, NOON + RESEND_FOR).is_err(), "the first was written off");
    budgets.drawn(&other, 20, NOON + RESEND_FOR);
    assert!(admitted(&budgets, "a", 10, NOON + RESEND_FOR).is_ok());
    // The server must remember an id for longer than a draw is sent again, with time to spare for the request.
    assert!(schemas::topology::BUDGETS_WINDOW > RESEND_FOR + Duration::from_secs(30));
}

#[test]
fn a_clock_that_is_set_back_does_not_open_a_period_again() {
    let (mut budgets, mut counters) = (budgets(&[rule("a", 1_000, Mode::Hard)]), Counters::default());
    let _ = admitted(&budgets, "a", 10, NOON + HOUR);
    counters.serve(0, &mut budgets, NOON + HOUR);
    assert_eq!(admitted(&budgets, "a", 10, NOON), Ok(()));
    let reserved = reserve(&mut budgets, "a", 10, NOON);
    budgets.settle(reserved, UsdNanos::new(10), NOON);
    assert_eq!(budgets.states(NOON).next().unwrap().spent.get(), 10);
    assert_eq!(counters.totals.len(), 1);
}

#[test]
fn a_reservation_is_small() {
    assert!(size_of::<Reservation>() <= 48);
}

/// One dispatcher of the simulation.
struct Node {
    /// Unique among all starts of all nodes, for message ids.
    life: usize,
    budgets: Budgets,
    running: Vec<(Reservation, &'static str, Micros)>,
    /// Draws on their way, with the total once the counter has seen them.
    asked: Vec<(Draw, Option<u64>)>,
    /// The most that was reserved at a time, all rules together.
    peak: u64,
}

/// What may happen.
#[derive(Clone, Debug)]
enum Event {
    Start { node: usize, tenant: usize, amount: u64 },
    End { node: usize, which: usize, percent: u64 },
    Release { node: usize, which: usize },
    Ask { node: usize },
    Count { node: usize, which: usize },
    Answer { node: usize, which: usize },
    Serve { node: usize },
    Silence { node: usize, which: usize },
    Crash { node: usize },
    Pass { seconds: u64 },
}

fn events(nodes: usize) -> impl Strategy<Value = Event> {
    let (node, which) = (0..nodes, 0..8usize);
    prop_oneof![
        20 => (node.clone(), 0..TENANTS.len(), 1..200u64).prop_map(|(node, tenant, amount)| Event::Start { node, tenant, amount }),
        8 => (node.clone(), which.clone(), 50..101u64).prop_map(|(node, which, percent)| Event::End { node, which, percent }),
        1 => (node.clone(), which.clone()).prop_map(|(node, which)| Event::Release { node, which }),
        6 => node.clone().prop_map(|node| Event::Ask { node }),
        6 => (node.clone(), which.clone()).prop_map(|(node, which)| Event::Count { node, which }),
        6 => (node.clone(), which.clone()).prop_map(|(node, which)| Event::Answer { node, which }),
        8 => node.clone().prop_map(|node| Event::Serve { node }),
        1 => (node.clone(), which).prop_map(|(node, which)| Event::Silence { node, which }),
        1 => node.prop_map(|node| Event::Crash { node }),
        1 => (0..100u64).prop_map(|seconds| Event::Pass { seconds }),
    ]
}

const TENANTS: [&str; 3] = ["a", "b", "c"];

struct World {
    rules: Vec<Rule>,
    nodes: Vec<Node>,
    lives: usize,
    counters: Counters,
    now: Micros,
    /// By counter: what was spent, in this and earlier starts of the nodes.
    spent: HashMap<String, i128>,
    /// What each account of each start had when it was last looked at.
    accounts: HashMap<(usize, String), i128>,
    /// By counter: what accounts that are gone had.
    gone: HashMap<String, i128>,
    /// Draws without an answer. Those that were written off stay here.
    open: HashMap<(usize, u64), Draw>,
    /// Peaks of dispatchers that died.
    peaks: u64,
    /// The highest cost of an attempt, in percent of its reservation.
    most: u64,
}

impl World {
    fn new(nodes: usize, most: u64) -> Self {
        let rules =
            vec![rule("ALL", 600, Mode::Hard), rule("a", 250, Mode::Hard), rule("b", 100, Mode::Soft)];
        let mut world = Self {
            rules,
            nodes: Vec::new(),
            lives: 0,
            counters: Counters::default(),
            now: NOON,
            spent: HashMap::new(),
            accounts: HashMap::new(),
            gone: HashMap::new(),
            open: HashMap::new(),
            peaks: 0,
            most,
        };
        for _ in 0..nodes {
            let node = world.born();
            world.nodes.push(node);
        }
        world
    }

    fn born(&mut self) -> Node {
        self.lives += 1;
        let budgets = budgets(&self.rules);
        Node { life: self.lives, budgets, running: Vec::new(), asked: Vec::new(), peak: 0 }
    }

    /// The counters of an attempt of this tenant that began at `at`.
    fn subjects(&self, who: &str, at: Micros) -> Vec<String> {
        let matches = |r: &&Rule| r.tenant.as_ref().is_none_or(|t| t.as_str() == who);
        self.rules.iter().filter(matches).map(|r| r.subject(at)).collect()
    }

    fn spend(&mut self, who: &str, at: Micros, cost: u64) {
        for subject in self.subjects(who, at) {
            *self.spent.entry(subject).or_default() += i128::from(cost);
        }
    }

    fn happen(&mut self, event: &Event) {
        let now = self.now;
        match *event {
            Event::Start { node, tenant, amount } => {
                let (node, who) = (&mut self.nodes[node], TENANTS[tenant]);
                if admitted(&node.budgets, who, amount, now).is_ok() {
                    let reserved = reserve(&mut node.budgets, who, amount, now);
                    node.running.push((reserved, who, now));
                    let reserved = node.running.iter().map(|(r, ..)| r.amount).sum();
                    node.peak = node.peak.max(reserved);
                }
            }
            Event::End { node, which, percent } => {
                let Some((reserved, who, at)) = take(&mut self.nodes[node].running, which) else { return };
                let cost = reserved.amount * self.most * percent / 10_000;
                self.nodes[node].budgets.settle(reserved, UsdNanos::new(cost), now);
                self.spend(who, at, cost);
            }
            Event::Release { node, which } => {
                let Some((reserved, ..)) = take(&mut self.nodes[node].running, which) else { return };
                self.nodes[node].budgets.release(reserved, now);
            }
            Event::Ask { node } => {
                let node = &mut self.nodes[node];
                let draws = node.budgets.draws(now);
                self.open.extend(draws.iter().map(|draw| ((node.life, draw.number), draw.clone())));
                node.asked.extend(draws.into_iter().map(|draw| (draw, None)));
            }
            Event::Count { node, which } => {
                let node = &mut self.nodes[node];
                let count = node.asked.len().max(1);
                if let Some((draw, total)) = node.asked.get_mut(which % count) {
                    // The node hears it later, but hears the total of this moment.
                    *total = Some(self.counters.add(node.life, draw));
                }
            }
            Event::Answer { node, which } => {
                let node = &mut self.nodes[node];
                let count = node.asked.len().max(1);
                if node.asked.get(which % count).is_some_and(|(_, total)| total.is_some())
                    && let Some((draw, Some(total))) = take(&mut node.asked, which)
                {
                    let book = &mut node.budgets.books[usize::from(draw.rule)];
                    if book.account(draw.start).is_some_and(|account| account.is_pending(&draw)) {
                        self.open.remove(&(node.life, draw.number));
                    }
                    let back = node.budgets.drawn(&draw, total, now);
                    self.open.extend(back.iter().map(|draw| ((node.life, draw.number), draw.clone())));
                    node.asked.extend(back.map(|draw| (draw, None)));
                }
            }
            Event::Serve { node } => {
                self.happen(&Event::Ask { node });
                for which in 0..self.nodes[node].asked.len() {
                    self.happen(&Event::Count { node, which });
                }
                for _ in 0..self.nodes[node].asked.len() {
                    self.happen(&Event::Answer { node, which: 0 });
                }
            }
            Event::Silence { node, which } => {
                let node = &mut self.nodes[node];
                if let Some((draw, _)) = take(&mut node.asked, which) {
                    node.budgets.failed(&draw, now);
                }
            }
            Event::Crash { node } => {
                let fresh = self.born();
                let dead = std::mem::replace(&mut self.nodes[node], fresh);
                self.peaks += dead.peak;
                // The attempts of a node that died go on.
                for (reserved, who, at) in dead.running {
                    self.spend(who, at, reserved.amount * self.most / 100);
                }
            }
            Event::Pass { seconds } => self.now = now + Duration::from_secs(seconds),
        }
    }

    /// Every nano-dollar that was taken is in an account, on its way, or was left behind by an account that is gone.
    fn nothing_is_created_or_lost(&mut self) -> Result<(), TestCaseError> {
        let mut accounts = HashMap::new();
        for node in &self.nodes {
            for book in &node.budgets.books {
                for account in book.past.iter().chain([&book.current]) {
                    let amount = account.balance + account.reserved + account.spent;
                    accounts.insert((node.life, book.rule.subject(account.start)), amount);
                }
            }
        }
        // It was closed, dropped for its age, or died with its dispatcher.
        for ((life, subject), amount) in std::mem::replace(&mut self.accounts, accounts) {
            if !self.accounts.contains_key(&(life, subject.clone())) {
                *self.gone.entry(subject).or_default() += amount;
            }
        }
        let mut all = self.gone.clone();
        for ((_, subject), amount) in &self.accounts {
            *all.entry(subject.clone()).or_default() += amount;
        }
        // What is taken is in no account until the answer. What is given back has left its account before it is counted.
        for ((life, number), draw) in &self.open {
            let counted = self.counters.seen.contains(&(*life, *number));
            if counted == (draw.take > 0) {
                *all.entry(draw.subject.clone()).or_default() += i128::from(draw.take).abs();
            }
        }
        for (subject, total) in &self.counters.totals {
            prop_assert_eq!(*total, all.remove(subject).unwrap_or(0), "{}", subject);
        }
        for (subject, rest) in all {
            prop_assert_eq!(rest, 0, "{}", subject);
        }
        Ok(())
    }

    /// What is spent and what runs stay within the limit, but for what attempts cost beyond their reservations.
    fn limits_hold(&self) -> Result<(), TestCaseError> {
        let mut used = self.spent.clone();
        for (reserved, who, at) in self.nodes.iter().flat_map(|n| &n.running) {
            for subject in self.subjects(who, *at) {
                *used.entry(subject).or_default() += i128::from(reserved.amount);
            }
        }
        let peaks = self.peaks + self.nodes.iter().map(|n| n.peak).sum::<u64>();
        let excess = i128::from(peaks * (self.most - 100) / 100);
        for (subject, used) in used {
            let rule = self.rules.iter().find(|r| {
                let own = r.subject(NOON);
                own[..own.len() - 13] == subject[..subject.len() - 13]
            });
            let rule = rule.unwrap();
            let limit = i128::from(rule.limit.get());
            prop_assert!(rule.mode == Mode::Soft || used <= limit + excess, "{subject}: {used} of {limit}");
        }
        Ok(())
    }
}

fn take<T>(list: &mut Vec<T>, which: usize) -> Option<T> {
    (!list.is_empty()).then(|| list.swap_remove(which % list.len()))
}

fn check(nodes: usize, most: u64, events: &[Event]) -> Result<(), TestCaseError> {
    let mut world = World::new(nodes, most);
    for event in events {
        world.happen(event);
        world.nothing_is_created_or_lost()?;
        world.limits_hold()?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_hard_limit_is_never_exceeded(events in prop::collection::vec(events(3), 50..300)) {
        check(3, 100, &events)?;
    }

    #[test]
    fn attempts_that_cost_twice_their_reservation_exceed_it_by_no_more_than_ran_at_a_time(
        events in prop::collection::vec(events(3), 50..300),
    ) {
        check(3, 200, &events)?;
    }

    #[test]
    fn a_tenant_without_a_budget_of_its_own_is_never_held_by_anothers(
        amounts in prop::collection::vec(1..50u64, 1..50),
    ) {
        let rules = [rule("a", 100, Mode::Hard), rule("b", 1_000_000, Mode::Hard)];
        let (mut budgets, mut counters) = (budgets(&rules), Counters::default());
        let _ = admitted(&budgets, "b", 50, NOON);
        for amount in amounts {
            if admitted(&budgets, "a", amount, NOON).is_ok() {
                let _running = reserve(&mut budgets, "a", amount, NOON);
            }
            counters.serve(0, &mut budgets, NOON);
            prop_assert_eq!(admitted(&budgets, "b", amount, NOON), Ok(()));
            let _running = reserve(&mut budgets, "b", amount, NOON);
        }
    }

    #[test]
    fn in_the_end_the_counter_says_what_was_spent(
        attempts in prop::collection::vec((0..3usize, 1..200u64, 0..150u64), 0..100),
    ) {
        let rules = [rule("ALL", 5_000, Mode::Hard)];
        let mut nodes: Vec<Budgets> = (0..3).map(|_| budgets(&rules)).collect();
        let (mut counters, mut spent) = (Counters::default(), 0u64);
        for (node, amount, percent) in attempts {
            let _ = admitted(&nodes[node], "a", amount, NOON);
            counters.serve(node, &mut nodes[node], NOON);
            if admitted(&nodes[node], "a", amount, NOON).is_ok() {
                let reserved = reserve(&mut nodes[node], "a", amount, NOON);
                nodes[node].settle(reserved, UsdNanos::new(amount * percent / 100), NOON);
                spent += amount * percent / 100;
            }
        }
        for (node, budgets) in nodes.iter_mut().enumerate() {
            counters.serve(node, budgets, NOON + HOUR);
        }
        let total = counters.totals.get("beacon.budget.ALL.ALL.2026-11-26T12").copied().unwrap_or(0);
        prop_assert_eq!(total, i128::from(spent));
    }
}
