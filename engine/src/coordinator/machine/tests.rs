//! Single decisions of the stepping thread, and how often it tells of them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crossbeam::channel::unbounded;
use tracing::{
    Event as LogEvent, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};
use windlass_wire::{
    DataType, Incarnation, ServerSecret, TableEntry, TableId, TableSchema, map::Chain,
    proof::Enrolled,
};

use super::{super::tables::Change, *};

const CLUSTER: u64 = 77;
const SECRET: ServerSecret = ServerSecret([1; 16]);
const OTHER_SECRET: ServerSecret = ServerSecret([2; 16]);
const LIFE: Incarnation = Incarnation(5);
const NEXT_LIFE: Incarnation = Incarnation(6);
const SERVER: ServerId = ServerId(3);
const CONNECTION: u64 = 9;

/// A coordinator that knows two servers, of which one is connected.
fn machine() -> (Machine, Receiver<Downward>) {
    let mut machine = Machine::new(
        CoordinatorConfig::new(2),
        "memory",
        Arc::new(Lead::new()),
        unbounded().0,
        unbounded().1,
    );
    machine.catalogue.cluster = CLUSTER;
    let enrolled = [(SERVER, SECRET), (ServerId(4), OTHER_SECRET)];
    let enrolled = enrolled.map(|(server, secret)| Enrolled { server, secret });
    machine.catalogue.enrolled = enrolled.into();
    let (downward, told) = unbounded();
    machine.members.insert(CONNECTION, SERVER, LIFE, false, downward);
    machine.admit(CONNECTION);
    (machine, told)
}

fn claim(server: Option<ServerId>, incarnation: Incarnation, secret: ServerSecret) -> Joining {
    let address = "10.0.0.1:7700".to_owned();
    Joining {
        server,
        cluster: CLUSTER,
        address,
        shard_count: 1,
        incarnation,
        kept: Held::Whole {},
        secret,
    }
}

fn refusal(machine: &mut Machine, joining: &Joining) -> Option<RefusalKind> {
    machine.may_claim(joining).err().map(|refusal| refusal.kind)
}

#[test]
fn a_number_is_for_who_has_its_secret() {
    let (mut machine, _told) = machine();
    machine.members.remove(CONNECTION);
    let mut asks = |server, secret| refusal(&mut machine, &claim(server, NEXT_LIFE, secret));
    assert_eq!(asks(Some(SERVER), SECRET), None);
    assert_eq!(asks(None, OTHER_SECRET), None, "who claims no number is given one");
    let wrong = Some(RefusalKind::Token {});
    assert_eq!(asks(Some(SERVER), OTHER_SECRET), wrong, "the secret of another number");
    assert_eq!(asks(Some(SERVER), ServerSecret::default()), wrong);
    for at in [0, 15] {
        let mut near = SECRET;
        near.0[at] ^= 1;
        assert_eq!(asks(Some(SERVER), near), wrong, "all of it counts, byte {at} too");
    }
    for secret in [SECRET, ServerSecret::default()] {
        assert_eq!(asks(Some(ServerId(5)), secret), wrong, "a number that nobody was given");
    }
}

#[test]
fn a_number_is_in_use_while_another_life_of_it_is_heard() {
    let (mut machine, _told) = machine();
    let is_free = |machine: &mut Machine, life| {
        let refused = refusal(machine, &claim(Some(SERVER), life, SECRET));
        assert!(matches!(refused, None | Some(RefusalKind::NoCoordinator {})), "{refused:?}");
        refused.is_none()
    };
    assert!(!is_free(&mut machine, NEXT_LIFE));
    assert!(!is_free(&mut machine, Incarnation(1)), "nor is an older one welcome");
    assert!(is_free(&mut machine, LIFE), "the same one has lost its connection");
    let other = claim(Some(ServerId(4)), NEXT_LIFE, OTHER_SECRET);
    assert_eq!(refusal(&mut machine, &other), None, "its life is another's business");

    let silence = machine.config.heartbeat_timeout;
    machine.members.get_mut(CONNECTION).unwrap().heard_at -= silence;
    assert!(is_free(&mut machine, NEXT_LIFE), "it is silent");
    machine.members.get_mut(CONNECTION).unwrap().heard_at = Instant::now() + silence;
    assert!(!is_free(&mut machine, NEXT_LIFE));
    machine.fence(SERVER, NEXT_LIFE);
    assert!(!is_free(&mut machine, NEXT_LIFE), "another life was fenced");
    machine.fence(SERVER, LIFE);
    assert!(is_free(&mut machine, NEXT_LIFE), "a fenced life is over");

    machine.members.insert(CONNECTION, SERVER, LIFE, false, unbounded().0);
    machine.members.get_mut(CONNECTION).unwrap().heard_at = Instant::now() + silence;
    assert!(is_free(&mut machine, NEXT_LIFE), "a life that was not taken in yet");
}

