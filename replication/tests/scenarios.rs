//! Golden scenarios: `scenarios/*.txt` hold steps, a line `---`, and the trace they must give.
//! `UPDATE_SCENARIOS=1 cargo test -p windlass-replication --test scenarios` writes the traces anew.
//!
//! ```text
//! map 2: a b | learner d | unsettled | hold 50 | to a d    a new chain, given to its servers (or to some)
//! push a 1.3                session 1 pushes sequence 3 (the one before it being 2) to a, in its own record
//! retry a 1.3               the same, again
//! run | run a>b             deliver all messages | one link's
//! drop a>b | kill c         lose what is under way | a server and all it sent and would receive
//! connect a b               a new link between two servers
//! release b 2               b's log no longer holds records before 2
//! copy d                    d's block copy from its feeder ends
//! sync a                    pushes from now on must be durable | durable a 3: its disk holds up to 3
//! lose d                    d's memory is lost: it starts anew | now 100: time | show: where everybody is
//! ask                       everything that a replica answers, of all
//! ```
//!
//! `walk_*.txt` are drawn at random: steps in an order that nobody would have thought of.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use windlass_replication::{
    Admission, ChainView, Covered, Input, Lane, Output, Push, RecordHeader, Replica, ReplicaLimits,
    Time,
};
use windlass_wire::{Epoch, Incarnation, Lsn, PartitionId, Sequence, ServerId, SessionId};

#[derive(Clone)]
struct Record {
    lsn: Lsn,
    epoch: Epoch,
    sync: bool,
    covered: Vec<Covered>,
}

enum Message {
    Records(Epoch, Vec<Record>),
    Output(Output),
}

struct World {
    replicas: BTreeMap<char, Replica>,
    logs: BTreeMap<char, Vec<Record>>,
    links: BTreeMap<(char, char), VecDeque<Message>>,
    feeders: BTreeMap<char, (char, Lsn)>,
    now: Time,
    sync: bool,
    trace: String,
}

fn id(name: char) -> ServerId {
    ServerId(u32::from(name))
}

fn name(id: ServerId) -> char {
    char::from_u32(id.0).unwrap()
}

fn server(text: &str) -> char {
    text.trim().chars().next().expect("a server is one letter")
}

impl World {
    fn new() -> Self {
        Self {
            replicas: BTreeMap::new(),
            logs: BTreeMap::new(),
            links: BTreeMap::new(),
            feeders: BTreeMap::new(),
            now: Time(0),
            sync: false,
            trace: String::new(),
        }
    }

    fn step(&mut self, at: char, input: Input<'_>) {
        let mut outputs = Vec::new();
        let Some(replica) = self.replicas.get_mut(&at) else { return };
        if let Err(error) = replica.step(self.now, input, &mut outputs) {
            writeln!(self.trace, "{at}: refused: {error}").unwrap();
        }
        for output in outputs {
            self.output(at, output);
        }
    }

    fn output(&mut self, at: char, output: Output) {
        let (text, to) = match output {
            Output::Apply { first, last } => (format!("apply {first}..={last}"), None),
            Output::Forward { to, first, last, .. } => {
                (format!("forward {first}..={last} to {}", name(to)), Some(to))
            }
            Output::ReportCommitted { to, lsn, .. } => {
                (format!("committed {lsn} to {}", name(to)), Some(to))
            }
            Output::Acknowledge { up_to } => (format!("ACKNOWLEDGE up to {up_to}"), None),
            Output::Report { to, position, .. } => {
                let text = position.map_or("nothing".into(), |p| format!("{}@{}", p.lsn, p.epoch));
                (format!("report {text} to {}", name(to)), Some(to))
            }
            Output::AskReport { to, .. } => (format!("ask {}", name(to)), Some(to)),
            Output::Welcome { to, last, .. } => {
                (format!("welcome {} to {last}", name(to)), Some(to))
            }
            Output::CopyFrom { to, start, .. } => {
                (format!("copy-from {} to {}", start.lsn, name(to)), Some(to))
            }
            Output::StartCopy { from, start } => {
                self.feeders.insert(at, (name(from), start));
                self.logs.insert(at, Vec::new());
                (format!("start copy from {} at {start}", name(from)), None)
            }
            Output::CaughtUp { .. } => ("CAUGHT UP".into(), None),
            Output::Synchronised { .. } => ("SYNCHRONISED".into(), None),
            Output::Refuse { to, epoch } => (format!("tell {} of epoch {epoch}", name(to)), None),
            Output::Reject { server, .. } => (format!("REJECT {}", name(server)), None),
        };
        writeln!(self.trace, "{at}: {text}").unwrap();
        let Some(to) = to else { return };
        let message = match output {
            Output::Forward { epoch, first, last, .. } => {
                let log = &self.logs[&at];
                let range = log.iter().filter(|r| r.lsn >= first && r.lsn <= last);
                Message::Records(epoch, range.cloned().collect())
            }
            other => Message::Output(other),
        };
        self.links.entry((at, name(to))).or_default().push_back(message);
    }

