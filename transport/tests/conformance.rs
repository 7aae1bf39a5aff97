//! One suite of semantics for every provider: the rules of `windlass_transport::fabric`, each as a
//! case that is generic over a [`Fixture`](conformance::harness::Fixture). A provider joins with a
//! fixture and one line at the end of this file.
//!
//! A case runs two instances in two threads that talk over channels, as two processes would over
//! their control connection. Where a provider cannot run (no device), each case says so and passes.

#[allow(
    unreachable_pub,
    clippy::unwrap_used,
    missing_debug_implementations,
    reason = "test code that exports nothing, with helpers outside of test functions"
)]
mod conformance {
    pub mod harness;

    pub mod atomics;
    pub mod completion;
    pub mod connection;
    pub mod failure;
    pub mod immediates;
    pub mod order;
    pub mod process;
    pub mod protection;
    pub mod transfer;
}

/// Instantiates every case for a fixture.
macro_rules! provider {
    ($name:ident, $fixture:ty) => {
        mod $name {
            use super::conformance::{
                atomics, completion, connection, failure, harness, immediates, order, process,
                protection, transfer,
            };

            provider! { @cases $fixture;
                order::commit_words_never_overtake_their_payload,
                order::fenced_reads_begin_when_those_before_have_ended,
                completion::completions_come_in_posting_order,
                completion::completed_writes_are_in_place,
                completion::completed_reads_are_in_place,
                completion::unsignaled_requests_do_not_complete,
                completion::requests_made_at_once_are_as_those_posted,
                completion::a_full_queue_leaves_requests_in_the_batch,
                transfer::inline_payloads_of_every_length,
                transfer::payloads_of_many_lengths,
                transfer::scattered_pieces_are_gathered_in_order,
                transfer::the_most_pieces_go_through,
                transfer::zero_length_requests_succeed,
                transfer::views_show_the_peers_bytes,
                protection::writes_to_readable_memory_are_refused,
                protection::reads_of_writable_memory_are_refused,
                protection::atomics_on_other_memory_are_refused,
                protection::requests_past_the_end_are_refused,
                protection::unknown_keys_are_refused,
                protection::deregistered_keys_are_refused,
                protection::memory_registered_by_another_thread_is_like_any_other,
                protection::keys_are_good_on_one_queue_pair,
                protection::local_slices_are_checked,
                protection::nothing_lands_after_memory_was_taken_back,
                failure::requests_behind_a_failure_are_flushed,
                failure::a_failed_queue_pair_carries_nothing_out,
                failure::disconnecting_ends_both_sides,
                failure::a_dropped_instance_ends_its_queue_pairs,
                atomics::atomics_return_what_was_there,
                atomics::contended_atomics_lose_nothing,
                atomics::misaligned_atomics_are_refused,
                immediates::immediates_come_in_order_after_their_bytes,
                immediates::immediates_may_come_without_bytes,
                immediates::receives_are_bounded,
                immediates::immediates_wake_a_sleeper,
                immediates::wakers_end_a_wait,
                immediates::waits_end_in_time,
                immediates::transports_wait_together,
                connection::malformed_endpoints_are_refused,
                connection::instances_of_one_thread_connect,
                connection::stale_endpoints_are_refused,
                connection::endpoints_of_a_gone_instance_are_refused,
                connection::regions_shared_before_the_connection_can_be_used,
                connection::regions_shared_later_can_be_used_at_once,
                connection::many_queue_pairs_work_side_by_side,
                connection::local_memory_is_not_shared,
                process::the_child_of_a_death,
                process::a_killed_process_ends_its_queue_pairs,
                process::disconnecting_waits_for_nobody,
            }
        }
    };
    (@cases $fixture:ty; $($file:ident :: $case:ident,)*) => {
        $(
            #[test]
            fn $case() {
                harness::run::<$fixture>($file::$case::<$fixture>);
            }
        )*
    };
}

