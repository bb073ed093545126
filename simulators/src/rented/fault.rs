//! Faults of a control API: what goes wrong with which call, and how often.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// An answer that a fault gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canned {
    /// The status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// `Retry-After`, if there is one.
    pub retry_after: Option<String>,
    /// `Location`, if there is one.
    pub location: Option<String>,
    /// The body.
    pub body: String,
}

impl Canned {
    /// A JSON answer.
    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self { content_type: "application/json", ..Self::text(status, body) }
    }

    /// A plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain", retry_after: None, location: None, body: body.into() }
    }

    /// A page, as an edge or a proxy answers.
    pub fn html(status: u16) -> Self {
        let body = format!("<html><head><title>{status}</title></head><body>simulated</body></html>");
        Self { content_type: "text/html", ..Self::text(status, body) }
    }

    /// With a `Retry-After`.
    #[must_use]
    pub fn retry_after(self, value: &str) -> Self {
        Self { retry_after: Some(value.to_owned()), ..self }
    }
}

/// What goes wrong with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlFault {
    /// This is answered; nothing is done.
    Refused(Canned),
    /// The call is carried out, and this is answered all the same.
    DoneBut(Canned),
    /// The connection is cut; nothing is done.
    Cut,
    /// The call is carried out, and the connection is cut.
    DoneThenCut,
    /// The call is carried out at once, and its answer comes so much later.
    DoneLate(Duration),
    /// Nothing is done, and nothing is ever answered.
    Hang,
}

#[derive(Debug)]
struct Armed {
    call: String,
    fault: ControlFault,
    /// `None`: for good.
    left: Option<u64>,
}

/// The faults that are in force. The one that was set first strikes first.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Armed>>);

impl Faults {
    pub(crate) fn set(&self, call: &str, fault: ControlFault, count: Option<u64>) {
        let armed = Armed { call: call.to_owned(), fault, left: count };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(armed);
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn is_armed(&self, call: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|armed| armed.call == call)
    }

    /// The fault that strikes this call, if any; it is counted.
    pub(crate) fn draw(&self, call: &str) -> Option<ControlFault> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = faults.iter().position(|armed| armed.call == "*" || armed.call == call)?;
        let armed = &mut faults[place];
        let fault = armed.fault.clone();
        if let Some(left) = &mut armed.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                faults.remove(place);
            }
        }
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_its_call_as_often_as_was_said() {
        let faults = Faults::default();
        faults.set("launch", ControlFault::Cut, Some(2));
        faults.set("*", ControlFault::Hang, None);
        assert_eq!(faults.draw("list"), Some(ControlFault::Hang));
        let drawn: Vec<_> = (0..3).filter_map(|_| faults.draw("launch")).collect();
        assert_eq!(drawn, [ControlFault::Cut, ControlFault::Cut, ControlFault::Hang]);
        faults.clear();
        assert_eq!(faults.draw("list"), None);
    }
}
