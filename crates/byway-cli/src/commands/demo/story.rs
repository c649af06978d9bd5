//! The demo, told step by step while it happens.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anstyle::{AnsiColor, Style};
use byway::{Byway, NextHopSpec, Owner, Prefix, RuleSpec, RuleStatus, grammar};
use byway_lab::{
    Capture, Direction, Frame,
    seed::{Addresses, IPV4, IPV6, Seed},
};
use serde::Serialize;
use terminal_size::{Height, Width, terminal_size};

use crate::{
    error::Error,
    render::{Reader, count, flows, table},
};

const PORT: u16 = 30100;
/// How long the client waits for a connection. One that works takes a millisecond.
const PATIENCE: Duration = Duration::from_millis(1_200);
const TCP: u8 = 6;

const PICTURE: &str = "
   192.168.1.5 and 2001:db8:1::5 on lo
     ┌────────┐ eth1        .21 ┌────────┐                 ┌────────┐
     │ server ├─────────────────┤ router ├─────────────────┤ client │
     └───┬────┘ 10.111.221.0/24 └────────┘ 10.111.222.0/24 └────────┘
    eth0 │ 10.111.220.0/24
    ┌────┴────┐
    │ gateway │ where the server's default route leads, and nothing goes on
    └─────────┘
";

/// What the demo saw.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    ipv4: Seen,
    ipv6: Seen,
}

/// What the demo saw for one family.
#[derive(Debug, Serialize)]
struct Seen {
    /// Without a rule the client got no answer.
    failed_before: bool,
    /// The replies that went to the default gateway instead.
    lost_replies: usize,
    /// With the rule the client got its bytes back.
    worked_after: bool,
    /// How many bytes.
    bytes_back: usize,
    /// Packets that the rule has redirected, and how many of them have arrived.
    departed: u64,
    arrived: u64,
    /// With `reply-to` instead, too, the client got its bytes back.
    worked_with_reply_to: bool,
}

impl Told {
    pub(super) fn is_as_expected(&self) -> bool {
        let is_it = |seen: &&Seen| seen.failed_before && seen.worked_after && seen.worked_with_reply_to;
        [&self.ipv4, &self.ipv6].iter().all(is_it)
    }
}

/// Runs the demo, with or without text.
pub(super) fn tell(seed: &Seed, aloud: bool) -> Result<Told, Error> {
    let say = Voice { aloud, in_scenes: aloud && has_a_screen() };
    if say.in_scenes {
        say.blank_screen();
    }
    say.line(bold("A reply that leaves by the wrong way, and the cure"));
    say.line(PICTURE);
    say.line("   The client's requests reach 192.168.1.5 by the router. The server's");
    say.line("   replies follow its default route to the gateway, and are lost there.");

    let ipv4 = family(seed, &say, "IPv4", IPV4)?;
    say.next_scene(PICTURE);
    let ipv6 = family(seed, &say, "IPv6", IPV6)?;

    // The table needs the room of the picture.
    say.next_scene("");
    say.line(format!("\n{}", bold("What byway has counted")));
    let shown = seed.server.run(|| Byway::open()?.status())?;
    say.command("show");
    let rules: Vec<&RuleStatus> = shown.rules.iter().collect();
    say.indented(&table::listing(&shown, &rules, None, Reader::Person)?);
    let mut told = Told { ipv4, ipv6 };
    for (seen, addresses) in [(&mut told.ipv4, IPV4), (&mut told.ipv6, IPV6)] {
        let is_it = |status: &&RuleStatus| status.rule.source.address() == addresses.service;
        if let Some(status) = shown.rules.iter().find(is_it) {
            seen.departed = status.departed.packets;
            seen.arrived = status.arrived.packets;
        }
    }

    say.next_scene("");
    reply_to(seed, &say, &mut told)?;
    let verdict = if told.is_as_expected() {
        good("Seen: the failure before, and the success after, for IPv4 and for IPv6.")
    } else {
        bad("This is not what the demo should see: the failure before, and the success after.")
    };
    say.line(format!("\n{verdict}"));
    Ok(told)
}

