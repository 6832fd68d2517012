//! How many writes are in flight: as many as make more writes a second.
//!
//! The API server says nowhere how many it takes; its answers show it. A level is held for a window of answers, and its rate
//! compared with that of the level before. It grows while the rate does; what gains nothing is given back, for all that
//! grows then is latency. It is halved when the server says 429, and shrinks by a step when the rate of a level that was
//! held falls, which with so many in flight is latency that rises. From time to time the next level is tried again, since
//! a server also gets faster.
//!
//! Measured on 2 cores that client and server share: 16 in flight 2,250 PUTs a second, 64 some 2,700, 256 fewer again.

use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::time::Instant;

/// Where it begins: near the knee of a small server, and every server takes it.
const FIRST: usize = 32;
const LEAST: usize = 2;
/// The API server takes 200 writes at once from everybody (`--max-mutating-requests-inflight`); others have to live, too. Each place is a
/// connection of some 40 KiB here.
const MOST: usize = 64;
/// A window is at least this long, so that one slow answer does not make a rate.
const WINDOW: Duration = Duration::from_millis(250);
/// Answers of a window: each place in flight has answered about twice.
const ANSWERS_A_PLACE: usize = 2;
/// What counts as more and as less, in parts of the rate before.
const MORE: f64 = 1.05;
const LESS: f64 = 0.7;
/// Windows that a level is held until the next one is tried again.
const PATIENCE: u32 = 16;

/// Finds how many writes are in flight. Time and answers are arguments.
#[derive(Debug)]
pub struct Level {
    now: usize,
    /// `None` where the configuration says how many.
    course: Option<Course>,
    window: Option<Window>,
    /// How often the server had said 429 when it was looked at last.
    throttled: u64,
}

#[derive(Debug, Clone, Copy)]
enum Course {
    /// One step up from a level and its answers a second; `None` for the first level of all.
    Trying { from: Option<(usize, f64)> },
    /// On a level that is the best for now, with its answers a second once they are known.
    Holding { rate: Option<f64>, windows: u32 },
}

#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    answers: usize,
}

impl Level {
    /// `given` in flight, or as many as it finds where that is 0.
    pub fn new(given: usize) -> Self {
        let (now, course) = match NonZeroUsize::new(given) {
            Some(given) => (given.get(), None),
            None => (FIRST, Some(Course::Trying { from: None })),
        };
        Self { now, course, window: None, throttled: 0 }
    }

    /// How many may be in flight now.
    pub fn get(&self) -> usize {
        self.now
    }

    /// Counts an answer. `full` says whether as many were in flight as may be: a wave that ends, or waits for the archive,
    /// says nothing about the server. `throttled` is how often the server has said 429 to this process.
    pub fn answered(&mut self, at: Instant, full: bool, throttled: u64) {
        let Some(course) = self.course else { return };
        if throttled > std::mem::replace(&mut self.throttled, throttled) {
            return self.go(self.now / 2, Course::Holding { rate: None, windows: 0 });
        }
        if !full {
            self.window = None;
            return;
        }
        let window = self.window.get_or_insert(Window { since: at, answers: 0 });
        window.answers += 1;
        let took = at.duration_since(window.since);
        if took >= WINDOW && window.answers >= ANSWERS_A_PLACE * self.now {
            let rate = window.answers as f64 / took.as_secs_f64();
            let (next, course) = judged(course, self.now, rate);
            self.go(next, course);
        }
    }

    fn go(&mut self, next: usize, course: Course) {
        self.now = next.clamp(LEAST, MOST);
        self.course = Some(course);
        self.window = None;
    }
}

/// What follows from the rate of a window.
fn judged(course: Course, now: usize, rate: f64) -> (usize, Course) {
    let up = (now + now / 2, Course::Trying { from: Some((now, rate)) });
    let stay = |windows| (now, Course::Holding { rate: Some(rate), windows });
    match course {
        Course::Trying { from: Some((before, at_before)) } if rate < at_before * MORE => {
            (before, Course::Holding { rate: Some(at_before), windows: 0 })
        }
        Course::Trying { .. } if now >= MOST => stay(0),
        Course::Trying { .. } => up,
        Course::Holding { rate: Some(held), .. } if rate < held * LESS => {
            (now - now / 3, Course::Holding { rate: None, windows: 0 })
        }
        Course::Holding { windows, .. } if windows >= PATIENCE && now < MOST => up,
        Course::Holding { rate: held, windows } => {
            (now, Course::Holding { rate: Some(held.unwrap_or(rate).max(rate)), windows: windows + 1 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server with a knee: each of so many in flight is answered after `latency`, and more only wait longer.
    struct Server {
        knee: usize,
        latency: Duration,
        throttles_above: usize,
        throttled: u64,
        clock: Instant,
    }

    impl Server {
        fn new(knee: usize) -> Self {
            let (latency, clock) = (Duration::from_millis(10), Instant::now());
            Self { knee, latency, throttles_above: usize::MAX, throttled: 0, clock }
        }

        fn serve(&mut self, level: &mut Level, answers: usize) {
            for _ in 0..answers {
                let at_once = level.get().min(self.knee);
                self.clock += self.latency / u32::try_from(at_once).expect("a small number");
                self.throttled += u64::from(level.get() > self.throttles_above);
                level.answered(self.clock, true, self.throttled);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_grows_to_the_knee_of_the_server_and_stays_there() {
        for (knee, most) in [(16, 36), (40, 60), (200, MOST)] {
            let mut level = Level::new(0);
            Server::new(knee).serve(&mut level, 40_000);
            assert!((knee.min(most) / 2..=most).contains(&level.get()), "knee {knee}: {level:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_halves_it_and_it_comes_back_slowly() {
        let mut level = Level::new(0);
        let mut server = Server { throttles_above: 40, ..Server::new(200) };
        for _ in 0..2_000 {
            server.serve(&mut level, 10);
        }
        assert!(server.throttled < 10, "{} of 20,000 refused", server.throttled);
        assert!((LEAST..=48).contains(&level.get()));
    }

    #[tokio::test(start_paused = true)]
    async fn latency_that_rises_takes_it_down() {
        let mut level = Level::new(0);
        let mut server = Server::new(64);
        server.serve(&mut level, 30_000);
        let before = level.get();
        server.latency *= 4;
        server.serve(&mut level, 2_000);
        assert!(level.get() < before, "{before} to {}", level.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_of_the_configuration_is_kept() {
        let mut level = Level::new(7);
        let mut server = Server { throttles_above: 1, ..Server::new(200) };
        server.serve(&mut level, 10_000);
        assert_eq!(level.get(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_full_says_nothing() {
        let mut level = Level::new(0);
        let mut at = Instant::now();
        for _ in 0..10_000 {
            at += Duration::from_millis(1);
            level.answered(at, false, 0);
        }
        assert_eq!(level.get(), FIRST);
    }
}
