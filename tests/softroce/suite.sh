#!/bin/bash
# The verbs suite, run by `cargo xtask softroce` where the RDMA devices are.
# usage: suite.sh NAME=TEST_PROGRAM... bin:NAME=PROGRAM...
# Every step runs even if an earlier one fails; the exit status is the number of failures.
set -u
failures=0
declare -A programs
for argument in "$@"; do
    programs[${argument%%=*}]=${argument#*=}
done

step() {
    local name=$1 began=$SECONDS
    shift
    echo "=== $name"
    if "$@"; then
        echo "=== $name: ok ($((SECONDS - began)) s)"
    else
        echo "=== $name: FAILED with status $? ($((SECONDS - began)) s)"
        failures=$((failures + 1))
    fi
}

# perftest between a server on the first device and a client on the same: proves the device,
# not us, so that a failure below can be told from a broken machine.
perftest() {
    local program=$1
    shift
    timeout 60 "$program" -d "$WINDLASS_VERBS_DEVICE" "$@" >/dev/null 2>&1 &
    local server=$!
    sleep 1
    timeout 60 "$program" -d "$WINDLASS_VERBS_DEVICE" "$@" localhost 2>/dev/null | tail -n 3
    local status=${PIPESTATUS[0]}
    wait $server
    return "$status"
}

if command -v ib_write_lat >/dev/null; then
    step "perftest write latency, 8 B" perftest ib_write_lat -x 1 -s 8 -n 1000
    step "perftest read bandwidth, 64 KiB" perftest ib_read_bw -x 1 -s 65536 -n 300
fi
test_program() {
    # One test at a time: two spinning processes are what the emulated processors carry.
    [ -n "${programs[$1]:-}" ] && timeout 300 "${programs[$1]}" "${@:2}" --test-threads 1 --nocapture
}

step "conformance of verbs" test_program conformance verbs::
step "making and checking devices" test_program fabric_admin
step "faults" test_program faults
step "errors" test_program errors
# Real processes end to end: a server, a client, pushes acknowledged and rows pulled by verbs.
end_to_end() {
    local windlass=${programs[bin:windlass]:-} address=127.0.0.1:7799 status=1
    [ -n "$windlass" ] || return 1
    # shellcheck disable=SC2086 # the words are arguments
    "$windlass" serve --listen $address --memory 256MiB --transports verbs --spin-us 100000 --cores 1 $1 &
    local server=$!
    shift
    for _ in $(seq 50); do
        sleep 0.2
        "$windlass" table list --connect $address >/dev/null 2>&1 && status=0 && break
    done
    for operation in "$@"; do
        # shellcheck disable=SC2086 # the words are arguments
        timeout 60 "$windlass" bench $operation --connect $address --transport verbs --rounds 3 || status=1
    done
    kill -TERM $server
    wait $server
    return $status
}

step "end to end by verbs" end_to_end "" \
    "push --width 2" "pull --width 2" "push --width 1024" "pull --rows 64 --width 1024" "push --rows 256 --width 1024"
# As cards do it, where a read costs the server nothing.
step "large values fetched by the server" end_to_end "--by-reference 16KiB" "push --rows 256 --width 1024"

# Training as users run it: servers, workers, evaluation, each a process, verbs and nothing else.
train() {
    local windlass=${programs[bin:windlass]:-} folder address=127.0.0.1:7798 status=1 line
    [ -n "$windlass" ] || return 1
    folder=$(mktemp -d)
    "$windlass" gen ctr --out "$folder/train.svm" --examples 4000 --features 2000 --fields 8 \
        --eval-out "$folder/eval.svm" --eval-examples 1000 || return 1
    "$windlass" serve --listen $address --memory 256MiB --transports verbs \
        --verbs-device "$WINDLASS_VERBS_DEVICE" --verbs-retry-count 5 &
    local server=$!
    for _ in $(seq 50); do
        sleep 0.2
        "$windlass" table list --connect $address >/dev/null 2>&1 && status=0 && break
    done
    line=$(timeout 100 "$windlass" train sparse-lr --data "$folder/train.svm" \
        --eval "$folder/eval.svm" --epochs 2 --workers 2 --connect $address --transport verbs \
        --verbs-device "$WINDLASS_VERBS_DEVICE" --verbs-timeout 16 --json) || status=1
    echo "$line"
    # Better than guessing: the model has learnt from what went through the device.
    echo "$line" | grep -Eq '"auc":0\.(6|7|8|9)' || status=1
    kill -TERM $server
    wait $server
    rm -r "$folder"
    return $status
}

step "training by verbs" train
# Chains over verbs: three servers, the writers and the links between servers by nothing else; two
# servers are killed and replaced, and every acknowledged push must be there once on each replica.
chains() {
    local windlass=${programs[bin:windlass]:-}
    [ -n "$windlass" ] || return 1
    timeout 200 "$windlass" drill --transports verbs --kills 2 --writers 1 --json \
        --verbs-device "$WINDLASS_VERBS_DEVICE" --verbs-retry-count 5
}

step "chains by verbs, servers killed" chains
for name in layout peers; do
    [ -n "${programs[interop:$name]:-}" ] && step "interop: $name" test_program "interop:$name"
done
if command -v ib_write_lat >/dev/null && [ -n "${programs[bin:softroce-perf]:-}" ]; then
    step "beside perftest" timeout 200 "${programs[bin:softroce-perf]}" 1
fi
# The way taken on a host that has a device of its own, or can make one: this machine is that host.
as_host() {
    local xtask=${programs[bin:xtask]:-} test=${programs[conformance]:-} name
    [ -n "$xtask" ] && [ -n "$test" ] || return 1
    (unset WINDLASS_VERBS_DEVICE WINDLASS_VERBS_PEER_DEVICE WINDLASS_VERBS_LINK WINDLASS_REQUIRE_LINK
        "$xtask" softroce --where host -- "$test" verbs::completed_writes_are_in_place --test-threads 1) || return 1
    for name in $(rdma link show | sed -n 's|^link \([^/]*\)/.*|\1|p'); do
        rdma link delete "$name" || return 1
    done
    (unset WINDLASS_VERBS_DEVICE WINDLASS_VERBS_PEER_DEVICE WINDLASS_VERBS_LINK WINDLASS_REQUIRE_LINK
        "$xtask" softroce --where host -- "$test" verbs::completed_writes_are_in_place --test-threads 1) || return 1
    # The device it made is gone again.
    ! rdma link show | grep -q rxe_lo
}

[ -n "${WINDLASS_SOFTROCE_GUEST:-}" ] && step "directly on a host's device" as_host
echo "=== $failures failed"
exit $failures