    fn deliver(&mut self, link: (char, char)) -> bool {
        let Some(message) = self.links.get_mut(&link).and_then(VecDeque::pop_front) else {
            return false;
        };
        let (from, at) = (id(link.0), link.1);
        match message {
            Message::Records(epoch, records) => {
                for record in records {
                    let log = self.logs.entry(at).or_default();
                    let before = self.replicas.get(&at).map(|r| r.log().last());
                    if before == Some(Lsn(record.lsn.0 - 1)) {
                        log.retain(|held| held.lsn < record.lsn);
                        log.push(record.clone());
                    }
                    let header = RecordHeader {
                        lsn: record.lsn,
                        epoch: record.epoch,
                        sync: record.sync,
                        covered: &record.covered,
                        expired: &[],
                    };
                    self.step(at, Input::Record { from, epoch, record: header });
                }
            }
            Message::Output(output) => {
                let input = match output {
                    Output::ReportCommitted { epoch, lsn, .. } => {
                        Input::Committed { from, epoch, lsn }
                    }
                    Output::Report { epoch, position, attempt, .. } => {
                        Input::Report { from, epoch, position, attempt }
                    }
                    Output::AskReport { epoch, .. } => Input::AskReport { from, epoch },
                    Output::Welcome { epoch, last, .. } => Input::Welcome { from, epoch, last },
                    Output::CopyFrom { epoch, start, .. } => Input::CopyFrom { from, epoch, start },
                    other => unreachable!("{other:?} is no message"),
                };
                self.step(at, input);
            }
        }
        true
    }

    fn push(&mut self, at: char, text: &str) {
        let (session, sequence) = text.trim().split_once('.').unwrap();
        let covered = Covered {
            session: SessionId(session.parse().unwrap()),
            incarnation: Incarnation(1),
            lane: Lane(0),
            sequence: Sequence(sequence.parse().unwrap()),
        };
        let push = Push {
            session: covered.session,
            incarnation: covered.incarnation,
            lane: covered.lane,
            sequence: covered.sequence,
            previous: Some(Sequence(covered.sequence.0 - 1)),
        };
        let replica = self.replicas.get_mut(&at).unwrap();
        match replica.admit(&push) {
            Ok(Admission::Apply) => {
                let record = Record {
                    lsn: replica.log().last().next(),
                    epoch: replica.epoch(),
                    sync: self.sync,
                    covered: vec![covered],
                };
                self.logs.entry(at).or_default().push(record.clone());
                let header = RecordHeader {
                    lsn: record.lsn,
                    epoch: record.epoch,
                    sync: record.sync,
                    covered: &record.covered,
                    expired: &[],
                };
                self.step(at, Input::Append(header));
            }
            Ok(other) => writeln!(self.trace, "{at}: {text} is {other:?}").unwrap(),
            Err(error) => writeln!(self.trace, "{at}: refused: {error}").unwrap(),
        }
    }

    fn map(&mut self, text: &str) {
        let (epoch, rest) = text.split_once(':').unwrap();
        let mut parts = rest.split('|').map(str::trim);
        let path: Vec<char> = parts.next().unwrap().split_whitespace().map(server).collect();
        let mut view = ChainView {
            epoch: Epoch(epoch.trim().parse().unwrap()),
            path: path.iter().map(|&at| id(at)).collect(),
            tail_synchronised: true,
            learner: None,
        };
        let mut hold_until = Time(0);
        let mut to = None;
        for part in parts {
            match part.split_once(' ').unwrap_or((part, "")) {
                ("learner", at) => view.learner = Some(id(server(at))),
                ("unsettled", _) => view.tail_synchronised = false,
                ("hold", at) => hold_until = Time(at.parse().unwrap()),
                ("to", list) => to = Some(list.split_whitespace().map(server).collect::<Vec<_>>()),
                other => panic!("unknown part {other:?}"),
            }
        }
        let to = to.unwrap_or_else(|| path.into_iter().chain(view.learner.map(name)).collect());
        for at in to {
            self.replicas
                .entry(at)
                .or_insert_with(|| Replica::new(PartitionId(0), id(at), ReplicaLimits::default()));
            self.step(at, Input::Configure { chain: &view, hold_until });
        }
    }

