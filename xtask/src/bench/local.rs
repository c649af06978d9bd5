//! Measures this host's own sockets, which are bound to the address of the rule.

use std::{
    hint, io,
    net::UdpSocket,
    panic,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use byway_lab::{
    seed::{Addresses, Seed},
    stay_on_processor,
};

use super::{
    Effort,
    bulk::{FAMILIES, Hosts, WAYS},
    figures::{Chart, Figures, Series, in_turn},
    waiting,
};

const SENDS: usize = 0;
const RECEIVES: usize = 1;

/// The bytes that a datagram carries. With IPv4 it is the smallest packet that fills an Ethernet frame.
const PAYLOAD: [u8; 18] = [0x42; 18];
/// How long traffic needs to reach its full speed.
const WARM_UP: Duration = Duration::from_millis(200);
/// How long a measurement takes.
const LONG: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(300);
/// The share of lost datagrams from which on the loss is worth a note.
const MUCH: f64 = 0.01;

/// Measures datagrams and connections from the service address, in both families.
pub(super) fn measure(effort: Effort) -> Result<Vec<Chart>> {
    let (mut received, mut sent, mut connections) = (Vec::new(), Vec::new(), Vec::new());
    let mut busiest = 0.0_f64;
    for (family, addresses) in FAMILIES {
        let hosts = Hosts::new(&addresses)?;
        for (group, connected) in [(family.to_owned(), false), (format!("{family} connected"), true)] {
            let figures: Vec<[Figures; 3]> =
                in_turn(effort.rounds, &hosts.all(), |seed| datagrams(seed, &addresses, connected, effort))?;
            for (way, [came, went, waited]) in WAYS.iter().zip(figures) {
                busiest = busiest.max(waited.median());
                received.push(Series::bar(&group, way, came));
                sent.push(Series::bar(&group, way, went));
            }
        }
        let figures = in_turn(effort.rounds, &hosts.all(), |seed| connections_of(seed, &addresses, effort))?;
        connections.extend(WAYS.iter().zip(figures).map(|(way, [rate])| Series::bar(family, way, rate)));
    }
    let mut notes = lost(&sent, &received);
    notes.extend(waiting::note(busiest));
    let title = |what| format!("UDP datagrams of 18 bytes from a socket of the host itself, {what}");
    let udp = Chart::bars("local-udp", &title("received"), "datagrams/s", received);
    let title_tcp = "TCP connections, one byte each way, all on one CPU";
    Ok(vec![
        Chart { notes, ..udp },
        Chart::bars("local-udp-sent", &title("sent"), "datagrams/s", sent),
        Chart::bars("local-tcp", title_tcp, "connections/s", connections),
    ])
}

/// Returns a note on receivers that did not keep up.
fn lost(sent: &[Series], received: &[Series]) -> Vec<String> {
    let median = |series: &Series| series.points.iter().map(|point| point.figures.median()).sum::<f64>();
    let lost = |(sent, received)| (1.0 - median(received) / median(sent), received.label());
    let much = sent.iter().zip(received).map(lost).filter(|(share, _)| *share > MUCH);
    much.map(|(share, label)| format!("{label}: {:.0} % of what was sent was lost", share * 100.0)).collect()
}

/// Returns how many datagrams per second the client reads, how many the server sends, and for which share of the time other
/// work had the sender's processor.
fn datagrams(seed: &Seed, addresses: &Addresses, connected: bool, effort: Effort) -> Result<[f64; 3]> {
    let processors = thread::available_parallelism()?.get();
    ensure!(processors >= [SENDS, RECEIVES].len(), "one CPU sends and one receives: this takes two");
    let receiver = seed.client.datagram_receiver((addresses.client, 0).into())?;
    // It never sleeps. Otherwise waking it would sometimes be a part of the sender's work.
    receiver.set_nonblocking(true)?;
    let (server, to) = (&seed.server, receiver.local_addr()?);
    let (stop, sent, received) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let receives = scope.spawn(|| count_until(&stop, &receiver, addresses, &received));
        let sends = scope.spawn(|| {
            stay_on_processor(SENDS)?;
            let mut sender = server.datagram_sender(addresses.service, to, connected)?;
            waiting::noting(|| {
                while !stop.load(Relaxed) {
                    sent.fetch_add(sender.send(&PAYLOAD)? as u64, Relaxed);
                }
                Ok(())
            })
        });
        let now = || (Instant::now(), received.load(Relaxed), sent.load(Relaxed));
        thread::sleep(WARM_UP);
        let (start, received_before, sent_before) = now();
        thread::sleep(effort.choose(LONG, SHORT));
        let (end, received, sent) = now();
        stop.store(true, Relaxed);
        let ((), waited) = sends.join().unwrap_or_else(|cause| panic::resume_unwind(cause))?;
        receives.join().unwrap_or_else(|cause| panic::resume_unwind(cause))?;
        let (received, sent) = (received - received_before, sent - sent_before);
        ensure!(received > 0, "of {sent} datagrams none has come to the client");
        let seconds = (end - start).as_secs_f64();
        Ok([received as f64 / seconds, sent as f64 / seconds, waited])
    })
}

fn count_until(
    stop: &AtomicBool,
    receiver: &UdpSocket,
    addresses: &Addresses,
    received: &AtomicU64,
) -> Result<()> {
    stay_on_processor(RECEIVES)?;
    let mut buffer = [0; PAYLOAD.len() + 1];
    while !stop.load(Relaxed) {
        match receiver.recv_from(&mut buffer) {
            Ok((length, from)) => {
                ensure!(
                    from.ip() == addresses.service && buffer[..length] == PAYLOAD,
                    "another datagram has come than was sent, from {from}"
                );
                received.fetch_add(1, Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => hint::spin_loop(),
            Err(error) => return Err(error).context("receiving datagrams"),
        }
    }
    Ok(())
}

/// Returns how many connections per second the server opens to the client. One processor does all of it, because with two the
/// figure would show how soon one wakes the other.
fn connections_of(seed: &Seed, addresses: &Addresses, effort: Effort) -> Result<[f64; 1]> {
    let (server, client) = (&seed.server, &seed.client);
    let work = || -> Result<[f64; 1]> {
        stay_on_processor(SENDS)?;
        // Threads that this one starts, such as that of the service, stay on the same processor.
        let service = client.tcp_serve_in_turn((addresses.client, 0).into())?;
        let connect = |long| server.tcp_connections(addresses.service, service.address(), long);
        connect(WARM_UP)?;
        let (count, took) = connect(effort.choose(LONG, SHORT))?;
        Ok([count as f64 / took.as_secs_f64()])
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|cause| panic::resume_unwind(cause)))
}
