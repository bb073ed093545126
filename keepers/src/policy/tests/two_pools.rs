//! Two pools of one region that rent for the same models: never do both order for the same jobs.

use schemas::{ModelToken, PoolId};

use super::*;

/// Two pools that see the same jobs, and each what the other said last.
struct Pair {
    pools: [(PoolId, World); 2],
    models: Vec<ModelToken>,
}

impl Pair {
    /// A dear one and a cheap one.
    fn new() -> Self {
        let (mut dear, mut cheap) = (World::new(), World::new());
        dear.seen.offers = vec![offer("east", "2.00")];
        cheap.seen.offers = vec![offer("east", "1.29")];
        let pools = [("fly@us-east".parse().unwrap(), dear), ("lambda@us-east".parse().unwrap(), cheap)];
        Self { pools, models: vec![schemas::catalog::token_of("mistral-7b").unwrap()] }
    }

    fn waits(&mut self, jobs: u64, within: Duration) {
        for (_, world) in &mut self.pools {
            let by = world.now + within;
            world.load().waiting = vec![waiting(Some(by), jobs)];
        }
    }

    /// One look of each after the other, so that the second knows what the first did.
    fn look(&mut self) {
        for nth in 0..2 {
            let peers: Vec<(PoolId, Peer)> =
                self.pools.iter().map(|(id, world)| (id.clone(), self.peer(world))).collect();
            let own = (&peers[nth].0, &peers[nth].1);
            let slots = ahead(own, peers.iter().map(|(id, peer)| (id, peer)));
            let world = &mut self.pools[nth].1;
            world.seen.ahead_slots = slots;
            world.pass(secs(10));
        }
    }

    fn peer(&self, world: &World) -> Peer {
        Peer::of(&world.seen, &world.policy, &self.models, &world.memory.starts, world.now)
    }

    fn ordered(&self) -> [u32; 2] {
        [self.pools[0].1.ordered, self.pools[1].1.ordered]
    }
}

#[test]
fn the_cheaper_pool_orders_for_jobs_that_both_could_do_and_the_other_does_not() {
    let mut pair = Pair::new();
    // Six hours of a slot within an hour: two machines.
    pair.waits(18_700, secs(3_600));
    for _ in 0..6 {
        pair.look();
    }
    let [dear, cheap] = pair.ordered();
    assert_eq!(dear, 0);
    assert!((2..=3).contains(&cheap), "{cheap}");
}

#[test]
fn when_the_cheaper_one_cannot_have_machines_the_other_orders_and_keeps_the_work() {
    let mut pair = Pair::new();
    pair.pools[1].1.seen.offers.clear();
    pair.waits(18_700, secs(3_600));
    for _ in 0..3 {
        pair.look();
    }
    let [dear, cheap] = pair.ordered();
    assert!(dear >= 2 && cheap == 0, "{dear} {cheap}");
    // It can again: what stands is not given up for what is only promised.
    pair.pools[1].1.seen.offers = vec![offer("east", "1.29")];
    pair.waits(18_700, secs(3_600));
    for _ in 0..6 {
        pair.look();
    }
    assert_eq!(pair.ordered()[1], 0);
    assert!(pair.pools[0].1.left.is_empty(), "{:?}", pair.pools[0].1.left);
}