#[test]
fn a_rule_is_not_said_to_be_changed_while_a_server_may_go_by_the_old_one() {
    let (mut machine, _told) = machine();
    let schema =
        TableSchema { rule: "sgd:lr=1".parse().unwrap(), ..TableSchema::sparse(DataType::F32, 1) };
    machine.catalogue.tables = vec![TableEntry { id: TableId(1), name: "t".to_owned(), schema }];
    let mut orders = 0;
    let mut change = |machine: &mut Machine, servers: &[ServerId]| {
        let chain = Chain { servers: servers.to_vec(), ..Chain::default() };
        Arc::make_mut(&mut machine.map).chains = vec![chain];
        let (answer, answered) = unbounded();
        machine.alter_table("t".to_owned(), Change::Rule("lr=0.5".to_owned()), answer);
        assert!(answered.is_empty(), "nobody is told before it is stored");
        machine.catalogue_stored = machine.catalogue.version;
        machine.tables_stored();
        assert!(answered.is_empty(), "server {SERVER} is asked");
        orders += 1;
        machine.table_answered(CONNECTION, orders, None);
        answered.try_recv().unwrap()
    };
    let Refusal { kind, text } = change(&mut machine, &[SERVER, ServerId(4)]).unwrap_err();
    assert_eq!(kind, RefusalKind::NoCoordinator {}, "clients ask again");
    assert!(text.contains("server 4 is out of"), "{text}");
    let done = change(&mut machine, &[SERVER]);
    let Ok(ClientReply::Table { table }) = done else { panic!("{done:?}") };
    assert_eq!(table.schema.rule, "sgd:lr=0.5".parse().unwrap());
    assert_eq!(table.schema.rule_at_creation(), "sgd:lr=1".parse().unwrap());
}

/// Counts log lines that contain a text.
struct Lines {
    text: &'static str,
    count: Arc<AtomicUsize>,
}

impl Subscriber for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &LogEvent<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        self.count.fetch_add(usize::from(message.0.contains(self.text)), Ordering::Relaxed);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// How many lines that contain `text` something logs, and how many it may: one a second.
fn lines(text: &'static str, what: impl FnOnce()) -> (usize, usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    tracing::subscriber::with_default(Lines { text, count: Arc::clone(&count) }, what);
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    (count.load(Ordering::Relaxed), 1 + seconds)
}

#[test]
fn a_life_that_is_fenced_again_and_again_is_logged_once_a_second() {
    let (mut machine, told) = machine();
    let (logged, most) = lines("is fenced", || {
        for _ in 0..200 {
            machine.fence(SERVER, LIFE);
        }
    });
    assert!((1..=most).contains(&logged), "{logged} lines");
    let is_fence = |downward: &Downward| match downward {
        Downward::Order(order) => matches!(order.order.instruction, Instruction::Fence { .. }),
        Downward::Reply(_) => false,
    };
    assert_eq!(told.try_iter().filter(is_fence).count(), 200, "it is told each time");
}

#[test]
fn claims_to_a_servers_number_are_logged_once_a_second() {
    let (mut machine, _told) = machine();
    let (logged, most) = lines("claim to a server's number", || {
        for secret in [SECRET, OTHER_SECRET].repeat(100) {
            machine.may_claim(&claim(Some(SERVER), NEXT_LIFE, secret)).unwrap_err();
        }
    });
    assert!((1..=most).contains(&logged), "{logged} lines");
}
