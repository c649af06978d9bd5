//! The table of `byway show flows`.

use std::time::Duration;

use byway::{Flows, FlowsOfWay, WayState};

use super::{Reader, columns::Columns};

/// The ways that requests have come in by, with their flows, and what the table of flows has counted.
pub(crate) fn table(flows: &Flows, is_all: bool, reader: Reader) -> String {
    if flows.room == 0 {
        return "no flows; `byway add from any reply-to` sends replies back the way that their requests came in".to_owned();
    }
    let mut columns = Columns::<FlowsOfWay>::new(reader);
    columns
        .text("VIA", |it, to| match it.way.addresses.first() {
            Some(address) => write!(to, "{address}"),
            None => Ok(()),
        })
        .text("LLADDR", |it, to| match it.way.lladdr {
            Some(lladdr) => write!(to, "{lladdr}"),
            None => Ok(()),
        })
        .text("DEV", |it, to| to.write_str(&it.way.device.name))
        .text("STATE", |it, to| write!(to, "{}", it.state))
        .only_where(|it| it.state != WayState::Up)
        .count("NEW", |it| Some(it.new))
        .count("ANSWERED", |it| Some(it.answered))
        .count("ESTABLISHED", |it| Some(it.established))
        .text("AGE", |it, to| match it.age {
            Some(age) => write!(to, "{}", humantime::format_duration(Duration::from_secs(age))),
            None => Ok(()),
        });
    let rows: Vec<&FlowsOfWay> = flows.ways.iter().collect();
    if !is_all {
        let said = reader.count(flows.count(), "flow");
        return if rows.is_empty() { said } else { format!("{}\n\n{said}", columns.table(&rows)) };
    }
    let mut said = format!("{} of {}", reader.number(flows.count()), reader.count(flows.room, "flow"));
    said += &format!(", {} begun by this host", reader.number(flows.of_host));
    said += &format!("; {} noted", reader.number(flows.noted));
    for (number, what) in [(flows.evicted, "evicted others"), (flows.refused, "found no place")] {
        if number > 0 {
            said += &format!(", {} {what}", reader.number(number));
        }
    }
    if rows.is_empty() { said } else { format!("{}\n\n{said}", columns.table(&rows)) }
}

#[cfg(test)]
mod tests {
    use byway::{Device, LinkLayerAddress, ReplyWay};

    use super::*;

    #[test]
    fn flows_are_counted_by_their_way() {
        let mut flows = Flows::default();
        assert!(table(&flows, true, Reader::Person).starts_with("no flows; `byway add from any reply-to`"));
        (flows.room, flows.noted) = (2_097_152, 1_204);
        assert_eq!(table(&flows, false, Reader::Person), "0 flows");
        assert_eq!(
            table(&flows, true, Reader::Person),
            "0 of 2,097,152 flows, 0 begun by this host; 1,204 noted"
        );
        let mut of_way = FlowsOfWay::new(ReplyWay::new(Device { name: "wg0".into(), index: 4 }));
        (of_way.new, of_way.established, of_way.age) = (3, 1_200, Some(65));
        flows.ways.push(of_way.clone());
        of_way.way = ReplyWay::new(Device { name: "eth1".into(), index: 3 });
        of_way.way.lladdr = Some(LinkLayerAddress([2, 66, 10, 0, 0, 21]));
        of_way.way.addresses = vec!["10.111.221.21".parse().unwrap()];
        (of_way.established, of_way.age, of_way.state) = (0, None, WayState::NoCarrier);
        flows.ways.insert(0, of_way);
        (flows.of_host, flows.evicted, flows.refused) = (2, 1, 7);
        assert_eq!(
            table(&flows, true, Reader::Person),
            "\
VIA            LLADDR             DEV   STATE       NEW  ANSWERED  ESTABLISHED  AGE
10.111.221.21  02:42:0a:00:00:15  eth1  no carrier    3         0            0
                                  wg0   up            3         0        1,200  1m 5s

1,208 of 2,097,152 flows, 2 begun by this host; 1,204 noted, 1 evicted others, 7 found no place"
        );
    }
}
