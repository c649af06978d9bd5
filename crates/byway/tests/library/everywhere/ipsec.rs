//! IPsec on the ordinary way. The kernel encrypts where it routes, which is before the packet meets Byway: what Byway
//! sees and redirects is the ESP packet, by the source that stands on that.

use std::net::{IpAddr, SocketAddr};

use byway::Hook;
use byway_lab::{
    Capture, Direction, Error, Esp, EspMode, EspPolicy, Frame, Service,
    seed::{Addresses, IPV4, IPV6, Seed},
    wait_until,
};

use crate::support::{ANSWER, SILENCE, hooks, lacking, on, rules, the_rule, via};

/// IANA's protocol number.
const ESP: u8 = 50;
const CLEAR: &[u8] = b"words that nobody on the way may read. ";

/// The seed, where everything from the service address to the client has to be encrypted, and nothing can be yet.
struct Scene {
    seed: Seed,
    esp: Esp,
    echo: Service,
    /// What the server's `eth0` and `eth1` carry.
    carried: [Capture; 2],
}

/// In both families, with both hooks.
fn scenes(mode: EspMode, outer: [&str; 2], tell: impl Fn(Hook, Addresses, IpAddr, Scene)) {
    if !has_esp() {
        return lacking("ESP");
    }
    for hook in hooks() {
        for (addresses, outer) in [IPV4, IPV6].into_iter().zip(outer) {
            let outer: IpAddr = outer.parse().unwrap();
            let seed = Seed::new().unwrap();
            let ends = (outer, addresses.client);
            let esp = Esp { mode, from: addresses.service, to: addresses.client, ends, spi: 0x1000 };
            seed.server.esp_policy(&esp, EspPolicy::Out).unwrap();
            seed.client.esp_policy(&esp, EspPolicy::In).unwrap();
            let echo = seed.server.tcp_serve(SocketAddr::new(addresses.service, 30100)).unwrap();
            let carried = ["eth0", "eth1"].map(|device| seed.server.capture(device).unwrap());
            tell(*hook, addresses, outer, Scene { seed, esp, echo, carried });
        }
    }
}

fn has_esp() -> bool {
    let lab = byway_lab::Lab::new().unwrap();
    let node = lab.node("node").unwrap();
    let [from, to]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
    match node.esp_state(&Esp { mode: EspMode::Transport, from, to, ends: (from, to), spi: 0x1000 }) {
        Ok(()) => true,
        Err(Error::System { source, .. }) if source.raw_os_error() == Some(libc::EPROTONOSUPPORT) => false,
        Err(error) => panic!("{error}"),
    }
}

impl Scene {
    fn rule(&self, hook: Hook, source: IpAddr, addresses: Addresses) {
        let rule = via(&source.to_string(), addresses.router, "eth1");
        on(&self.seed.server, hook, |byway| byway.add(&rule)).unwrap();
    }

    /// From here on both ends have the keys.
    fn agree(&self) {
        self.seed.server.esp_state(&self.esp).unwrap();
        self.seed.client.esp_state(&self.esp).unwrap();
    }

    /// More than fits into one packet.
    fn client_gets_an_answer(&self) -> bool {
        let payload = CLEAR.repeat(1_000);
        self.seed.client.tcp_echo(None, self.echo.address(), &payload, ANSWER).unwrap() == payload
    }

    fn client_gets_no_answer(&self) {
        self.seed.client.tcp_echo(None, self.echo.address(), CLEAR, SILENCE).unwrap_err();
    }

    /// How many ESP packets from `source` have left by `eth0` and by `eth1`.
    fn encrypted(&self, source: IpAddr) -> [usize; 2] {
        let is_it = |frame: &Frame| frame.protocol() == Some(ESP) && frame.source() == Some(source);
        self.left(is_it)
    }

    /// Nothing of the service's has left but by ESP, neither by its words nor by its addresses.
    fn assert_nothing_in_clear(&self) {
        let words = |frame: &Frame| frame.bytes.windows(CLEAR.len()).any(|window| window == CLEAR);
        let in_clear = |frame: &Frame| {
            words(frame) || (frame.source() == Some(self.esp.from) && frame.protocol() != Some(ESP))
        };
        assert_eq!(self.left(in_clear), [0, 0]);
        // What the client sends is not protected: the words are found where they are.
        assert!(!self.esp_has_worked() || self.carried[1].count(words) > 0);
    }

    fn esp_has_worked(&self) -> bool {
        self.encrypted(self.esp.ends.0)[1] > 0
    }

    fn left(&self, wanted: impl Fn(&Frame) -> bool) -> [usize; 2] {
        self.carried
            .each_ref()
            .map(|capture| capture.count(|frame| frame.direction == Direction::Outgoing && wanted(frame)))
    }

    fn all_arrived(&self) -> bool {
        wait_until(ANSWER, || {
            rules(&self.seed.server).iter().all(|rule| rule.departed.packets == rule.arrived.packets)
        })
    }
}

/// In transport mode the ESP packet has the address of the service, and takes the rule's way as it is.
#[test]
fn transport_mode_is_redirected_encrypted() {
    let outer = [IPV4, IPV6].map(|addresses| addresses.service.to_string());
    scenes(EspMode::Transport, outer.each_ref().map(String::as_str), |hook, addresses, service, scene| {
        scene.rule(hook, service, addresses);
        // Without keys nothing leaves, by neither way: no redirect gets around the policy.
        scene.client_gets_no_answer();
        assert_eq!(scene.left(|frame| frame.source() == Some(service)), [0, 0]);
        assert_eq!(the_rule(&scene.seed.server).departed.packets, 0);

        scene.agree();
        assert!(scene.client_gets_an_answer());
        let [ordinary, redirected] = scene.encrypted(service);
        assert_eq!(ordinary, 0);
        assert!(redirected > 0);
        assert!(scene.all_arrived());
        assert!(the_rule(&scene.seed.server).departed.packets > 0);

        on(&scene.seed.server, hook, |byway| byway.flush()).unwrap();
        scene.client_gets_no_answer();
        assert!(
            wait_until(ANSWER, || scene.encrypted(service)[0] > 0),
            "the ordinary way is encrypted as well"
        );
        scene.assert_nothing_in_clear();
    });
}

/// In tunnel mode it has the address of the tunnel's end. A rule for the service's address is not about it.
#[test]
fn tunnel_mode_is_redirected_by_the_address_of_the_tunnel() {
    scenes(EspMode::Tunnel, ["10.111.220.11", "2001:db8:220::11"], |hook, addresses, end, scene| {
        scene.agree();
        scene.rule(hook, addresses.service, addresses);
        scene.client_gets_no_answer();
        assert!(wait_until(ANSWER, || scene.encrypted(end)[0] > 0), "it takes the ordinary way");
        assert_eq!(scene.encrypted(end)[1], 0);
        assert_eq!(the_rule(&scene.seed.server).departed.packets, 0);
        scene.assert_nothing_in_clear();

        scene.rule(hook, end, addresses);
        assert!(scene.client_gets_an_answer());
        assert!(scene.encrypted(end)[1] > 0);
        assert!(scene.all_arrived());
        for rule in rules(&scene.seed.server) {
            let is_for_the_end = rule.rule.selector().source() == end.to_string().parse().unwrap();
            assert_eq!(rule.departed.packets > 0, is_for_the_end, "{rule:?}");
        }
        scene.assert_nothing_in_clear();
    });
}