    fn run(&mut self, text: &str) {
        if let Some((from, to)) = text.split_once('>') {
            while self.deliver((server(from), server(to))) {}
            return;
        }
        while let Some(link) =
            self.links.iter().find(|(_, queue)| !queue.is_empty()).map(|(link, _)| *link)
        {
            self.deliver(link);
        }
    }

    fn ask(&mut self) {
        let everybody = ChainView {
            epoch: Epoch(99),
            path: self.replicas.keys().map(|&at| id(at)).collect(),
            tail_synchronised: true,
            learner: None,
        };
        for (at, replica) in &self.replicas {
            let (trace, log) = (&mut self.trace, replica.log());
            let place = (replica.role(), replica.is_head(), replica.is_tail());
            let is = (replica.is_synchronised(), replica.is_readable(), replica.has_room());
            let lsns = [log.first(), log.last(), log.committed(), replica.needed_from()];
            let inflight = replica.inflight_count();
            writeln!(trace, "{at}: {place:?} {is:?} {lsns:?}, {inflight} in flight").unwrap();
            let alone = (replica.is_alone(), replica.unrecorded_count());
            let (position, wakes) = (replica.position(), replica.wakes_at(self.now));
            writeln!(trace, "   {alone:?} {position:?}, wakes {wakes:?}").unwrap();
            let (needs, removed) = (replica.learner_needs(), replica.removed_tail(&everybody));
            let pending = replica.pending_report();
            writeln!(trace, "   needs {needs:?} removed {removed:?} pending {pending:?}").unwrap();
        }
    }

    fn line(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "map" => self.map(rest),
            "push" | "retry" => self.push(server(rest), &rest[2..]),
            "run" => self.run(rest),
            "drop" => {
                let (from, to) = rest.split_once('>').unwrap();
                self.links.remove(&(server(from), server(to)));
            }
            "kill" => {
                let gone = server(rest);
                self.replicas.remove(&gone);
                self.links.retain(|link, _| link.0 != gone && link.1 != gone);
            }
            "lose" => {
                let at = server(rest);
                self.links.retain(|link, _| link.0 != at && link.1 != at);
                self.logs.remove(&at);
                let new = Replica::new(PartitionId(0), id(at), ReplicaLimits::default());
                self.replicas.insert(at, new);
            }
            "connect" => {
                let (a, b) = rest.split_once(' ').unwrap();
                let (a, b) = (server(a), server(b));
                self.links.remove(&(a, b));
                self.links.remove(&(b, a));
                self.step(a, Input::Connected { peer: id(b) });
                self.step(b, Input::Connected { peer: id(a) });
            }
            "copy" => {
                let at = server(rest);
                let Some(&(feeder, start)) = self.feeders.get(&at) else { return };
                let Some(feeder) = self.replicas.get(&feeder) else { return };
                let (through, sessions) = (feeder.log().last(), feeder.sessions().clone());
                self.step(at, Input::CopyFinished { start, through, sessions: &sessions });
            }
            "sync" => self.sync = true,
            "durable" => {
                let lsn = Lsn(rest[2..].trim().parse().unwrap());
                self.step(server(rest), Input::Durable { lsn });
            }
            "release" => {
                let first = Lsn(rest[2..].trim().parse().unwrap());
                self.step(server(rest), Input::Released { first });
            }
            "ask" => self.ask(),
            "now" => {
                self.now = Time(rest.trim().parse().unwrap());
                for at in self.replicas.keys().copied().collect::<Vec<_>>() {
                    self.step(at, Input::Tick);
                }
            }
            "show" => {
                for (at, replica) in &self.replicas {
                    let (log, now) = (replica.log(), self.now);
                    let strong = if replica.is_strong(now) { ", strong" } else { "" };
                    let text = format!(
                        "{:?} holds {}, committed {}",
                        replica.role(),
                        log.last(),
                        log.committed()
                    );
                    writeln!(self.trace, "{at} is {text}{strong}").unwrap();
                }
            }
            other => panic!("unknown step {other}"),
        }
    }
}

fn play(steps: &str) -> String {
    let mut world = World::new();
    for line in steps.lines().map(|line| line.split('#').next().unwrap().trim()) {
        if !line.is_empty() {
            writeln!(world.trace, "> {line}").unwrap();
            world.line(line);
        }
    }
    world.trace
}

#[test]
fn golden_scenarios() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 8, "the scenarios are there");
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let mut failed = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let (steps, expected) = text.split_once("---\n").unwrap_or((&text, ""));
        let trace = play(steps);
        if update {
            std::fs::write(&path, format!("{steps}---\n{trace}")).unwrap();
        } else if trace != expected {
            failed.push(format!("{}:\n{trace}", path.display()));
        }
    }
    assert!(failed.is_empty(), "traces differ:\n{}", failed.join("\n"));
}
