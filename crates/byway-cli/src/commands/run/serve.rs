//! Answers HTTP (RFC 9112): the metrics, and how the agent is.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use byway::Byway;

use super::health::Health;
use crate::{commands::metrics, error::Error};

/// How many clients may ask at the same time.
const CLIENTS: usize = 64;
/// How long a client may take to ask, and again to read the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the metrics that somebody has asked for are those of others as well.
const FRESH: Duration = Duration::from_secs(1);
/// How much is sent at a time, in bytes.
const PART: usize = 64 * 1024;
/// The longest request, in bytes.
const REQUEST_MAX: usize = 8 * 1024;
/// Of how many rules the metrics are, as by default of `byway metrics`.
const RULES: usize = 1_000;

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

/// Makes a socket that the user and the group of this process may use. Takes the place of one that an earlier agent has left.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket())
        && UnixStream::connect(path).is_err()
    {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

fn accept(next: impl Fn() -> io::Result<Client> + Send + 'static, health: &Health) -> io::Result<()> {
    let server =
        Arc::new(Server { health: health.clone(), clients: AtomicUsize::new(0), last: Mutex::default() });
    let accept = move || {
        loop {
            let Ok(client) = next() else {
                // Out of descriptors, for example: that may pass.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            let server = server.clone();
            if let Some(place) = Place::take(&server) {
                // A client that no thread can be had for is left alone, as one that there is no place for.
                let _ = thread::Builder::new().spawn(move || {
                    // Whoever does not wait for the answer does not want it.
                    let _ = client.serve(&place.0);
                });
            }
        }
    };
    thread::Builder::new().spawn(accept).map(drop)
}

/// What all clients are answered from.
struct Server {
    health: Health,
    /// How many clients there are.
    clients: AtomicUsize,
    /// The last metrics, and when they were read.
    last: Mutex<Option<(Instant, String)>>,
}

/// The place of one client.
struct Place(Arc<Server>);

impl Place {
    fn take(server: &Arc<Server>) -> Option<Self> {
        let place = Self(server.clone());
        (server.clients.fetch_add(1, Ordering::Relaxed) < CLIENTS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Somebody who asks.
enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    fn serve(self, server: &Server) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                answer(stream, server)
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                answer(stream, server)
            }
        }
    }
}

/// A request, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    method: String,
    path: String,
    /// The host that it asks for, if it says so.
    host: Option<String>,
}

/// What is sent back: the status, and the text.
type Answer = (&'static str, String);

fn answer(mut stream: impl Read + Write, server: &Server) -> io::Result<()> {
    let request = request(&mut stream)?;
    let (status, text) = match &request {
        Some(request) => server.answer(request),
        None => ("400 Bad Request", "this is no request of HTTP\n".to_owned()),
    };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    let until = Instant::now() + PATIENCE;
    let is_head = request.is_some_and(|request| request.method == "HEAD");
    for part in text.as_bytes().chunks(PART).filter(|_| !is_head) {
        if Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.write_all(part)?;
    }
    stream.flush()
}

/// Reads a request. Returns `None` if it is none.
fn request(stream: &mut impl Read) -> io::Result<Option<Request>> {
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
                let host = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("host"));
                return Ok(Some(Request {
                    method: request.method.unwrap_or_default().to_owned(),
                    path: request.path.unwrap_or_default().to_owned(),
                    host: host.map(|host| String::from_utf8_lossy(host.value).into_owned()),
                }));
            }
            Ok(_) if read > 0 => {}
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Whether this is a name of this host that no name server gives out: a page of the web may have one that leads here.
fn is_this_host(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |it| it.0);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.is_empty()
        || name == "localhost"
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Server {
    fn answer(&self, request: &Request) -> Answer {
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return ("405 Method Not Allowed", "only GET and HEAD\n".to_owned());
        }
        if !request.host.as_deref().is_none_or(is_this_host) {
            return ("421 Misdirected Request", "ask for localhost\n".to_owned());
        }
        match request.path.split('?').next().unwrap_or_default() {
            "/metrics" => match self.metrics() {
                Ok(text) => ("200 OK", text),
                Err(error) => ("500 Internal Server Error", format!("{error}\n")),
            },
            "/healthz" if self.health.is_alive() => ("200 OK", "alive\n".to_owned()),
            "/healthz" => {
                ("503 Service Unavailable", "it has not looked at the network for long\n".to_owned())
            }
            "/readyz" => match self.health.vitals().trouble() {
                None => ("200 OK", "ready\n".to_owned()),
                Some(trouble) => ("503 Service Unavailable", format!("{trouble}\n")),
            },
            _ => ("404 Not Found", "there is /metrics, /healthz and /readyz\n".to_owned()),
        }
    }

    /// Reads the metrics, for one client at a time.
    fn metrics(&self) -> Result<String, Error> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, text)) = &*last
            && at.elapsed() < FRESH
        {
            return Ok(text.clone());
        }
        let mut byway = Byway::open()?.with_wait(FRESH);
        let mut all = metrics::read(&mut byway, RULES)?;
        let vitals = self.health.vitals().clone();
        all.agent(vitals.followed, vitals.overruns, vitals.trouble().is_some());
        let text = metrics::text(all)?;
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
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
    fn a_name_of_the_web_is_not_this_host() {
        for host in ["localhost", "localhost:9473", "127.0.0.1:9473", "[::1]:9473", "[::1]", "127.0.0.2", ""]
        {
            assert!(is_this_host(host), "{host}");
        }
        for host in ["example.org", "example.org:9473", "localhost.example.org", "192.0.2.1:9473", ":x"] {
            assert!(!is_this_host(host), "{host}");
        }
    }

    #[test]
    fn a_request_comes_in_parts_or_is_none() {
        let read = |bytes: &[u8]| request(&mut &*bytes).unwrap();
        let get = |path: &str, host: Option<&str>| {
            Some(Request {
                method: "GET".to_owned(),
                path: path.to_owned(),
                host: host.map(ToOwned::to_owned),
            })
        };
        assert_eq!(read(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), get("/metrics", Some("x")));
        // Longer than what is read at a time.
        let long = format!("GET /healthz HTTP/1.0\r\nX: {}\r\n\r\n", "y".repeat(3_000));
        assert_eq!(read(long.as_bytes()), get("/healthz", None));
        let too_long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(REQUEST_MAX));
        for text in ["", "GET /metrics HTTP/1.1\r\nHost: x\r\n", "\x16\x03\x01", "GET\r\n\r\n", &too_long] {
            assert_eq!(read(text.as_bytes()), None, "{text:?}");
        }
    }
}
