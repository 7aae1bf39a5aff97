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
# Real processes end to end: a server, a client, pushes acknowledged and rows pulled by verbs.
end_to_end() {
    local windlass=${programs[bin:windlass]:-} address=127.0.0.1:7799 status=1
    [ -n "$windlass" ] || return 1
    "$windlass" serve --listen $address --memory 256MiB --transports verbs --spin-us 100000 --cores 1 &
    local server=$!
    for _ in $(seq 50); do
        sleep 0.2
        "$windlass" table list --connect $address >/dev/null 2>&1 && status=0 && break
    done
    for operation in "push --width 2" "pull --width 2" "push --width 1024" "pull --rows 64 --width 1024"; do
        # shellcheck disable=SC2086 # the words are arguments
        timeout 60 "$windlass" bench $operation --connect $address --transport verbs --rounds 3 || status=1
    done
    kill -TERM $server
    wait $server
    return $status
}

step "end to end by verbs" end_to_end
for name in layout peers; do
    [ -n "${programs[interop:$name]:-}" ] && step "interop: $name" test_program "interop:$name"
done
if command -v ib_write_lat >/dev/null && [ -n "${programs[bin:softroce-perf]:-}" ]; then
    step "beside perftest" timeout 200 "${programs[bin:softroce-perf]}" 1
fi
echo "=== $failures failed"
exit $failures
