//! What a token and a job take on a type of machine, learnt from the jobs that ended well. Pure.
//!
//! Until a type is known the guesses are careful: prefill as quick as a small card's, so that a cached token is worth little, and
//! jobs beside each other slow each other.

use std::time::Duration;

/// Tokens of prompt computed in a second, until measured: an L4 with a model of 7B.
const PREFILL: f64 = 8_000.0;
/// How long a job takes, until measured.
const SERVICE: f64 = 1.0;
/// The time of a job alone, in the unit in which others' are compared with it.
const ALONE: u64 = 1_000;
/// How much slower a job is on a machine that is full otherwise, until measured.
const CROWDED: u64 = 500;
/// Jobs that slow each other by less than a tenth may as well run on one machine.
const NOT_FELT: u64 = 1_100;
/// Jobs at once for which a pace is kept apart.
const LEVELS: usize = 16;
/// Jobs after which a level is believed.
const ENOUGH: u32 = 8;
/// The weight of the newest job in a mean.
const NEWEST: f64 = 0.1;
/// A prompt with fewer tokens to compute says nothing about prefill.
const PROMPT_MIN: u64 = 64;

/// A job that ended well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// From being handed over to the end.
    pub took: Duration,
    /// ... to the first token; zero where the answer was not streamed.
    pub first_token: Duration,
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Of them, those that the server had; `None` where it does not say.
    pub cached: Option<u64>,
    /// Tokens of the answer.
    pub written: u64,
    /// Jobs on the machine when it began, itself included.
    pub beside: u32,
}

impl Done {
    /// How much of the prompt was cached, as a word: `none`, `some`, `most` or `unknown`.
    pub const fn share_cached(&self) -> &'static str {
        match self.cached {
            None => "unknown",
            Some(cached) if cached < self.prompt / 4 => "none",
            Some(cached) if cached < self.prompt - self.prompt / 4 => "some",
            Some(_) => "most",
        }
    }
}

/// A mean that forgets.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    value: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.count = self.count.saturating_add(1);
        self.value += (value - self.value) * NEWEST.max(1.0 / f64::from(self.count));
    }

    fn known(self) -> Option<f64> {
        (self.count >= ENOUGH && self.value > 0.0).then_some(self.value)
    }
}

/// What one model takes on one type of machine.
#[derive(Clone, Debug)]
pub struct Pace {
    prefill: Mean,
    service: Mean,
    /// Seconds for a token written, by how many jobs ran at once.
    levels: [Mean; LEVELS],
    // What follows from these is kept, since it is asked for more often than it changes.
    token_ns: u64,
    service_ns: u64,
    floor: u32,
    /// How long a job takes beside so many others, in thousandths of its time alone; 0 where that is not measured.
    slower: [u64; LEVELS],
}

impl Default for Pace {
    fn default() -> Self {
        let (levels, slower) = ([Mean::default(); LEVELS], [0; LEVELS]);
        let (prefill, service) = (Mean::default(), Mean::default());
        let (token_ns, service_ns) = (nanos(1.0 / PREFILL), nanos(SERVICE));
        Self { prefill, service, levels, token_ns, service_ns, floor: 1, slower }
    }
}

impl Pace {
    /// Takes in a job.
    pub fn learn(&mut self, done: &Done) {
        self.service.add(done.took.as_secs_f64());
        let computed = done.cached.map(|cached| done.prompt.saturating_sub(cached));
        if let Some(computed) = computed.filter(|computed| *computed >= PROMPT_MIN)
            && done.beside == 1
            && !done.first_token.is_zero()
        {
            self.prefill.add(computed as f64 / done.first_token.as_secs_f64());
        }
        let level = usize::try_from(done.beside).unwrap_or(usize::MAX).checked_sub(1);
        if let Some(level) = level.and_then(|level| self.levels.get_mut(level)) {
            let writing = done.took.saturating_sub(done.first_token).as_secs_f64();
            if done.written > 0 {
                level.add(writing / done.written as f64);
            }
        }
        self.token_ns = nanos(1.0 / self.prefill.known().unwrap_or(PREFILL));
        self.service_ns = nanos(self.service.known().unwrap_or(SERVICE));
        self.compare();
    }

