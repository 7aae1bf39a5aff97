//! One partition's chain through changes of the map, as a model small enough to be searched through.
//!
//! Three servers, two of them in the chain at first; clients that push and push again, by any map that
//! there ever was; coordinators that decide by what they read once. Messages wait in a set: they may be
//! overtaken, and delayed for ever. A server that crashes is one that does nothing any more; one that
//! is only taken for dead goes on in the belief that nothing has changed.

use std::collections::BTreeSet;

use stateright::{Model, Property};

/// What a model may do wrong, to show that it would be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Members act by a new map while links that it does not admit are still open.
    ActsBeforeFencing,
    /// A coordinator stores its map whatever is stored already.
    StoresWithoutComparing,
    /// A server that joins counts as a copy before it has what the others have.
    CountsBeforeCaughtUp,
    /// Of servers that go down together, one that was joining is taken for a copy.
    TakesUpJoining,
    /// Duplicates are told by what the head remembers, not by what is replicated.
    ForgetsSessions,
}

/// What must happen in some order of things, or the model does too little.
pub(crate) const RETURNS: &str =
    "an acknowledged push is brought back by either of a chain that went down";

/// As `RETURNS`.
pub(crate) const OUTLIVES: &str = "an acknowledged push outlives its first head";

type Server = u8;
type Push = u8;
type Epoch = u8;

const SERVERS: usize = 3;

/// The model, and how far it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reconfiguration {
    pub(crate) flaw: Option<Flaw>,
    pub(crate) pushes: u8,
    /// Maps that there may be, one after another.
    pub(crate) epochs: u8,
}

/// A chain, head first. While the last of it joins, acknowledgements wait for it, but it is no copy yet:
/// it may lack what was acknowledged before.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Map {
    epoch: Epoch,
    chain: Vec<Server>,
    joining: bool,
    /// When each server joined last.
    since: [Epoch; SERVERS],
    /// Copies that went down together, and there is no chain: any of them is enough to go on from.
    gone: Vec<Server>,
}

impl Map {
    fn copies(&self) -> &[Server] {
        if self.chain.is_empty() {
            return &self.gone;
        }
        &self.chain[..self.chain.len() - usize::from(self.joining)]
    }

    fn place(&self, server: Server) -> Option<usize> {
        self.chain.iter().position(|member| *member == server)
    }

    fn before(&self, server: Server) -> Option<Server> {
        self.place(server)?.checked_sub(1).map(|place| self.chain[place])
    }

