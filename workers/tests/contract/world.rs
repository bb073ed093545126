//! What an adapter points at: a simulator, or the app on Modal.

use simulators::{Bill, Fault, Simulator, Stats};

use crate::app::App;

/// The other side of an adapter.
pub(crate) enum World {
    Simulator(Simulator),
    App { app: App, nanos_per_second: u64 },
}

impl World {
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Simulator(simulator) => simulator.url(),
            Self::App { app, .. } => app.url(),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        match self {
            Self::Simulator(simulator) => simulator.stats(),
            Self::App { app, .. } => app.stats(),
        }
    }

    pub(crate) fn bill(&self) -> Bill {
        match self {
            Self::Simulator(simulator) => simulator.bill(),
            Self::App { app, nanos_per_second } => app.bill(*nanos_per_second),
        }
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        match self {
            Self::Simulator(simulator) => simulator.set_fault(fault),
            Self::App { app, .. } => app.set_fault(fault.as_ref()),
        }
    }

    /// The app; only for tests of the app.
    pub(crate) fn app(&self) -> &App {
        match self {
            Self::App { app, .. } => app,
            Self::Simulator(_) => panic!("this test is about the app"),
        }
    }
}