    fn compare(&mut self) {
        let Some(alone) = self.levels[0].known() else { return };
        let mut slowest = ALONE;
        for (level, slower) in self.levels.iter().zip(&mut self.slower) {
            let measured = level.known().map(|it| nanos(it) * ALONE / nanos(alone).max(1));
            // More jobs never make one quicker: a level that seems to has been measured at another time.
            slowest = slowest.max(measured.unwrap_or(0));
            *slower = measured.map_or(0, |_| slowest);
        }
        let free = self.slower.iter().take_while(|slower| (ALONE..NOT_FELT).contains(*slower));
        self.floor = u32::try_from(free.count()).unwrap_or(u32::MAX);
    }

    /// Nanoseconds to compute a token of a prompt.
    pub fn token_ns(&self) -> u64 {
        self.token_ns
    }

    /// Tokens of a prompt computed in a second, as far as that is measured.
    pub fn prefill(&self) -> Option<f64> {
        self.prefill.known()
    }

    /// Nanoseconds that a job takes.
    pub fn service_ns(&self) -> u64 {
        self.service_ns
    }

    /// How many jobs run at once without slowing each other by a tenth; 1 until that is measured.
    pub fn floor(&self) -> u32 {
        self.floor.max(1)
    }

    /// Nanoseconds that a job takes beside so many others on a machine of so many slots.
    pub fn beside_ns(&self, others: u32, slots: u32) -> u64 {
        if others < self.floor() {
            return self.service_ns;
        }
        let at = usize::try_from(others).unwrap_or(usize::MAX).min(LEVELS - 1);
        let slower = match self.slower[at] {
            0 => ALONE + CROWDED * u64::from(others) / u64::from(slots.max(1)),
            measured => measured,
        };
        self.service_ns / ALONE * slower
    }
}

/// Nanoseconds of some seconds; those of no time that makes sense are none.
fn nanos(seconds: f64) -> u64 {
    let span = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX / 1_000_000)
}

/// The paces of a pool.
#[derive(Clone, Debug, Default)]
pub struct Paces {
    skus: Vec<String>,
    models: Vec<String>,
    known: Vec<((u16, u16), Pace)>,
}

impl Paces {
    /// The number of a type of machine.
    pub fn sku(&mut self, name: &str) -> u16 {
        number(&mut self.skus, name)
    }

    /// The number of a model.
    pub fn model(&mut self, name: &str) -> u16 {
        number(&mut self.models, name)
    }

    /// What a model takes on a type; `None` while nothing is known.
    pub fn of(&self, sku: u16, model: u16) -> Option<&Pace> {
        self.known.iter().find(|(of, _)| *of == (sku, model)).map(|(_, pace)| pace)
    }

    /// Takes in a job.
    pub fn learn(&mut self, sku: u16, model: u16, done: &Done) {
        let at = self.known.iter().position(|(of, _)| *of == (sku, model)).unwrap_or_else(|| {
            self.known.push(((sku, model), Pace::default()));
            self.known.len() - 1
        });
        self.known[at].1.learn(done);
    }
}

/// The place of a name in a list that grows only by names that a configuration or a keeper says.
fn number(names: &mut Vec<String>, name: &str) -> u16 {
    let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    });
    u16::try_from(at).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(beside: u32, millis: u64) -> Done {
        Done {
            took: Duration::from_millis(100 + millis),
            first_token: Duration::from_millis(100),
            prompt: 1_000,
            cached: Some(500),
            written: 10,
            beside,
        }
    }

    fn learn(pace: &mut Pace, times: u32, done: Done) {
        (0..times).for_each(|_| pace.learn(&done));
    }

    #[test]
    fn prefill_is_measured_by_jobs_that_are_alone_and_say_what_was_cached() {
        let mut pace = Pace::default();
        learn(&mut pace, 20, Done { cached: None, ..done(1, 500) });
        learn(&mut pace, 20, done(2, 500));
        assert_eq!((pace.token_ns(), pace.prefill()), (125_000, None), "the guess");
        learn(&mut pace, 20, done(1, 500));
        assert_eq!(pace.token_ns(), 200_000, "500 tokens in 100 ms");
    }

    #[test]
    fn the_floor_is_how_many_jobs_do_not_slow_each_other() {
        let mut pace = Pace::default();
        assert_eq!(pace.floor(), 1);
        for (beside, millis) in [(1, 500), (2, 520), (3, 540), (4, 900)] {
            learn(&mut pace, 10, done(beside, millis));
        }
        assert_eq!(pace.floor(), 3);
        let alone = pace.beside_ns(0, 8);
        assert_eq!((pace.beside_ns(1, 8), pace.beside_ns(2, 8)), (alone, alone));
        assert!(pace.beside_ns(3, 8) > alone * 17 / 10 && pace.beside_ns(7, 8) > alone * 14 / 10);
    }
}