    fn after(&self, server: Server) -> Option<Server> {
        self.chain.get(self.place(server)? + 1).copied()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Replica {
    map: Map,
    log: Vec<Push>,
    /// How much of it every copy has, as far as is known here.
    committed: usize,
    /// Pushes that this server took in as head.
    remembered: BTreeSet<Push>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Message {
    /// Where the sender's log ends, to its predecessor, which sends what is missing.
    Position {
        from: Server,
        to: Server,
        epoch: Epoch,
        end: usize,
    },
    Record {
        from: Server,
        to: Server,
        epoch: Epoch,
        at: usize,
        push: Push,
    },
    /// The receiver's log had this end when the link began.
    CaughtUp {
        to: Server,
        epoch: Epoch,
        end: usize,
    },
    Committed {
        to: Server,
        epoch: Epoch,
        end: usize,
    },
    Synchronised {
        epoch: Epoch,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    stored: Map,
    published: BTreeSet<Map>,
    replicas: [Replica; SERVERS],
    network: BTreeSet<Message>,
    acknowledged: BTreeSet<Push>,
    /// Who took a push in as head, and by which map.
    acted: BTreeSet<(Epoch, Server)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A push, for the first time or again, reaches a server that believes to be head.
    Push(Server, Push),
    Deliver(Message),
    /// A coordinator that read this map takes a server out of it.
    Remove(Map, Server),
    Join(Map, Server),
    Settle(Map),
    /// It takes all of the chain for dead at once.
    RemoveAll(Map),
    /// The first of those comes back; the others have to join anew.
    Return(Map, Server),
    Adopt(Server, Map),
}

impl State {
    fn send(&mut self, message: Message) {
        self.network.insert(message);
    }

    /// A map has reached a server: what it holds counts only if it did not join since.
    fn adopt(&mut self, server: Server, map: Map) {
        let replica = &mut self.replicas[usize::from(server)];
        if map.since[usize::from(server)] > replica.map.epoch {
            replica.log.clear();
            replica.committed = 0;
            replica.remembered.clear();
        }
        replica.map = map.clone();
        let end = replica.log.len();
        if map.place(server).is_none() {
            return;
        }
        if let Some(before) = map.before(server) {
            let position = Message::Position { from: server, to: before, epoch: map.epoch, end };
            self.send(position);
        }
        if map.chain.last() == Some(&server) {
            self.commit(server, end);
        }
    }

    /// All copies have a server's log up to here.
    fn commit(&mut self, server: Server, end: usize) {
        let replica = &mut self.replicas[usize::from(server)];
        replica.committed = replica.committed.max(end);
        let (map, end) = (replica.map.clone(), replica.committed);
        match map.before(server) {
            Some(before) => self.send(Message::Committed { to: before, epoch: map.epoch, end }),
            None => {
                let done = self.replicas[usize::from(server)].log[..end].to_vec();
                self.acknowledged.extend(done);
            }
        }
    }

    /// A record at the end of a server's log.
    fn append(&mut self, server: Server, push: Push) {
        let replica = &mut self.replicas[usize::from(server)];
        let at = replica.log.len();
        replica.log.push(push);
        let map = replica.map.clone();
        if let Some(after) = map.after(server) {
            self.send(Message::Record { from: server, to: after, epoch: map.epoch, at, push });
        }
        if map.chain.last() == Some(&server) {
            self.commit(server, at + 1);
        }
    }

    /// Stores the next map.
    fn store(&mut self, mut map: Map) {
        map.epoch += 1;
        self.stored = map.clone();
        self.published.insert(map);
    }
}

impl Reconfiguration {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn push(&self, state: &mut State, to: Server, push: Push) {
        let replica = &mut state.replicas[usize::from(to)];
        if self.has(Flaw::ForgetsSessions) {
            if !replica.remembered.insert(push) {
                return;
            }
        } else if replica.log.contains(&push) {
            // It is acknowledged when it is committed, or was.
            return;
        }
        state.acted.insert((replica.map.epoch, to));
        state.append(to, push);
    }

    fn deliver(state: &mut State, message: &Message) {
        match *message {
            Message::Position { from, to, epoch, end } => {
                let log = state.replicas[usize::from(to)].log.clone();
                for (at, push) in log.iter().copied().enumerate().skip(end) {
                    state.send(Message::Record { from: to, to: from, epoch, at, push });
                }
                state.send(Message::CaughtUp { to: from, epoch, end: log.len() });
            }
            Message::Record { to, push, .. } => state.append(to, push),
            Message::CaughtUp { to, epoch, .. } => {
                let map = &state.replicas[usize::from(to)].map;
                if map.joining && map.chain.last() == Some(&to) {
                    state.send(Message::Synchronised { epoch });
                }
            }
            Message::Committed { to, end, .. } => state.commit(to, end),
            Message::Synchronised { .. } => {}
        }
    }

    /// Whether a message does anything where it goes; what comes too early waits.
    fn counts(&self, state: &State, message: &Message) -> bool {
        let at = |server: Server| &state.replicas[usize::from(server)];
        let is_at = |server: Server, epoch| at(server).map.epoch == epoch;
        match *message {
            Message::Position { to, epoch, .. } => is_at(to, epoch),
            Message::Record { from, to, epoch, at: place, .. } => {
                let replica = at(to);
                let is_admitted = epoch == replica.map.epoch
                    && replica.map.before(to) == Some(from)
                    || self.has(Flaw::ActsBeforeFencing) && epoch < replica.map.epoch;
                is_admitted && replica.log.len() == place
            }
            Message::CaughtUp { to, epoch, end } => is_at(to, epoch) && at(to).log.len() >= end,
            Message::Committed { to, epoch, end } => {
                is_at(to, epoch) && at(to).log.len() >= end && at(to).committed < end
            }
            Message::Synchronised { .. } => false,
        }
    }

    /// What can never count again is forgotten, so that states which differ in it only are one.
    fn forget(&self, state: &mut State) {
        let replicas = &state.replicas;
        let keeps_old = self.has(Flaw::ActsBeforeFencing);
        let stored = state.stored.epoch;
        state.network.retain(|message| {
            let (to, epoch) = match *message {
                Message::Position { to, epoch, .. }
                | Message::CaughtUp { to, epoch, .. }
                | Message::Committed { to, epoch, .. } => (to, epoch),
                Message::Record { to, at, epoch, .. } => {
                    let replica = &replicas[usize::from(to)];
                    if replica.map.epoch == epoch && replica.log.len() > at {
                        return false;
                    }
                    if keeps_old {
                        return true;
                    }
                    (to, epoch)
                }
                Message::Synchronised { epoch } => return epoch == stored,
            };
            let replica = &replicas[usize::from(to)];
            replica.map.epoch <= epoch
        });
    }
}

impl Model for Reconfiguration {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let map = Map {
            epoch: 1,
            chain: vec![0, 1],
            joining: false,
            since: [1; SERVERS],
            gone: Vec::new(),
        };
        let replica = Replica {
            map: map.clone(),
            log: Vec::new(),
            committed: 0,
            remembered: BTreeSet::new(),
        };
        vec![State {
            stored: map.clone(),
            published: BTreeSet::from([map]),
            replicas: [replica.clone(), replica.clone(), replica],
            network: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            acted: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (server, replica) in (0..).zip(&state.replicas) {
            if replica.map.chain.first() == Some(&server) {
                actions.extend((0..self.pushes).map(|push| Action::Push(server, push)));
            }
            let newer = state.published.iter().filter(|map| map.epoch > replica.map.epoch);
            actions.extend(newer.map(|map| Action::Adopt(server, map.clone())));
        }
        let counts = state.network.iter().filter(|message| self.counts(state, message));
        actions.extend(counts.map(|message| Action::Deliver(message.clone())));
        for read in state.published.iter().filter(|map| map.epoch < self.epochs) {
            // What a coordinator read must still be what is stored.
            if *read != state.stored && !self.has(Flaw::StoresWithoutComparing) {
                continue;
            }
            if read.chain.is_empty() {
                let back = read.gone.iter().map(|server| Action::Return(read.clone(), *server));
                actions.extend(back);
                continue;
            }
            actions.push(Action::RemoveAll(read.clone()));
            for server in 0..3 {
                match read.place(server) {
                    Some(_) if read.copies() != [server] => {
                        actions.push(Action::Remove(read.clone(), server));
                    }
                    None if !read.joining => actions.push(Action::Join(read.clone(), server)),
                    _ => {}
                }
            }
            let told = state.network.contains(&Message::Synchronised { epoch: read.epoch });
            if read.joining && (told || self.has(Flaw::CountsBeforeCaughtUp)) {
                actions.push(Action::Settle(read.clone()));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Push(to, push) => self.push(&mut state, to, push),
            Action::Deliver(message) => {
                state.network.remove(&message);
                Self::deliver(&mut state, &message);
            }
            Action::Remove(mut map, server) => {
                map.joining &= map.chain.last() != Some(&server);
                map.chain.retain(|member| *member != server);
                state.store(map);
            }
            Action::Join(mut map, server) => {
                map.chain.push(server);
                map.joining = true;
                map.since[usize::from(server)] = map.epoch + 1;
                state.store(map);
            }
            Action::RemoveAll(mut map) => {
                let copies = map.copies().to_vec();
                let all = std::mem::take(&mut map.chain);
                map.gone = if self.has(Flaw::TakesUpJoining) { all } else { copies };
                map.joining = false;
                state.store(map);
            }
            Action::Return(mut map, server) => {
                map.gone.clear();
                map.chain = vec![server];
                state.store(map);
            }
            Action::Settle(mut map) => {
                map.joining = false;
                state.store(map);
            }
            Action::Adopt(server, map) => state.adopt(server, map),
        }
        self.forget(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn copies(state: &State) -> impl Iterator<Item = &Replica> {
            let copies = state.stored.copies().iter();
            copies.map(|at| &state.replicas[usize::from(*at)])
        }
        vec![
            Property::always("no acknowledged push is lost", |_, state: &State| {
                copies(state)
                    .all(|replica| state.acknowledged.iter().all(|push| replica.log.contains(push)))
            }),
            Property::always("no push is applied twice", |_, state: &State| {
                copies(state).all(|replica| {
                    let distinct: BTreeSet<_> = replica.log.iter().collect();
                    distinct.len() == replica.log.len()
                })
            }),
            Property::always("replicas agree", |_, state: &State| {
                let logs: Vec<_> = copies(state).map(|replica| &replica.log).collect();
                logs.windows(2)
                    .all(|two| two[0].iter().zip(two[1]).all(|(one, other)| one == other))
            }),
            Property::always("one head acts in an epoch", |_, state: &State| {
                let epochs: BTreeSet<_> = state.acted.iter().map(|(epoch, _)| epoch).collect();
                epochs.len() == state.acted.len()
            }),
            Property::sometimes(RETURNS, |_, state: &State| {
                let is_back = |map: &Map| map.chain == [1] && map.epoch == 3;
                let was_gone = state.published.iter().any(|map| map.chain.is_empty());
                !state.acknowledged.is_empty() && was_gone && is_back(&state.stored)
            }),
            Property::sometimes(OUTLIVES, |_, state: &State| {
                let newest = state.stored.copies();
                !state.acknowledged.is_empty() && !newest.contains(&0) && newest.len() == 2
            }),
        ]
    }
}