/// Says how to look around in a demo that stays.
pub(super) fn look_around(seed: &Seed, aloud: bool) {
    let say = Voice { aloud, in_scenes: false };
    let (server, client) = (seed.server.netns(), seed.client.netns());
    say.line(format!("\n{}", bold("The hosts stay. Look around:")));
    say.command(&format!("--netns {server} show"));
    say.line(format!("   $ ip netns exec {server} nc -l 192.168.1.5 {PORT}      in one terminal,"));
    say.line(format!(
        "   $ ip netns exec {client} nc 192.168.1.5 {PORT}         in another: type, and see it there"
    ));
    say.command(&format!("--netns {server} show flows"));
    say.command(&format!("--netns {server} flush"));
    say.line("and remove them:");
    say.command("demo --clean");
}

/// Says that the demo has left nothing behind.
pub(super) fn end(aloud: bool) {
    let say = Voice { aloud, in_scenes: false };
    say.line("   Removed: rules, programs and hosts. Nothing is left of this on the machine.");
}

fn family(seed: &Seed, say: &Voice, name: &str, addresses: Addresses) -> Result<Seen, Error> {
    let Addresses { service, router, .. } = addresses;
    let address = SocketAddr::new(service, PORT);
    let _listener = seed.server.tcp_serve(address).map_err(Error::Demo)?;
    let at_gateway = seed.gateway.capture("eth0").map_err(Error::Demo)?;
    let said = format!("hello {service}, are you there?");

    say.line(format!("\n{}", bold(format!("{name}: the client connects to {address}"))));
    let before = seed.client.tcp_echo(None, address, said.as_bytes(), PATIENCE);
    let lost = replies(&at_gateway, &addresses);
    match &before {
        Err(_) => say.line(bad(format!("no connection within {:.1} s", PATIENCE.as_secs_f32()))),
        Ok(_) => say.line(bad("a connection, although there is no rule yet")),
    }
    let replies_lost = if lost == 1 { "1 reply".to_owned() } else { format!("{lost} replies") };
    say.line(format!(
        "     The server did answer: {replies_lost} from {service} came out of its eth0,\n     and ended at the gateway."
    ));

    say.next_scene(PICTURE);
    say.line(format!("\n{}", bold(format!("{name}: a rule for the source of the replies"))));
    say.command(&format!("add from {service} via {router} dev eth1"));
    let spec =
        RuleSpec::new(Prefix::from(service).into(), NextHopSpec::via(router).dev("eth1")).owner(Owner::CLI);
    let rule = seed.server.run(|| Byway::open()?.add(&spec))?;
    say.line(format!("   added: {rule}"));

    say.line(format!("\n{}", bold(format!("{name}: the client connects again"))));
    let start = Instant::now();
    let after = seed.client.tcp_echo(None, address, said.as_bytes(), PATIENCE);
    let took = start.elapsed();
    let worked_after = matches!(&after, Ok(heard) if heard == said.as_bytes());
    let bytes_back = after.as_ref().map_or(0, Vec::len);
    match &after {
        Ok(heard) if worked_after => {
            let heard = String::from_utf8_lossy(heard);
            say.line(good(format!(
                "connected, sent {} and got them back in {:.1} ms:",
                count(bytes_back as u64, "byte"),
                took.as_secs_f64() * 1e3,
            )));
            say.line(format!("     \"{heard}\""));
        }
        Ok(_) => say.line(bad("connected, but other bytes came back than were sent")),
        Err(error) => say.line(bad(format!("no connection: {error}"))),
    }
    Ok(Seen {
        failed_before: before.is_err(),
        lost_replies: lost,
        worked_after,
        bytes_back,
        departed: 0,
        arrived: 0,
        worked_with_reply_to: false,
    })
}

