//! A flowtable of nftables on the forwarding host. It hands packets on right behind the driver, past routing and
//! netfilter, but not past tc's egress.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use byway::Hook;
use byway_lab::{
    Error, Lab, Node, Protocol, Service,
    seed::{Addresses, IPV4, IPV6, Seed},
    wait_until,
};

use crate::support::{ANSWER, SILENCE, backend::with_backend, hooks, lacking, on, the_rule, via};

const DEVICES: [&str; 3] = ["eth0", "eth1", "eth2"];
const EXCHANGES: u64 = 5;
const HELLO: [u8; 5] = *b"hello";

/// A client that calls the backend, whose replies Byway redirects.
struct Scene {
    seed: Seed,
    addresses: Addresses,
    protocol: Protocol,
    echo: Service,
    #[expect(dead_code, reason = "it is where the service is")]
    backend: Node,
}

/// By TCP and UDP, with both hooks.
fn scenes(families: &[Addresses], tell: impl Fn(Scene)) {
    if !has_flowtables() {
        return lacking("flowtable");
    }
    for hook in hooks() {
        for addresses in families {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                tell(Scene::new(*hook, protocol, *addresses));
            }
        }
    }
}

fn has_flowtables() -> bool {
    let lab = Lab::new().unwrap();
    match lab.node("node").unwrap().offload_flows(&["lo"], "lo") {
        Ok(()) => true,
        Err(Error::System { source, .. })
            if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) =>
        {
            false
        }
        Err(error) => panic!("{error}"),
    }
}

impl Scene {
    fn new(hook: Hook, protocol: Protocol, addresses: Addresses) -> Self {
        let (backend_address, network) = if addresses.client.is_ipv4() {
            ("10.50.0.2", "10.50.0.0/24")
        } else {
            ("2001:db8:50::2", "2001:db8:50::/64")
        };
        let (seed, backend) = with_backend();
        seed.router.route(&format!("{network} via {}", addresses.server)).unwrap();
        let address = SocketAddr::new(backend_address.parse().unwrap(), 8080);
        let echo = match protocol {
            Protocol::Tcp => backend.tcp_serve(address),
            Protocol::Udp => backend.udp_serve(address),
        };
        on(&seed.server, hook, |byway| byway.add(&via(network, addresses.router, "eth1"))).unwrap();
        Self { seed, addresses, protocol, echo: echo.unwrap(), backend }
    }

    /// A connection from the client, which can be used again and again.
    fn call(&self) -> io::Result<Call> {
        let (from, to) = (self.addresses.client, self.echo.address());
        match self.protocol {
            Protocol::Tcp => self.seed.client.run(|| TcpStream::connect_timeout(&to, SILENCE)).map(Call::Tcp),
            Protocol::Udp => {
                let socket = self.seed.client.run(|| UdpSocket::bind((from, 0)))?;
                socket.connect(to).map(|()| Call::Udp(socket))
            }
        }
    }

    fn departed(&self) -> u64 {
        the_rule(&self.seed.server).departed.packets
    }

    fn all_arrived(&self) -> bool {
        wait_until(ANSWER, || {
            let rule = the_rule(&self.seed.server);
            rule.departed.packets == rule.arrived.packets
        })
    }

    /// The stack forwards no reply any more. What goes on has taken the shortcut.
    fn only_offloaded_replies_from_here_on(&self) {
        self.seed.server.drop_forwarded("eth2").unwrap();
        self.call().and_then(|mut other| other.exchange(SILENCE)).expect_err("no other reply is forwarded");
    }

    fn replies_are_redirected(&self, call: &mut Call) {
        let before = self.departed();
        call.works();
        assert!(self.departed() >= before + EXCHANGES, "{:?}", the_rule(&self.seed.server));
        assert!(self.all_arrived(), "{:?}", the_rule(&self.seed.server));
    }
}

enum Call {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Call {
    /// Hello, and hello back.
    fn exchange(&mut self, timeout: Duration) -> io::Result<()> {
        let mut answer = [0; HELLO.len()];
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.write_all(&HELLO)?;
                stream.read_exact(&mut answer)?;
            }
            Self::Udp(socket) => {
                socket.set_read_timeout(Some(timeout))?;
                socket.send(&HELLO)?;
                socket.recv(&mut answer)?;
            }
        }
        if answer == HELLO { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }

    fn works(&mut self) {
        for _ in 0..EXCHANGES {
            self.exchange(ANSWER).unwrap();
        }
    }
}

/// A flow that replies have put into the table leaves by the attachment, as they do, and Byway redirects it.
#[test]
fn replies_that_are_offloaded_are_redirected() {
    scenes(&[IPV4, IPV6], |scene| {
        scene.seed.server.offload_flows(&DEVICES, "eth0").unwrap();
        let mut call = scene.call().unwrap();
        scene.replies_are_redirected(&mut call);
        scene.only_offloaded_replies_from_here_on();
        scene.replies_are_redirected(&mut call);
    });
}

/// Over IPv6 that also holds for a flow that requests have put there: its replies take the normal route.
#[test]
fn over_ipv6_replies_of_offloaded_requests_are_redirected() {
    scenes(&[IPV6], |scene| {
        scene.seed.server.offload_flows(&DEVICES, "eth2").unwrap();
        let mut call = scene.call().unwrap();
        scene.replies_are_redirected(&mut call);
        scene.only_offloaded_replies_from_here_on();
        // Older kernels, such as 5.10, do not take such a flow.
        if call.exchange(SILENCE).is_ok() {
            scene.replies_are_redirected(&mut call);
        }
    });
}

/// Over IPv4 the kernel wants the replies of such a flow to leave by the device that the requests came in by, and
/// looks for the client there. They never come to the attachment. Without a route the kernel takes the client for a
/// neighbour, and they are lost; with one they find the way by themselves.
#[test]
fn over_ipv4_replies_of_offloaded_requests_pass_byway_by() {
    scenes(&[IPV4], |scene| {
        let (server, addresses) = (&scene.seed.server, scene.addresses);
        server.offload_flows(&DEVICES, "eth2").unwrap();
        let mut call = scene.call().unwrap();
        if !wait_until(ANSWER, || call.exchange(SILENCE).is_err()) {
            // Newer kernels, such as 7.3, do over IPv4 as over IPv6.
            scene.replies_are_redirected(&mut call);
            scene.only_offloaded_replies_from_here_on();
            if call.exchange(SILENCE).is_ok() {
                scene.replies_are_redirected(&mut call);
            }
            return;
        }
        let before = scene.departed();
        call.exchange(SILENCE).unwrap_err();
        assert_eq!(scene.departed(), before);
        assert!(server.neighbour("eth1", addresses.client).unwrap().is_some(), "the client is no neighbour");

        server.route(&format!("default via {} dev eth1 metric 2000", addresses.router)).unwrap();
        let mut call = scene.call().unwrap();
        call.works();
        scene.only_offloaded_replies_from_here_on();
        let before = scene.departed();
        call.works();
        assert_eq!(scene.departed(), before);
    });
}
