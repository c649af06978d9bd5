#!/bin/bash
# What `cargo xtask boot` tries: one phase at each boot. Packets from 192.168.1.5 leave by the default gateway (eth0, the
# first router) or, redirected, by the second router (eth1). Behind each router is an address that the other does not know, so
# an answer proves the way.
#
# A line "ok ..." or "FAILED ..." for each thing that holds or not, with what the command said; "end" comes last.

exec >/dev/ttyS1 2>&1

service=192.168.1.5
behind_first=203.0.113.1 behind_second=203.0.113.2

check() {
    local what=$1 said
    shift
    if said=$("$@" 2>&1); then
        echo "ok $what"
    else
        echo "FAILED $what: \`$*\` ended with $? and said"
        sed 's/^/    /' <<<"$said"
    fi
}

# Whether a command's output has a line like this.
says() {
    local pattern=$1 said
    shift
    said=$("$@" 2>&1)
    grep -E -- "$pattern" <<<"$said" || { echo "$said"; return 1; }
}

not() { ! "$@"; }

answers() { ping -c 5 -i 0.2 -W 5 -I "$service" "$1" | tee /dev/stderr | grep -q ' 0% packet loss'; }

# How many packets the rule has sent, and how many have arrived.
counts() {
    byway --json show | awk '
        /"rules": \[/ { is_rule = 1 }
        is_rule && /"(departed|arrived)": / { getline; gsub(/[^0-9]/, ""); counts = counts space $0; space = " " }
        END { print counts }'
}

are() { [ "$1" = "$2" ] || { echo "$1, and not $2"; return 1; }; }

no_programs() {
    # The kernel frees them some time after the last packet that ran one.
    for _ in $(seq 30); do
        bpftool prog show | grep byway || return 0
        sleep 1
    done
    return 1
}

is_completed() {
    for _ in $(seq 60); do
        byway diff | grep '^waiting: ' || return 0
        sleep 1
    done
    return 1
}

write_configuration() {
    cat >/etc/byway/byway.toml <<TOML
[[rule]]
from = "$service"
via = "10.111.221.21"
dev = "eth1"
TOML
}

upgrade() {
    check "apt installs the package without a network" apt-get install -y /previous.deb
    check "the unit is enabled" systemctl is-enabled byway
    check "nothing is attached yet" says '^no rules, attached to nothing' byway show
    check "starting the unit is no failure" systemctl start byway
    check "a configuration without a key is not applied" not systemctl is-active byway
    check "packets leave by the default gateway" answers $behind_first
    write_configuration
    check "the unit starts" systemctl start byway
    check "the unit is active" systemctl is-active byway
    check "packets leave by the rule" answers $behind_second

    local before sent arrived log=/root/ping start=$SECONDS
    before=$(counts)
    # As long as all of it takes. Each ping waits for its last answer.
    until [ -e /root/upgraded ]; do ping -c 100 -i 0.05 -W 5 -I $service $behind_second; done >$log &
    local traffic=$!
    sleep 2
    check "dpkg upgrades under traffic" dpkg -i /byway.deb
    check "the command is the new one" cmp /usr/bin/byway <(dpkg-deb --fsys-tarfile /byway.deb | tar -xO ./usr/bin/byway)
    local old new
    old=$(bpftool prog show | grep byway)
    check "the unit reloads under traffic" systemctl reload byway
    new=$(bpftool prog show | grep byway)
    check "the programs are others now" not are "$old" "$new"
    check "the unit restarts under traffic" systemctl restart byway
    touch /root/upgraded
    wait $traffic
    read -r sent arrived < <(awk '/ transmitted, / { sent += $1; arrived += $4 } END { print sent, arrived }' $log)
    echo "$sent packets were sent, and $arrived answered, in $((SECONDS - start)) s"
    check "no packet is lost" are "$arrived" "$sent"
    check "no count is lost" are "$(counts)" "$((${before% *} + sent)) $((${before#* } + sent))"
}

reboot() {
    check "the unit is active after a reboot" systemctl is-active byway
    check "the rule is back" answers $behind_second
    check "nothing differs" byway diff
    check "the journal says what was applied" says '^1 rule added' journalctl -u byway -b --no-pager -o cat
    for page in byway byway-add byway.toml; do
        check "man $page" says '^NAME' man "$page"
    done
    # With a terminal, as for a person.
    check "byway flu<TAB> in bash" says 'Usage: byway flush' \
        script -qec 'bash -il' /dev/null < <(sleep 5; printf 'byway flu\t--help\r'; sleep 10; printf 'exit\r')
    systemd-analyze security --no-pager byway.service | tail -1
    check "the unit has few rights" systemd-analyze security --no-pager --threshold=25 byway.service
    # For the next phase.
    sed -i 's/^auto eth1/#auto eth1/' /etc/network/interfaces
}

late_uplink() {
    check "eth1 is down at boot" says 'state DOWN' ip link show eth1
    check "the unit is active nevertheless" systemctl is-active byway
    check "apply said that something waits" says '^ExecMainStatus=4$' systemctl show -p ExecMainStatus byway
    check "diff says what waits" says '^waiting: ' byway diff
    # A link that is down may take the packets of a quarter of a second (README.md, docs/limits.md).
    ping -c 1 -W 1 -I $service $behind_first >/dev/null
    check "packets leave by the default gateway meanwhile" answers $behind_first
    check "ifup succeeds" ifup eth1
    check "its hook completes the rule" is_completed
    # The next probe of a next hop that was down finds that it is not, and the packets before that go the other way.
    for _ in $(seq 20); do ping -c 1 -W 1 -I $service $behind_second >/dev/null && break; done
    check "packets leave by the rule" answers $behind_second
    sed -i 's/^#auto eth1/auto eth1/' /etc/network/interfaces

    check "the BPF file system can be unmounted" umount /sys/fs/bpf
    check "its rules are gone with it" answers $behind_first
    check "the unit fails without one" not systemctl restart byway
    check "the journal says how to mount it" says 'mount -t bpf bpf /sys/fs/bpf' journalctl -u byway -b --no-pager -o cat
    check "it can be mounted so" mount -t bpf bpf /sys/fs/bpf
    check "the unit starts then" systemctl restart byway
    check "packets leave by the rule again" answers $behind_second
}

# What the agent answers to a path.
asked() {
    exec 3<>/dev/tcp/127.0.0.1/9473
    printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&3
    cat <&3
    exec 3>&-
}

# Whether the agent has said a line like this, so many times.
has_said() {
    for _ in $(seq 60); do
        [ "$(journalctl -u byway-agent -b --no-pager -o cat | grep -cE -- "$1")" -ge "${2:-1}" ] && return 0
        sleep 1
    done
    journalctl -u byway-agent -b --no-pager -o cat
    return 1
}

agent() {
    check "the agent's unit is not enabled" not systemctl is-enabled byway-agent
    check "the other unit is disabled" systemctl disable --now byway
    mkdir -p /etc/systemd/system/byway-agent.service.d
    printf '[Service]\nExecStart=\nExecStart=/usr/bin/byway run --http 127.0.0.1:9473 --guard-default-gateway\n' \
        >/etc/systemd/system/byway-agent.service.d/http.conf
    check "the agent starts, and is ready" systemctl enable --now byway-agent
    check "the agent is active" systemctl is-active byway-agent
    check "its status says what it has applied" says 'Status: "applied /etc/byway/byway.toml: ' \
        systemctl status --no-pager byway-agent
    check "packets leave by the rule" answers $behind_second
    check "it answers that it is ready" says '^ready' asked /readyz
    check "it answers with metrics" says '^byway_rules 1$' asked /metrics
    systemd-analyze security --no-pager byway-agent.service | tail -1
    check "the unit has few rights" systemd-analyze security --no-pager --threshold=25 byway-agent.service

    # Until it has followed, packets take the new route without the rule.
    ip route replace default via 10.111.221.21 dev eth1
    check "it follows the default route" has_said '^attached to eth1$'
    ip route replace default via 10.111.220.1 dev eth0
    check "it follows it back" has_said '^attached to eth0$'
    check "packets leave by the rule again" answers $behind_second

    cat >>/etc/byway/byway.toml <<TOML
[[health-check]]
via = "10.111.221.21"
dev = "eth1"
ping = "$behind_second"
interval = "200ms"
TOML
    check "it applies a health check" systemctl reload byway-agent
    ip -n second address del $behind_second/32 dev lo
    check "it takes the next hop out of service" has_said "is out of service: $behind_second has not answered"
    ip -n second address add $behind_second/32 dev lo
    check "it puts the next hop back" has_said 'is back in service'
    write_configuration

    ip -n first address del 10.111.220.1/24 dev eth2
    ip neighbour flush dev eth0
    # Whoever sends makes the kernel ask.
    ping -c 20 -i 0.2 -I $service $behind_second >/dev/null
    check "it stands in for the default gateway" has_said '^stands in for the default gateway 10.111.220.1 on eth0'
    check "packets leave by the rule meanwhile" answers $behind_second
    ip -n first address add 10.111.220.1/24 dev eth2
    check "it steps back" has_said '^no longer stands in'

    local log=/root/ping
    rm -f /root/done
    until [ -e /root/done ]; do ping -c 100 -i 0.05 -W 5 -I $service $behind_second; done >$log &
    local traffic=$!
    sleep 2
    check "it reloads" systemctl reload byway-agent
    check "it has applied the configuration again" has_said '^applied ' 3
    check "it is killed" systemctl kill --signal=KILL byway-agent
    check "it comes back" says '^NRestarts=1$' sh -c 'sleep 20; systemctl show -p NRestarts byway-agent'
    check "it is active again" systemctl is-active byway-agent
    touch /root/done
    wait $traffic
    local sent arrived
    read -r sent arrived < <(awk '/ transmitted, / { sent += $1; arrived += $4 } END { print sent, arrived }' $log)
    echo "$sent packets were sent, and $arrived answered"
    check "no packet is lost" are "$arrived" "$sent"
    check "the agent stops" systemctl disable --now byway-agent
    check "the rule stays when it stops" answers $behind_second
    rm -r /etc/systemd/system/byway-agent.service.d
    systemctl daemon-reload
    check "the other unit is enabled again" systemctl enable --now byway
}

removal() {
    check "packets leave by the rule" answers $behind_second
    check "the unit stops" systemctl stop byway
    check "the rule stays when the unit stops" answers $behind_second
    check "dpkg removes the package" dpkg -r byway
    check "the rule stays when the package is removed" answers $behind_second
    check "dpkg purges the package" dpkg -P byway
    check "packets leave by the default gateway" answers $behind_first
    check "no program is left" no_programs
    # What man(1) keeps of the pages that it has shown is not the package's.
    check "no file is left" are \
        "$(find / /sys/fs/bpf /run -xdev -name '*byway*' ! -path /byway.deb ! -path '/var/cache/man/*')" ""
    check "systemd knows no such unit" says 'could not be found' systemctl status byway
    check "apt installs the package anew" apt-get install -y /byway.deb
    check "the unit is enabled" systemctl is-enabled byway
}

"$(cat /phase)"
sync
echo end
systemctl --no-block poweroff