/// Tells the same story without an address.
fn reply_to(seed: &Seed, say: &Voice, told: &mut Told) -> Result<(), Error> {
    say.line(format!("\n{}", bold("The same without any address, gateway or interface")));
    say.command("flush");
    let deleted = seed.server.run(|| Byway::open()?.flush())?;
    say.line(format!("   deleted {}", count(deleted.len() as u64, "rule")));
    say.command("add from any reply-to");
    let specs = grammar::rules_of(None, &["from", "any", "reply-to"])?;
    let specs: Vec<RuleSpec> = specs.into_iter().map(|spec| spec.owner(Owner::CLI)).collect();
    let rules = seed.server.run(|| Byway::open()?.add_all(&specs))?;
    rules.iter().for_each(|rule| say.line(format!("   added: {rule}")));
    for (name, addresses, seen) in [("IPv4", IPV4, &mut told.ipv4), ("IPv6", IPV6, &mut told.ipv6)] {
        let address = SocketAddr::new(addresses.service, PORT);
        let _listener = seed.server.tcp_serve(address).map_err(Error::Demo)?;
        let said = b"hello once more";
        let heard = seed.client.tcp_echo(None, address, said, PATIENCE);
        seen.worked_with_reply_to = heard.as_ref().is_ok_and(|heard| heard == said);
        match heard {
            Ok(_) if seen.worked_with_reply_to => {
                say.line(good(format!(
                    "{name}: connected, sent {} and got them back",
                    count(said.len() as u64, "byte")
                )));
            }
            Ok(_) => say.line(bad(format!("{name}: connected, but other bytes came back than were sent"))),
            Err(error) => say.line(bad(format!("{name}: no connection: {error}"))),
        }
    }
    say.command("show flows");
    let flows = seed.server.run(|| Byway::open()?.flows(None))?;
    say.indented(&flows::table(&flows, true, Reader::Person));
    Ok(())
}

/// How many TCP segments from the service to the client have ended at the gateway.
fn replies(at_gateway: &Capture, addresses: &Addresses) -> usize {
    let is_reply = |frame: &Frame| {
        frame.direction == Direction::Incoming
            && frame.protocol() == Some(TCP)
            && frame.source() == Some(addresses.service)
            && frame.destination() == Some(addresses.client)
    };
    // The server repeats its reply, so the first one arrived long ago.
    at_gateway.count(is_reply)
}

/// Rows and columns that each scene fits into, with the line that asks to go on.
const ROWS: u16 = 24;
const COLUMNS: u16 = 80;

/// Whether a person sees the output on a screen that is large enough for a scene, and can say when to go on.
fn has_a_screen() -> bool {
    let is_large = |(columns, rows): (Width, Height)| columns.0 >= COLUMNS && rows.0 >= ROWS;
    let moves_the_cursor = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    io::stdin().is_terminal()
        && io::stdout().is_terminal()
        && moves_the_cursor
        && terminal_size().is_some_and(is_large)
}

/// Prints, or stays quiet if the output is JSON.
struct Voice {
    aloud: bool,
    /// Tells the story in scenes that fit a screen, and waits between them.
    in_scenes: bool,
}

impl Voice {
    /// Waits until the reader wants to go on, and begins a new screen with the picture.
    fn next_scene(&self, picture: &str) {
        if !self.in_scenes {
            return;
        }
        let _ = write!(anstream::stdout(), "\n   Press Enter to go on. ").and_then(|()| io::stdout().flush());
        // The end of the input lets the story go on too.
        let _ = io::stdin().read_line(&mut String::new());
        self.blank_screen();
        if !picture.is_empty() {
            self.line(picture.trim_matches('\n'));
        }
    }

    /// Scrolls what stands on the screen out of sight, so that it stays in the terminal's history.
    fn blank_screen(&self) {
        let rows = terminal_size().map_or(ROWS, |(_, rows)| rows.0);
        // Not a colour, so it does not depend on whether colours are wanted.
        let _ = write!(io::stdout(), "{}\x1b[H\x1b[J", "\n".repeat(rows.into()));
    }

    fn line(&self, text: impl Display) {
        if self.aloud {
            // If the reader has gone, run the demo to its end all the same.
            let _ = writeln!(anstream::stdout(), "{text}");
        }
    }

    /// A command as a person would type it for this program.
    fn command(&self, words: &str) {
        let program = std::env::args_os().next().unwrap_or_else(|| "byway".into());
        let program = program.to_string_lossy();
        self.line(format!("   $ {}", bold(format!("{program} {words}"))));
    }

    fn indented(&self, text: &str) {
        for line in text.lines() {
            self.line(format!("   {line}").trim_end());
        }
    }
}

fn bold(text: impl Display) -> String {
    styled(Style::new().bold(), text)
}

fn good(text: impl Display) -> String {
    format!("   {}", styled(AnsiColor::Green.on_default(), format!("✓ {text}")))
}

fn bad(text: impl Display) -> String {
    format!("   {}", styled(AnsiColor::Red.on_default(), format!("✗ {text}")))
}

fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}
