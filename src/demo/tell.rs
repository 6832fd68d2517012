//! How the story is printed: on stdout, in colours on a terminal (and not when `NO_COLOR` is set); the bar on stderr.

use std::io::{self, BufRead as _, Write as _};

use console::{Style, style};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;

use super::repository::Line;

/// Digits of a commit's id, as Git shortens it.
const SHORT: usize = 7;

pub struct Teller {
    pauses: bool,
    acts: usize,
    /// While something is under way; hidden where stderr is no terminal.
    bar: Option<ProgressBar>,
}

impl Teller {
    /// `pauses`: waits for Enter before each act but the first.
    pub fn new(pauses: bool) -> Self {
        Self { pauses, acts: 0, bar: None }
    }

    /// Begins an act.
    ///
    /// # Errors
    ///
    /// When stdout is closed.
    pub async fn act(&mut self, title: &str) -> io::Result<()> {
        if self.pauses && self.acts > 0 {
            self.line(&style("\n   Enter goes on.").dim().to_string())?;
            // Who cannot press it is not waited for.
            let _ = tokio::task::spawn_blocking(|| io::stdin().lock().read_line(&mut String::new())).await;
        }
        self.acts += 1;
        self.line(&format!("\n{}", style(format!("{}. {title}", self.acts)).bold()))
    }

    /// What happens, in lines that fit a terminal.
    ///
    /// # Errors
    ///
    /// As [`Teller::act`].
    pub fn say(&self, text: &str) -> io::Result<()> {
        self.lines(text, "   ", &Style::new())
    }

    /// What a program or a file says.
    ///
    /// # Errors
    ///
    /// As [`Teller::act`].
    pub fn show(&self, text: &str) -> io::Result<()> {
        self.lines(text, "     ", &Style::new().dim())
    }

    /// What a gate says.
    ///
    /// # Errors
    ///
    /// As [`Teller::act`].
    pub fn warn(&self, text: &str) -> io::Result<()> {
        self.lines(text, "     ", &Style::new().yellow())
    }

    /// How it ended.
    ///
    /// # Errors
    ///
    /// As [`Teller::act`].
    pub fn succeed(&self, text: &str) -> io::Result<()> {
        self.lines(text, "   ", &Style::new().green().bold())
    }

    /// A commit that appeared on a branch.
    ///
    /// # Errors
    ///
    /// As [`Teller::act`].
    pub fn commit(&self, commit: &Line) -> io::Result<()> {
        let Line { id, time, author, subject } = commit;
        let id: String = id.chars().take(SHORT).collect();
        let time = time.to_zoned(TimeZone::UTC).strftime("%H:%M:%S");
        self.line(&format!("     {} {time} {author:<8} {subject}", style(id).yellow()))
    }

    /// Shows or moves the bar.
    pub fn progress(&mut self, step: &str, done: usize, total: usize) {
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(total as u64);
            match ProgressStyle::with_template("   {msg:14} {bar:40} {pos}/{len}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        bar.set_position(done as u64);
        bar.set_message(step.to_owned());
    }

    /// Takes the bar away.
    pub fn end_progress(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn lines(&self, text: &str, indent: &str, style: &Style) -> io::Result<()> {
        text.lines().try_for_each(|line| match line {
            "" => self.line(""),
            line => self.line(&format!("{indent}{}", style.apply_to(line))),
        })
    }

    fn line(&self, line: &str) -> io::Result<()> {
        let write = || writeln!(io::stdout(), "{line}");
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}
