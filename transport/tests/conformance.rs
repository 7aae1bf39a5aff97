//! One suite of semantics for every provider: the rules of `windlass_transport::fabric`, each as a
//! case that is generic over a [`Fixture`](conformance::harness::Fixture). A provider joins with a
//! fixture and one line at the end of this file.
//!
//! A case runs two instances in two threads that talk over channels, as two processes would over
//! their control connection. Where a provider cannot run (no device), each case says so and passes.

mod conformance {
    pub mod harness;

    pub mod completion;
    pub mod order;
}

/// Instantiates every case for a fixture.
macro_rules! provider {
    ($name:ident, $fixture:ty) => {
        mod $name {
            use super::conformance::{completion, harness, order};

            provider! { @cases $fixture;
                order::commit_words_never_overtake_their_payload,
                completion::completions_come_in_posting_order,
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
