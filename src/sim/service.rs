//! The tower service, and the bodies of watches.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, Stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use tokio::sync::watch as channel;
use tokio::time::{sleep, sleep_until};
use tower::Service;

use super::Shared;
use super::http::{Answer, Reply, answer};
use super::watch::{Said, Watch};

pub type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// Answers requests to a simulated cluster; see [`super::Sim::service`].
#[derive(Clone)]
pub struct SimService {
    shared: Arc<Shared>,
}

impl SimService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Service<Request<Body>> for SimService {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let latency = shared.with(|world| {
                let longest = world.options.latency;
                world.between(longest / 2, longest)
            });
            if !latency.is_zero() {
                sleep(latency).await;
            }
            let (parts, body) = request.into_parts();
            let Ok(body) = body.collect().await else {
                return Ok(respond(
                    StatusCode::BAD_REQUEST,
                    "text/plain",
                    Full::from("the body broke off").boxed_unsync(),
                ));
            };
            let reply = shared.with(|world| answer(world, &parts, &body.to_bytes()));
            Ok(match reply {
                Reply::Whole(Answer { code, content_type, body }) => {
                    respond(code, content_type, Full::from(body).boxed_unsync())
                }
                Reply::Watch(watch) => {
                    let events = StreamBody::new(events(&shared, *watch)).boxed_unsync();
                    respond(StatusCode::OK, "application/json", events)
                }
            })
        })
    }
}

fn respond(code: StatusCode, content_type: &'static str, body: ResponseBody) -> Response<ResponseBody> {
    let builder = Response::builder().status(code).header(header::CONTENT_TYPE, content_type);
    builder.body(body).expect("a status and a header")
}

/// What wakes a watch, and the watch. It does not keep the cluster alive.
struct Watching {
    shared: Weak<Shared>,
    changed: channel::Receiver<()>,
    watch: Watch,
    is_over: bool,
}

fn events(shared: &Arc<Shared>, watch: Watch) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static {
    let changed = shared.changed.subscribe();
    let watching = Watching { shared: Arc::downgrade(shared), changed, watch, is_over: false };
    stream::unfold(watching, |mut watching| async {
        let bytes = watching.next().await?;
        Some((Ok(Frame::data(bytes)), watching))
    })
}

impl Watching {
    /// The next events; `None` at the end of the watch or of the cluster.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.is_over {
            let until = {
                let shared = self.shared.upgrade()?;
                self.changed.mark_unchanged();
                match self.say(&shared) {
                    (Said::Lines(lines), _) => return Some(lines),
                    (Said::Last(lines), _) => {
                        self.is_over = true;
                        return (!lines.is_empty()).then_some(lines);
                    }
                    (Said::Nothing { until }, due) => shared.origin + due.map_or(until, |due| due.min(until)),
                }
            };
            // The cluster is let go of while the watch sleeps.
            tokio::select! {
                biased;
                changed = self.changed.changed() => changed.ok()?,
                () = sleep_until(until) => {}
            }
        }
        None
    }

    /// What there is to say, and when the cluster does something by itself.
    fn say(&mut self, shared: &Shared) -> (Said, Option<Duration>) {
        shared.with(|world| (self.watch.say(world), world.next_due()))
    }
}
