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
#[allow(unused_macros, reason = "until the first provider joins")]
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

struct TcpFixture;

impl conformance::harness::Fixture for TcpFixture {
    type Transport = windlass_transport::tcp::Tcp;

    fn open() -> Result<Self::Transport, String> {
        windlass_transport::tcp::Tcp::open(windlass_transport::tcp::TcpOptions::LOOPBACK)
            .map_err(|error| error.to_string())
    }
}

provider!(tcp, crate::TcpFixture);
