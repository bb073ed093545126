//! Lines that an earlier run may have sent: those that it had reserved. They are looked for in the streams before any is sent again.

use std::time::Duration;

use schemas::Micros;

use super::{Backfill, reserved::RESERVE};
use crate::{Producer, backfill::BackfillError, nats};

/// Clocks differ: how much before a reservation its jobs are looked for.
const MARGIN: Duration = Duration::from_secs(30);

impl Backfill {
    /// Lines that an earlier run may have sent: whether it did stands in the streams.
    pub(super) async fn look_for_uncertain(&mut self, producer: &Producer) -> Result<(), BackfillError> {
        let checkpoint = &self.folder.checkpoint;
        let since = if self.folder.fresh {
            // The folder may be gone after a run; then only the streams know.
            None
        } else if checkpoint.reserved > checkpoint.submitted {
            Some(checkpoint.reserved_at_us - MARGIN)
        } else {
            return Ok(());
        };
        let (client, tenant) = (producer.client(), &self.options.tenant);
        for region in &self.options.regions {
            self.known.extend(nats::jobs_since(client, region, Some(tenant), since).await?);
        }
        if !self.known.is_empty() {
            self.doubts.add_leftovers();
            if since.is_none() {
                // Until all lines are read, whoever comes next must find these jobs too.
                self.reservations.add(self.folder.manifest.survey.lines, Micros::default());
            }
        }
        Ok(())
    }

    /// Writes down that the next lines may be sent, before they are.
    pub(super) fn reserve(&mut self, now: Micros) -> Result<(), BackfillError> {
        let upto = self.input.number + RESERVE;
        self.folder.checkpoint.reserved = upto;
        self.reservations.add(upto, now);
        self.keep()
    }
}

#[cfg(test)]
mod tests {
    use schemas::{Lane, catalog::Catalog};

    use super::*;
    use crate::backfill::{Options, run::Next};

    fn options(folder: &std::path::Path) -> Options {
        let file = folder.join("prompts.jsonl");
        let line = |n| format!("{{\"custom_id\":\"{n}\",\"model\":\"m\",\"prompt\":\"x\"}}\n");
        std::fs::write(&file, (0..50_000).map(line).collect::<String>()).unwrap();
        Options {
            folder: folder.join("state"),
            file,
            name: "prompts".into(),
            tenant: "acme".parse().unwrap(),
            region: "us-east".parse().unwrap(),
            model: None,
            lane: Lane::Low,
            catalog: Catalog::new(vec!["m".into()]).unwrap(),
            regions: vec!["us-east".parse().unwrap()],
            outstanding: 50,
            max_cost: None,
            listen: Duration::ZERO,
        }
    }

    /// The next line that is sent.
    fn send(backfill: &mut Backfill, now: Micros) -> u64 {
        loop {
            match backfill.next(now).unwrap() {
                Next::Send(line, _) => return line,
                Next::Settled => {}
                Next::Wait | Next::End => panic!("nothing is to be sent"),
            }
        }
    }

    #[test]
    fn a_reservation_of_an_earlier_run_holds_until_its_lines_are_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let (then, now) = (Micros::new(5), Micros::new(1_000_000_000));
        let mut first = Backfill::open(options.clone()).unwrap();
        assert_eq!(send(&mut first, then), 1);
        drop(first);
        let mut second = Backfill::open(options).unwrap();
        assert!((1..=RESERVE + 1).all(|line| send(&mut second, now) == line));
        assert_eq!(
            (second.folder.checkpoint.reserved, second.folder.checkpoint.reserved_at_us),
            (2 * RESERVE, then)
        );
        second.unacknowledged.retain(|line| *line > RESERVE);
        second.keep().unwrap();
        assert_eq!(second.folder.checkpoint.reserved_at_us, now);
    }
}
