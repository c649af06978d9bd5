//! A newer byway with the same schema has put programs on devices that this one does not know: on ingress, or of another role.
//! This one leaves them alone, with all that they need.

use std::path::{Path, PathBuf};

use aya::{
    maps::{Array, HashMap, Map, MapData},
    programs::TcAttachType,
};
use byway::{Attach, Byway, Error, Hook};
use byway_abi::{
    DIRECTION_EGRESS, DIRECTION_INGRESS, HOOK_CLSACT, HOOK_TCX, ProgramKey, ProgramRecord, ROLE_RECEPTION,
    meta,
};
use byway_lab::seed::{IPV4, Seed};

use crate::support::{ANSWER, foreign::Foreign, hooks, on, pins, via};

/// A role that no byway has yet.
const LATER: u8 = ROLE_RECEPTION + 1;

type Records = HashMap<MapData, ProgramKey, ProgramRecord>;

fn open(pin: &Path) -> Map {
    Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap()
}

fn records(folder: &Path) -> Records {
    open(&folder.join("PROGRAMS")).try_into().unwrap()
}

fn set_meta(folder: &Path, slot: u32, value: u32) {
    let mut meta: Array<MapData, u32> = open(&folder.join("META")).try_into().unwrap();
    meta.set(slot, value, 0).unwrap();
}

fn record(device: &str, hook: Hook) -> ProgramRecord {
    let mut name = [0; 16];
    name[..device.len()].copy_from_slice(device.as_bytes());
    let hook = if hook == Hook::Tcx { HOOK_TCX } else { HOOK_CLSACT };
    ProgramRecord { name, role: LATER, hook, qdisc_added: 0, reserved: 0 }
}

#[test]
fn what_a_newer_byway_has_put_on_a_device_is_left_alone() {
    for hook in hooks() {
        let seed = Seed::new().unwrap();
        seed.lab.link((&seed.server, "eth9"), (&seed.router, "eth9")).unwrap();
        seed.server.address("eth9", "10.9.0.1/24").unwrap();
        seed.router.address("eth9", "10.9.0.2/24").unwrap();
        // With clsact, both have a filter in the qdisc that this one has added.
        on(&seed.server, *hook, |byway| byway.attach(&Attach::devices(["eth0"]))).unwrap();
        let folder = PathBuf::from(pins().remove(0));
        let key = |device, direction| ProgramKey { ifindex: seed.server.ifindex(device).unwrap(), direction };
        let added = [
            (key("eth0", DIRECTION_INGRESS), record("eth0", *hook)),
            (key("eth1", DIRECTION_INGRESS), record("eth1", *hook)),
            (key("eth9", DIRECTION_EGRESS), record("eth9", *hook)),
        ];
        let programs = seed.server.run(|| {
            let attach = |device, direction, within| {
                Foreign::attach_as_byways(device, device, *hook, direction, &folder.join(within))
            };
            [
                attach("eth0", TcAttachType::Ingress, "ingress"),
                attach("eth1", TcAttachType::Ingress, "ingress"),
                attach("eth9", TcAttachType::Egress, "egress"),
            ]
        });
        for (key, record) in &added {
            records(&folder).insert(key, record, 0).unwrap();
        }
        // Records, programs and pins of links.
        let is_left_alone = |after: &str| {
            let others = [IPV4.gateway, IPV4.router, [10, 9, 0, 2].into()];
            for (((key, record), program), other) in added.iter().zip(&programs).zip(others) {
                assert_eq!(records(&folder).get(key, 0).ok(), Some(*record), "{hook} {key:?} after {after}");
                let before = program.seen();
                seed.server.ping(None, other, ANSWER).unwrap();
                assert!(program.seen() > before, "{hook} {key:?} after {after}");
                let within = if key.direction == DIRECTION_INGRESS { "ingress" } else { "egress" };
                let link = folder.join(within).join(key.ifindex.to_string());
                assert_eq!(link.exists(), *hook == Hook::Tcx, "{hook} {key:?} after {after}");
            }
        };
        let call = |call: fn(&mut Byway) -> byway::Result<()>| on(&seed.server, *hook, call);

        call(|byway| byway.add(&via("192.168.1.5", IPV4.router, "eth1")).map(drop)).unwrap();
        is_left_alone("add");
        let names = on(&seed.server, *hook, |byway| byway.attachments()).unwrap();
        let names: Vec<_> = names.iter().map(|it| it.device.name.as_str()).collect();
        assert_eq!(names, ["eth0", "eth1"]);
        // One place has room for one program.
        let refused = call(|byway| byway.attach(&Attach::devices(["eth9"])).map(drop)).unwrap_err();
        assert!(matches!(&refused, Error::UnknownProgram(device) if device == "eth9"), "{refused}");
        is_left_alone("a refused attach");
        // Another build's change that was cut off.
        set_meta(&folder, meta::CHANGING, 1);
        set_meta(&folder, meta::OBJECT, 7);
        call(|byway| byway.attach(&Attach::devices(["eth1"])).map(drop)).unwrap();
        is_left_alone("an attach that tidies");
        call(|byway| byway.flush().map(drop)).unwrap();
        is_left_alone("flush");
        call(|byway| byway.detach_all().map(drop)).unwrap();
        is_left_alone("detach");
        assert_eq!(on(&seed.server, *hook, |byway| byway.attachments()).unwrap(), []);
        assert!(folder.exists(), "the pins went that the newer byway's programs need");

        // That one takes its programs off.
        drop(programs);
        for (key, _) in &added {
            records(&folder).remove(key).unwrap();
        }
        call(|byway| byway.detach_all().map(drop)).unwrap();
        assert_eq!(pins(), Vec::<String>::new());
    }
}
