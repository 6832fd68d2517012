//! A TCP proxy that breaks connections as told, between a client and a real server.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to one connection; bytes are those that the server has sent on it, where nothing else is said.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Ends both directions after so many bytes.
    CutAfter(u64),
    /// Ends both directions after so many bytes of the client.
    CutRequestAfter(u64),
    /// Says nothing more after so many bytes, and keeps the connection open.
    StallAfter(u64),
    /// Ends the connection before anything is sent.
    Refuse,
    /// Waits before each piece.
    Delay(Duration),
    None,
}

pub struct Proxy {
    pub address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    connections: AtomicUsize,
    /// Connections whose fault took effect.
    disturbed: AtomicUsize,
    /// Whether what clients send stays here.
    holding: AtomicBool,
    /// Connections on which something that a client sent stays here.
    held: AtomicUsize,
}

struct Plan {
    next: VecDeque<Fault>,
    then: Fault,
}

impl Proxy {
    /// Passes connections on to `server`: the first ones with the faults of `next` in turn, all further ones with `then`.
    pub fn start(server: SocketAddr, next: impl IntoIterator<Item = Fault>, then: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let plan = Arc::new(Mutex::new(Plan { next: next.into_iter().collect(), then }));
        let state = Arc::new(State::default());
        let proxy = Self { address, plan: Arc::clone(&plan), state: Arc::clone(&state) };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                state.connections.fetch_add(1, Ordering::SeqCst);
                let fault = plan.lock().unwrap().take();
                let state = Arc::clone(&state);
                std::thread::spawn(move || pass(client, server, fault, &state));
            }
        });
        proxy
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many connections a fault has hit so far. One that ended before its fault was due is none.
    pub fn disturbed(&self) -> usize {
        self.state.disturbed.load(Ordering::SeqCst)
    }

    pub fn set_rest(&self, then: Fault) {
        self.set([], then);
    }

    /// The faults of the next connections, and of all after them, as [`Self::start`] takes them.
    pub fn set(&self, next: impl IntoIterator<Item = Fault>, then: Fault) {
        *self.plan.lock().unwrap() = Plan { next: next.into_iter().collect(), then };
    }

    /// Keeps what clients send from now on, and passes it on when told so: as a network that was away delivers late what
    /// was sent in time. Handshakes of TLS are passed on, since no request follows one that comes late.
    pub fn hold(&self, holding: bool) {
        self.state.holding.store(holding, Ordering::SeqCst);
    }

    /// On how many connections something is kept at the moment.
    pub fn held(&self) -> usize {
        self.state.held.load(Ordering::SeqCst)
    }
}

impl Plan {
    fn take(&mut self) -> Fault {
        self.next.pop_front().unwrap_or(self.then)
    }
}

fn pass(client: TcpStream, server: SocketAddr, fault: Fault, state: &Arc<State>) {
    let Ok(server) = TcpStream::connect(server) else { return };
    if matches!(fault, Fault::Refuse) {
        state.hit();
        return;
    }
    let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let asking = Arc::clone(state);
    std::thread::spawn(move || ask(&from_client, &to_server, fault, &asking));
    answer(&client, &server, fault, state);
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

impl State {
    fn hit(&self) {
        self.disturbed.fetch_add(1, Ordering::SeqCst);
    }
}

fn ask(mut client: &TcpStream, mut server: &TcpStream, fault: Fault, state: &State) {
    /// Pieces that a client of TLS 1.3 sends before its first request: a hello, and that it has finished.
    const HANDSHAKE: usize = 2;
    let mut buffer = vec![0; 64 * 1024];
    let mut pieces = 0;
    let mut left = match fault {
        Fault::CutRequestAfter(bytes) => bytes,
        Fault::CutAfter(_) | Fault::StallAfter(_) | Fault::Refuse | Fault::Delay(_) | Fault::None => u64::MAX,
    };
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        if pieces >= HANDSHAKE && state.holding.load(Ordering::SeqCst) {
            state.held.fetch_add(1, Ordering::SeqCst);
            while state.holding.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            state.held.fetch_sub(1, Ordering::SeqCst);
        }
        pieces += 1;
        let passed = left.min(read as u64);
        if server.write_all(&buffer[..passed as usize]).is_err() {
            break;
        }
        if passed < read as u64 {
            state.hit();
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
            return;
        }
        left -= passed;
    }
    let _ = server.shutdown(Shutdown::Write);
}

fn answer(mut client: &TcpStream, mut server: &TcpStream, fault: Fault, state: &State) {
    let mut buffer = vec![0; 64 * 1024];
    let mut sent = 0;
    loop {
        let Ok(read @ 1..) = server.read(&mut buffer) else { return };
        let passed = match fault {
            Fault::CutAfter(bytes) | Fault::StallAfter(bytes) => read.min((bytes - sent) as usize),
            Fault::Refuse | Fault::CutRequestAfter(_) | Fault::Delay(_) | Fault::None => read,
        };
        if let Fault::Delay(wait) = fault {
            if sent == 0 {
                state.hit();
            }
            std::thread::sleep(wait);
        }
        if client.write_all(&buffer[..passed]).is_err() {
            return;
        }
        sent += passed as u64;
        if passed < read {
            state.hit();
            if matches!(fault, Fault::StallAfter(_)) {
                // Until the client gives up.
                std::thread::sleep(Duration::from_secs(30));
            }
            return;
        }
    }
}
