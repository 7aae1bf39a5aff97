#!/bin/bash
# Verbs beside perftest, and the instructions of one push and one pull.
# usage: cargo xtask softroce --timeout 1800 -- bash benches/verbs.sh PROGRAMS [ROUNDS]
# PROGRAMS is the folder of `cargo build --release --bins -p windlass -p windlass-softroce`.
set -u
programs=$1 rounds=${2:-5} address=127.0.0.1:7797
export LC_ALL=C

echo "== the provider alone, $rounds interleaved rounds"
"$programs/softroce-perf" "$rounds"

"$programs/windlass" serve --listen $address --memory 256MiB --transports verbs --spin-us 100000 --cores 1 &
server=$!
trap 'kill -TERM $server; wait $server' EXIT
for _ in $(seq 50); do
    sleep 0.2
    "$programs/windlass" table list --connect $address >/dev/null 2>&1 && break
done

echo "== push and pull as clients do them, $rounds interleaved rounds"
for shape in "--width 2" "--width 16" "--width 128" "--width 1024" "--rows 16 --width 1024 --window 16" \
    "--rows 256 --width 1024 --window 8" "--rows 1024 --width 1024 --window 4"; do
    for operation in push pull; do
        # shellcheck disable=SC2086 # the words are arguments
        timeout 200 taskset -c 0 "$programs/windlass" bench $operation $shape --connect $address \
            --transport verbs --rounds "$rounds" --json
    done
done

# Instructions in user space of the client's side, without what it waits: all functions below the
# calls that start and finish an operation, each polled about once because the emulated processor
# that counts is slower than the answer.
if command -v valgrind >/dev/null; then
    echo "== instructions of the client for one of 8 B"
    for operation in push pull; do
        counts=$(mktemp)
        taskset -c 0 valgrind --quiet --tool=callgrind --callgrind-out-file="$counts" "$programs/windlass" bench \
            $operation --width 2 --connect $address --transport verbs --rounds 1 --json >/dev/null
        awk -v operation=$operation '
            # A name is written out once, behind its number; what follows calls= is what they cost.
            /^c?fn=/ {
                number = $0; sub(/^c?fn=/, "", number); sub(/\).*/, ")", number)
                if ($0 ~ /\) /) { name = $0; sub(/^[^)]*\) /, "", name); names[number] = name }
                if (/^cfn=/) called = number
            }
            /^calls=/ { count = substr($1, 7); getline; calls[called] += count; cost[called] += $2 }
            END {
                for (number in calls)
                    if (names[number] ~ /bench::driver::Subject>::(start|finish)$/)
                        sum += cost[number] / calls[number]
                    else if (names[number] ~ /verbs::datapath::Verbs::post$/)
                        post = cost[number] / calls[number]
                printf "{\"op\":\"%s\",\"instructions\":%d,\"of_which_post_send\":%d}\n", operation, sum, post
            }' "$counts"
        rm "$counts"
    done
else
    echo "NOT RUN: instruction counts, for want of valgrind"
fi
