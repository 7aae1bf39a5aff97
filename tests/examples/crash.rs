//! Cuts the power at IO points of a workload on a simulated disk, and of one that writes in groups, and says
//! what was lost; flips bits in what the groups have left. Then a whole server lives on such disks, many times, and two that hold a copy of each row.
//! `cargo xtask crash [--points N] [--lives N] [--copied-lives N] [--seed S] [--json]`.
#![allow(clippy::print_stdout, reason = "printing is what this tool does")]

use std::process::ExitCode;

use windlass_tests::crash::{
    Report,
    chained::Chained,
    crash,
    groups::{GroupReport, crash_groups, flip_in_groups},
    lives::{Lives, lives},
};

const USAGE: &str = "usage: crash [--points N] [--lives N] [--copied-lives N] [--seed S] [--json]";

struct Options {
    points: u64,
    lives: u64,
    copied_lives: u64,
    seed: u64,
    json: bool,
}

fn main() -> ExitCode {
    let Some(Options { points, lives: lives_wanted, copied_lives, seed, json }) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let Report { points, promised, checkpoints, lost, doubled, silent, refused } =
        crash(points, seed);
    let groups = crash_groups(points / 2, seed, true);
    let mut flips = GroupReport::default();
    for flip in 0..points / 10 {
        let (is_reported, found) = flip_in_groups(seed.wrapping_add(flip));
        flips.points += u64::from(is_reported);
        flips.wrong += found.partial + found.lost + found.wrong;
    }
    let data = tempfile::tempdir().expect("a directory for what is not simulated");
    // What is not as it must be ends the process, and says what it is.
    let lived = lives(data.path(), lives_wanted, seed);
    let Lives { lives, cuts, damaged, refused: refused_by_name, promised: kept, put_back, .. } =
        lived;
    let GroupReport { promised: grouped, partial, lost: lost_groups, wrong, .. } = groups;
    let data = tempfile::tempdir().expect("a directory for what is not simulated");
    let mut chained = Chained::new(data.path(), seed);
    (0..copied_lives).for_each(|_| chained.live());
    let Chained { alone, interrupted, ledger, .. } = &chained;
    let copied = ledger.promised;
    if json {
        println!(
            "{{\"points\": {points}, \"seed\": {seed}, \"promised\": {promised}, \
             \"checkpoints\": {checkpoints}, \"lost\": {lost}, \"doubled\": {doubled}, \
             \"silent\": {silent}, \"refused\": {refused}, \"lives\": {lives}, \
             \"cuts\": {cuts}, \"kept\": {kept}, \"damaged\": {damaged}, \
             \"refused_by_name\": {refused_by_name}, \"put_back\": {put_back}, \
             \"copied_lives\": {copied_lives}, \"copied\": {copied}, \"groups\": {grouped}, \
             \"groups_partial\": {partial}, \"groups_lost\": {lost_groups}, \
             \"groups_wrong\": {wrong}, \"flips_reported\": {}, \"flips_wrong\": {}}}",
            flips.points, flips.wrong
        );
    } else {
        println!(
            "{points} power cuts from seed {seed}: {promised} pushes promised to be on disk, \
             {checkpoints} checkpoints; {lost} pushes lost, {doubled} doubled, {silent} wrong \
             states unreported, {refused} partitions refused without reason"
        );
        println!(
            "{} cuts of groups: {grouped} groups promised, {partial} there in part, {lost_groups} \
             lost, {wrong} partitions wrong; of {} flipped bits {} reported, {} wrong",
            groups.points,
            points / 10,
            flips.points,
            flips.wrong
        );
        println!(
            "{lives} lives of a whole server, {cuts} of them cut at a chosen event: {kept} pushes \
             promised, none lost, doubled or halved; {refused_by_name} of {damaged} starts from \
             damaged copies refused by the name of the file, nothing missing in the others; \
             {put_back} directories were back after a cut inside their removal"
        );
        println!(
            "{copied_lives} lives of two servers with copies, of which one came back from its disk \
             alone {alone} times, and one lost its power {interrupted} times while it copied: \
             {copied} pushes promised, none lost, doubled or halved"
        );
    }
    let bad = lost + doubled + silent + refused;
    if bad + partial + lost_groups + wrong + flips.wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn options() -> Option<Options> {
    let mut options = Options { points: 1000, lives: 100, copied_lives: 10, seed: 1, json: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--points" => options.points = arguments.next()?.parse().ok()?,
            "--lives" => options.lives = arguments.next()?.parse().ok()?,
            "--copied-lives" => options.copied_lives = arguments.next()?.parse().ok()?,
            "--seed" => options.seed = arguments.next()?.parse().ok()?,
            "--json" => options.json = true,
            _ => return None,
        }
    }
    Some(options)
}
