//! What time it is.
//!
//! Two clocks tell time here. Waits go by tokio's, which only moves forwards. What is written down for people and for other
//! processes is a [`Timestamp`], and comes from this one: the machine's, or one that stands beside a simulated cluster.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Tells the time. Cloning it is cheap; clones tell the same.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock(Kind);

#[derive(Debug, Clone, Copy, Default)]
enum Kind {
    #[default]
    System,
    Simulated {
        start: Timestamp,
        origin: Instant,
    },
}

impl Clock {
    /// The machine's clock, which may be set, forwards and backwards.
    pub fn system() -> Self {
        Self(Kind::System)
    }

    /// A clock that says `start` now and runs as tokio's does: on a runtime whose time is paused, it is simulated.
    pub fn simulated(start: Timestamp) -> Self {
        Self(Kind::Simulated { start, origin: Instant::now() })
    }

    pub fn now(&self) -> Timestamp {
        match self.0 {
            Kind::System => Timestamp::now(),
            Kind::Simulated { start, origin } => {
                let elapsed = SignedDuration::try_from(origin.elapsed()).unwrap_or(SignedDuration::MAX);
                start.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_goes_as_paused_time_does() {
        let start: Timestamp = "2026-11-23T03:00:00Z".parse().unwrap();
        let clock = Clock::simulated(start);
        assert_eq!(clock.now(), start);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(clock.now().to_string(), "2026-11-23T04:00:00Z");
    }
}
