//! What Rancher itself says over HTTP.

use serde_json::Value;

use super::{Judged, is_version, word};

/// How asking for one path came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Whatever it was; at most as much of the body as is taken of one.
    Answered { code: u16, body: String },
    /// Somebody was reached and did not answer as HTTP should: nothing in time, too much, or a redirect to elsewhere.
    Misbehaved(String),
    /// Nobody was reached, or we may not ask.
    NotAsked(String),
}

impl Reply {
    /// The body of an answer that says that all is well.
    fn body(&self, path: &str) -> Result<&str, Judged> {
        match self {
            Self::Answered { code: 200, body } => Ok(body),
            // Rancher asks nobody who they are here: it is somebody on the way, such as a proxy of the network.
            Self::Answered { code: code @ (401 | 403 | 407), body: _ } => {
                Err(Judged::not_asked(format!("{path} answers {code}: somebody on the way does not let us ask")))
            }
            Self::Answered { code, body: _ } => Err(Judged::failed(format!("{path} answers {code}"))),
            Self::Misbehaved(problem) => Err(Judged::failed(format!("{path}: {problem}"))),
            Self::NotAsked(why) => Err(Judged::not_asked(why)),
        }
    }
}

/// Judges `/healthz`, whose code says all, and `/ping`, which says `pong` (Rancher's `pkg/api/steve/health`).
pub fn health(healthz: &Reply, ping: &Reply) -> Judged {
    let bodies = healthz.body("/healthz").and_then(|_ok| ping.body("/ping"));
    match bodies {
        Ok("pong") => Judged::passed("/healthz answers 200 and /ping says pong"),
        Ok(_other) => Judged::failed("/ping does not say pong: something else than Rancher answers"),
        Err(judged) => judged,
    }
}

/// Judges `/rancherversion`: JSON with a field `Version`. The setting `server-version` alone says nothing: the restore wrote
/// it, and a Rancher writes it when it starts; where it says something else it is told.
pub fn version(reply: &Reply, wanted: &str, setting: Option<&str>) -> Judged {
    const PATH: &str = "/rancherversion";
    let body = match reply.body(PATH) {
        Ok(body) => body,
        Err(judged) => return judged,
    };
    let said = serde_json::from_str::<Value>(body).ok();
    let Some(said) = said.as_ref().and_then(|said| said.get("Version")).and_then(Value::as_str) else {
        return Judged::failed(format!("{PATH} does not tell a version: something else than Rancher answers"));
    };
    let judged = match is_version(said, wanted) {
        true => Judged::passed(format!("{PATH} says {}", word(said))),
        false => Judged::failed(format!("{PATH} says {}, and not {wanted}", word(said))),
    };
    let other = setting.filter(|setting| !is_version(setting, wanted));
    judged.with(other.map(|other| format!("the setting server-version says {}", word(other))).into_iter().collect())
}
