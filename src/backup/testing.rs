//! Archives for tests, well made or not.
