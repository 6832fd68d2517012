//! A TCP proxy that breaks connections as told, between a client and a real server.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to one connection, by bytes that the server has sent on it.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Ends both directions after so many bytes.
    CutAfter(u64),
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
    connections: Arc<AtomicUsize>,
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
        let connections = Arc::new(AtomicUsize::new(0));
        let proxy = Self { address, plan: Arc::clone(&plan), connections: Arc::clone(&connections) };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                connections.fetch_add(1, Ordering::SeqCst);
                let fault = plan.lock().unwrap().take();
                std::thread::spawn(move || pass(client, server, fault));
            }
        });
        proxy
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn set_rest(&self, then: Fault) {
        *self.plan.lock().unwrap() = Plan { next: VecDeque::new(), then };
    }
}

impl Plan {
    fn take(&mut self) -> Fault {
        self.next.pop_front().unwrap_or(self.then)
    }
}

fn pass(client: TcpStream, server: SocketAddr, fault: Fault) {
    let Ok(server) = TcpStream::connect(server) else { return };
    if matches!(fault, Fault::Refuse) {
        return;
    }
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    answer(&client, &server, fault);
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

fn answer(mut client: &TcpStream, mut server: &TcpStream, fault: Fault) {
    let mut buffer = vec![0; 64 * 1024];
    let mut sent = 0;
    loop {
        let most = match fault {
            Fault::CutAfter(bytes) | Fault::StallAfter(bytes) => buffer.len().min((bytes - sent) as usize),
            Fault::Refuse | Fault::Delay(_) | Fault::None => buffer.len(),
        };
        if most == 0 {
            if matches!(fault, Fault::StallAfter(_)) {
                // Until the client gives up.
                std::thread::sleep(Duration::from_secs(30));
            }
            return;
        }
        let Ok(read @ 1..) = server.read(&mut buffer[..most]) else { return };
        if let Fault::Delay(wait) = fault {
            std::thread::sleep(wait);
        }
        if client.write_all(&buffer[..read]).is_err() {
            return;
        }
        sent += read as u64;
    }
}
