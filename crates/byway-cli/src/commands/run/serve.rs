//! Answers HTTP (RFC 9112): the metrics, and how the agent is.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt, chown},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use byway::Byway;
use nix::unistd::Group;

use super::health::Health;
use crate::{commands::metrics, error::Error};

/// How many clients may ask at the same time.
const CLIENTS: usize = 8;
/// How long a client may take to ask, and to read each part of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest request, in bytes.
const REQUEST_MAX: usize = 8 * 1024;
/// Of how many rules the metrics are, as by default of `byway metrics`.
const RULES: usize = 1_000;
/// The group whose members may read from the socket (`byway`), if there is one.
const READERS: &str = "byway";

/// Where to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// An address of this host alone.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Reads an endpoint: an address and a port, or a path.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    if text.contains('/') {
        return Ok(Endpoint::Unix(text.into()));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(Endpoint::Tcp(address)),
        Ok(address) => Err(format!(
            "whoever reaches {} could read everything; name a loopback address, like 127.0.0.1:9473",
            address.ip()
        )),
        Err(_) => Err("write an address and a port, like 127.0.0.1:9473, or the path of a socket".to_owned()),
    }
}

/// Begins to answer, in threads of its own.
pub(super) fn start(endpoint: &Endpoint, health: &Health) -> io::Result<()> {
    match endpoint {
        Endpoint::Tcp(address) => {
            let listener = TcpListener::bind(address)?;
            accept(move || Ok(Client::Tcp(listener.accept()?.0)), health)
        }
        Endpoint::Unix(path) => {
            let listener = listen(path)?;
            accept(move || Ok(Client::Unix(listener.accept()?.0)), health)
        }
    }
}

/// Makes a socket that root and the readers may use. Takes the place of one that an earlier agent has left.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket())
        && UnixStream::connect(path).is_err()
    {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    let readers = Group::from_name(READERS).ok().flatten();
    let mode = if readers.is_some() { 0o660 } else { 0o600 };
    if let Some(readers) = readers {
        chown(path, None, Some(readers.gid.as_raw()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

fn accept(next: impl Fn() -> io::Result<Client> + Send + 'static, health: &Health) -> io::Result<()> {
    let health = health.clone();
    let clients = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        loop {
            let Ok(client) = next() else {
                // Out of descriptors, for example: that may pass.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
                clients.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (health, of_client) = (health.clone(), clients.clone());
            let begun = thread::Builder::new().spawn(move || {
                // Whoever does not wait for the answer does not want it.
                let _ = client.serve(&health);
                of_client.fetch_sub(1, Ordering::Relaxed);
            });
            if begun.is_err() {
                clients.fetch_sub(1, Ordering::Relaxed);
            }
        }
    };
    thread::Builder::new().spawn(accept).map(drop)
}

/// Somebody who asks.
enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    fn serve(self, health: &Health) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                answer(stream, health)
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                answer(stream, health)
            }
        }
    }
}

/// What is sent back: the status, and the text.
type Answer = (&'static str, String);

fn answer(mut stream: impl Read + Write, health: &Health) -> io::Result<()> {
    let (is_head, (status, text)) = match request(&mut stream)? {
        Some((method, path)) => (method == "HEAD", answer_to(&method, &path, health)),
        None => (false, ("400 Bad Request", "this is no request of HTTP\n".to_owned())),
    };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    if !is_head {
        stream.write_all(text.as_bytes())?;
    }
    stream.flush()
}

/// Reads the method and the path of a request. Returns `None` if it is none.
fn request(stream: &mut impl Read) -> io::Result<Option<(String, String)>> {
    let until = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    while bytes.len() < REQUEST_MAX && Instant::now() < until {
        let read = stream.read(&mut part)?;
        bytes.extend_from_slice(&part[..read]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&bytes) {
            Ok(status) if status.is_complete() => {
                let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
                return Ok(Some((method.to_owned(), path.to_owned())));
            }
            Ok(_) if read > 0 => {}
            _ => return Ok(None),
        }
    }
    Ok(None)
}

fn answer_to(method: &str, path: &str, health: &Health) -> Answer {
    if !matches!(method, "GET" | "HEAD") {
        return ("405 Method Not Allowed", "only GET and HEAD\n".to_owned());
    }
    match path.split('?').next().unwrap_or_default() {
        "/metrics" => {
            let read = || -> Result<String, Error> {
                let mut all = metrics::read(&mut Byway::open()?, RULES)?;
                let vitals = health.vitals().clone();
                all.agent(vitals.followed, vitals.overruns, vitals.trouble().is_some());
                metrics::text(all)
            };
            match read() {
                Ok(text) => ("200 OK", text),
                Err(error) => ("500 Internal Server Error", format!("{error}\n")),
            }
        }
        "/healthz" if health.is_alive() => ("200 OK", "alive\n".to_owned()),
        "/healthz" => ("503 Service Unavailable", "it has not looked at the network for long\n".to_owned()),
        "/readyz" => match health.vitals().trouble() {
            None => ("200 OK", "ready\n".to_owned()),
            Some(trouble) => ("503 Service Unavailable", format!("{trouble}\n")),
        },
        _ => ("404 Not Found", "there is /metrics, /healthz and /readyz\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_may_ask() {
        assert_eq!(endpoint("127.0.0.1:9473"), Ok(Endpoint::Tcp("127.0.0.1:9473".parse().unwrap())));
        assert_eq!(endpoint("[::1]:9473"), Ok(Endpoint::Tcp("[::1]:9473".parse().unwrap())));
        assert_eq!(endpoint("/run/byway/http"), Ok(Endpoint::Unix("/run/byway/http".into())));
        for (text, sentence) in [
            ("0.0.0.0:9473", "whoever reaches 0.0.0.0 could read everything"),
            ("[2001:db8::1]:9473", "whoever reaches 2001:db8::1 could read everything"),
            ("9473", "write an address and a port"),
            ("localhost:9473", "write an address and a port"),
        ] {
            assert!(endpoint(text).unwrap_err().starts_with(sentence), "{text}");
        }
    }

    #[test]
    fn a_request_comes_in_parts_or_is_none() {
        let read = |bytes: &[u8]| request(&mut &*bytes).unwrap();
        let get = |path: &str| Some(("GET".to_owned(), path.to_owned()));
        assert_eq!(read(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), get("/metrics"));
        // Longer than what is read at a time.
        let long = format!("GET /healthz HTTP/1.0\r\nX: {}\r\n\r\n", "y".repeat(3_000));
        assert_eq!(read(long.as_bytes()), get("/healthz"));
        let too_long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(REQUEST_MAX));
        for text in ["", "GET /metrics HTTP/1.1\r\nHost: x\r\n", "\x16\x03\x01", "GET\r\n\r\n", &too_long] {
            assert_eq!(read(text.as_bytes()), None, "{text:?}");
        }
    }
}
