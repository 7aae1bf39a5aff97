#!/bin/bash
# Verbs beside perftest, and the instructions of one push and one pull.
# usage: cargo xtask softroce --timeout 1800 -- bash benches/verbs.sh PROGRAMS [ROUNDS [WHAT...]]
# PROGRAMS is the folder of `cargo build --profile dist --bins -p windlass -p windlass-softroce`.
# WHAT is any of provider, push-BYTES, pull-BYTES (8, 64, 512, 4096, 65536, 1048576, 4194304) and
# instructions; all of them without it.
set -u
programs=$1 rounds=${2:-5} address=127.0.0.1:7797
shift $(($# < 2 ? $# : 2))
what=" $* "
export LC_ALL=C

is_wanted() { [ "$what" = "  " ] || [[ $what == *" $1 "* ]]; }

if is_wanted provider; then
    echo "== the provider alone, $rounds interleaved rounds"
    "$programs/softroce-perf" "$rounds"
fi

"$programs/windlass" serve --listen $address --memory 256MiB --transports verbs --spin-us 100000 --cores 1 &
server=$!
trap 'kill -TERM $server; wait $server' EXIT
for _ in $(seq 50); do
    sleep 0.2
    "$programs/windlass" table list --connect $address >/dev/null 2>&1 && break
done

echo "== push and pull as clients do them, $rounds interleaved rounds"
# Large ones are of a table of 64 MiB, as models are larger than a pull.
shapes="8:--width 2
64:--width 16
512:--width 128
4096:--width 1024
65536:--rows 16 --width 1024 --table-rows 16384 --window 16
1048576:--rows 256 --width 1024 --table-rows 16384 --window 8
4194304:--rows 1024 --width 1024 --table-rows 16384 --window 4"
while IFS=: read -r bytes shape; do
    for operation in push pull; do
        is_wanted "$operation-$bytes" || continue
        # shellcheck disable=SC2086 # the words are arguments
        timeout 200 taskset -c 0 "$programs/windlass" bench $operation $shape --connect $address \
            --transport verbs --rounds "$rounds" --json </dev/null
    done
done <<<"$shapes"

# Instructions in user space of the client's side: all below the calls that start an operation, and that
# finish it, of which some 250 are the bench's clock and histogram. A pull is waited for where it starts, once
# polled at least; finishing a push takes in what is polled in vain, so only a quiet host tells what it costs.
if ! is_wanted instructions; then
    exit
elif command -v valgrind >/dev/null; then
    echo "== instructions of the client for one of 8 B"
    for operation in push pull; do
        counts=$(mktemp)
        taskset -c 0 valgrind --quiet --tool=callgrind --callgrind-out-file="$counts" "$programs/windlass" bench \
            $operation --width 2 --slice-ms 1000 --connect $address --transport verbs --rounds 1 --json >/dev/null
        awk -v operation=$operation '
            # A name is written out once, behind its number; what follows calls= is what they cost.
            /^c?fn=/ {
                number = $0; sub(/^c?fn=/, "", number); sub(/\).*/, ")", number)
                if ($0 ~ /\) /) { name = $0; sub(/^[^)]*\) /, "", name); names[number] = name }
                if (/^cfn=/) called = number; else caller = names[number]
            }
            /^calls=/ {
                count = substr($1, 7); getline; calls[called] += count; cost[called] += $2
                if (caller ~ /bench::driver::slice$/ && names[called] ~ /^windlass_client::|driver::finish_oldest$/)
                    operations[called] = 1
            }
            END {
                for (number in calls)
                    if (number in operations && names[number] ~ /finish_oldest$/)
                        finish += cost[number] / calls[number]
                    else if (number in operations)
                        start += cost[number] / calls[number]
                    else if (names[number] ~ /VerbsTransport as .*::(post_send|write_now|read_now)$/ && calls[number] > most) {
                        most = calls[number]
                        post = cost[number] / calls[number]
                    }
                printf "{\"op\":\"%s\",\"start\":%d,\"of_which_post_send\":%d,\"finish\":%d}\n", operation, start, post, finish
            }' "$counts"
        rm "$counts"
    done
else
    echo "NOT RUN: instruction counts, for want of valgrind"
fi