struct ShmFixture;

impl conformance::harness::Fixture for ShmFixture {
    type Transport = windlass_transport::shm::Shm;

    fn open() -> Result<Self::Transport, String> {
        windlass_transport::shm::Shm::open(windlass_transport::shm::ShmOptions::default())
            .map_err(|error| error.to_string())
    }
}

provider!(shm, crate::ShmFixture);

struct TcpFixture;

impl conformance::harness::Fixture for TcpFixture {
    type Transport = windlass_transport::tcp::Tcp;

    fn open() -> Result<Self::Transport, String> {
        windlass_transport::tcp::Tcp::open(windlass_transport::tcp::TcpOptions::LOOPBACK)
            .map_err(|error| error.to_string())
    }
}

provider!(tcp, crate::TcpFixture);

/// Reads go backwards, in pieces.
struct UnorderedFixture;

impl conformance::harness::Fixture for UnorderedFixture {
    type Transport = windlass_transport::tcp::Tcp;

    fn open() -> Result<Self::Transport, String> {
        let options = windlass_transport::tcp::TcpOptions {
            reads_in_order: false,
            ..windlass_transport::tcp::TcpOptions::LOOPBACK
        };
        windlass_transport::tcp::Tcp::open(options).map_err(|error| error.to_string())
    }
}

provider!(tcp_unordered, crate::UnorderedFixture);

/// Writes go backwards, in pieces, by and by.
struct LateFixture;

impl conformance::harness::Fixture for LateFixture {
    type Transport = windlass_transport::tcp::Tcp;

    fn open() -> Result<Self::Transport, String> {
        let options = windlass_transport::tcp::TcpOptions {
            writes_in_order: false,
            ..windlass_transport::tcp::TcpOptions::LOOPBACK
        };
        windlass_transport::tcp::Tcp::open(options).map_err(|error| error.to_string())
    }
}

/// The cases in which requests succeed: of those that fail, pieces fail before what was posted before them.
/// Nor does the last of many writes of one word come last.
mod tcp_late {
    use super::conformance::{
        atomics, completion, connection, harness, immediates, order, transfer,
    };

    provider! { @cases crate::LateFixture;
        order::commit_words_never_overtake_their_payload,
        order::fenced_reads_begin_when_those_before_have_ended,
        completion::completions_come_in_posting_order,
        completion::completed_writes_are_in_place,
        completion::completed_reads_are_in_place,
        completion::unsignaled_requests_do_not_complete,
        transfer::inline_payloads_of_every_length,
        transfer::payloads_of_many_lengths,
        transfer::scattered_pieces_are_gathered_in_order,
        transfer::the_most_pieces_go_through,
        transfer::zero_length_requests_succeed,
        atomics::atomics_return_what_was_there,
        atomics::contended_atomics_lose_nothing,
        immediates::immediates_come_in_order_after_their_bytes,
        immediates::immediates_may_come_without_bytes,
        immediates::immediates_wake_a_sleeper,
        connection::many_queue_pairs_work_side_by_side,
        connection::regions_shared_later_can_be_used_at_once,
    }
}

struct VerbsFixture;

impl conformance::harness::Fixture for VerbsFixture {
    type Transport = windlass_transport::verbs::VerbsTransport;

    const SLOW: bool = true;

    fn open() -> Result<Self::Transport, String> {
        let config = windlass_transport::verbs::VerbsConfig {
            // A dead peer is noticed in 50 ms.
            timeout: 8,
            ..windlass_transport::verbs::VerbsConfig::from_environment()
        };
        let opened = windlass_transport::verbs::VerbsTransport::open(config);
        match opened {
            Err(error) if std::env::var_os("WINDLASS_REQUIRE_VERBS").is_some() => {
                panic!("this run requires a verbs device: {error}")
            }
            other => other.map_err(|error| error.to_string()),
        }
    }
}

provider!(verbs, crate::VerbsFixture);
