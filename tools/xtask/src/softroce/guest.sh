#!/bin/bash
# Runs inside the virtual machine: makes the RDMA devices, runs the command, leaves its status.
# usage: setup.sh RUN_FOLDER lo|pair
run=$1
topology=$2
exec >"$run/output" 2>&1 </dev/null

# The caches of the host's root user are not writable here.
export HOME=/tmp/guest-home TMPDIR=/tmp
mkdir -p "$HOME"
export PATH=$PATH:/usr/sbin:/sbin
export WINDLASS_REQUIRE_VERBS=1 WINDLASS_SOFTROCE_GUEST=1
ulimit -n 65536

fail() {
    echo "guest: $*"
    dmesg | tail -n 30
    echo 125 >"$run/status"
    exit 125
}

make_loopback() {
    rdma link add rxe0 type rxe netdev lo || fail "cannot make an rxe device on lo"
    export WINDLASS_VERBS_DEVICE=rxe0
}

# Two interfaces with real packets between them inside one namespace (rxe does not cross
# namespaces before 6.10): each side's own address must look foreign to the other, so the
# local table is asked only for packets that come in.
make_pair() {
    ip link add va mtu 4200 type veth peer name vb mtu 4200 || fail "cannot make a veth pair"
    ip addr add 10.99.0.1/32 dev va
    ip addr add 10.99.0.2/32 dev vb
    for side in all va vb; do
        sysctl -qw "net.ipv4.conf.$side.rp_filter=0" "net.ipv4.conf.$side.accept_local=1"
    done
    ip link set va up
    ip link set vb up
    ip neigh replace 10.99.0.2 lladdr "$(cat /sys/class/net/vb/address)" dev va nud permanent
    ip neigh replace 10.99.0.1 lladdr "$(cat /sys/class/net/va/address)" dev vb nud permanent
    ip route add 10.99.0.2/32 dev va src 10.99.0.1 table 101
    ip route add 10.99.0.1/32 dev vb src 10.99.0.2 table 102
    ip rule add pref 1 iif va lookup local
    ip rule add pref 2 iif vb lookup local
    ip rule add pref 5 oif va lookup 101
    ip rule add pref 6 oif vb lookup 102
    ip rule add pref 10 lookup local
    ip rule del pref 0
    rdma link add rxe_a type rxe netdev va || fail "cannot make an rxe device on va"
    rdma link add rxe_b type rxe netdev vb || fail "cannot make an rxe device on vb"
    export WINDLASS_VERBS_DEVICE=rxe_a WINDLASS_VERBS_PEER_DEVICE=rxe_b
    export WINDLASS_VERBS_LINK=va WINDLASS_VERBS_PEER_LINK=vb WINDLASS_REQUIRE_LINK=1
}

ip link set lo up
modprobe rdma_rxe || fail "this kernel has no rdma_rxe"
modprobe ib_uverbs || fail "this kernel has no ib_uverbs"
modprobe rdma_ucm 2>/dev/null
case $topology in
    pair) make_loopback; make_pair ;;
    *) make_loopback ;;
esac
for _ in $(seq 50); do
    [ -e /dev/infiniband/uverbs0 ] && break
    sleep 0.1
done
[ -e /dev/infiniband/uverbs0 ] || fail "no /dev/infiniband/uverbs0 appeared"

bash "$run/command.sh"
status=$?
if [ $status -ne 0 ]; then
    echo "guest: the command ended with status $status; the kernel's last words:"
    dmesg | tail -n 15
fi
echo $status >"$run/status.part"
mv "$run/status.part" "$run/status"
exit $status
